package android.graphics.drawable;

import java.awt.BasicStroke;
import java.awt.Color;
import java.awt.Graphics2D;
import java.awt.geom.RoundRectangle2D;

public class GradientDrawable extends Drawable {
    private int fill;
    private float radius;
    private int strokeWidth;
    private int stroke;

    public void setColor(int color) {
        fill = color;
    }

    public void setCornerRadius(float pixels) {
        radius = pixels;
    }

    public void setStroke(int width, int color) {
        strokeWidth = width;
        stroke = color;
    }

    @Override
    public void paint(Graphics2D graphics, int width, int height) {
        float inset = strokeWidth / 2f;
        RoundRectangle2D shape = new RoundRectangle2D.Float(inset, inset, width - strokeWidth, height - strokeWidth,
                2 * radius, 2 * radius);
        graphics.setColor(new Color(fill, true));
        graphics.fill(shape);
        if (strokeWidth > 0) {
            graphics.setColor(new Color(stroke, true));
            graphics.setStroke(new BasicStroke(strokeWidth));
            graphics.draw(shape);
        }
    }
}
