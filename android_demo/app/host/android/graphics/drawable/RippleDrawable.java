package android.graphics.drawable;

import android.content.res.ColorStateList;

import java.awt.Graphics2D;

/** Nothing is being touched in a picture: what lies below. */
public class RippleDrawable extends Drawable {
    private final Drawable content;

    public RippleDrawable(ColorStateList color, Drawable content, Drawable mask) {
        this.content = content;
    }

    @Override
    public void paint(Graphics2D graphics, int width, int height) {
        content.paint(graphics, width, height);
    }
}
