package android.widget;

import android.content.Context;
import android.graphics.Canvas;
import android.view.Gravity;

import java.awt.BasicStroke;
import java.awt.Color;
import java.awt.Graphics2D;
import java.awt.geom.RoundRectangle2D;

/** The box is drawn by the host: on a phone the system's own is there. */
public class CheckBox extends CompoundButton {
    private final float dp = getContext().getResources().getDisplayMetrics().density;

    public CheckBox(Context context) {
        super(context);
        setGravity(Gravity.CENTER_VERTICAL);
    }

    @Override
    protected int before() {
        return Math.round(32 * dp);
    }

    @Override
    protected void onDraw(Canvas canvas) {
        super.onDraw(canvas);
        Graphics2D graphics = canvas.graphics;
        float side = 18 * dp;
        float top = (getHeight() - side) / 2;
        graphics.setColor(new Color(isChecked() ? 0xFF2457C5 : 0xFF5F6875, true));
        graphics.setStroke(new BasicStroke(2 * dp));
        RoundRectangle2D box = new RoundRectangle2D.Float(6 * dp, top, side, side, 4 * dp, 4 * dp);
        if (isChecked()) {
            graphics.fill(box);
        } else {
            graphics.draw(box);
        }
    }
}
