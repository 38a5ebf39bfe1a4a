package android.graphics.drawable;

import java.awt.Graphics2D;

public abstract class Drawable {
    /** Of the host: into a rectangle at the origin. */
    public abstract void paint(Graphics2D graphics, int width, int height);
}
