package android.graphics.drawable;

import java.awt.Color;
import java.awt.Graphics2D;

public class ColorDrawable extends Drawable {
    private final int color;

    public ColorDrawable(int color) {
        this.color = color;
    }

    @Override
    public void paint(Graphics2D graphics, int width, int height) {
        graphics.setColor(new Color(color, true));
        graphics.fillRect(0, 0, width, height);
    }
}
