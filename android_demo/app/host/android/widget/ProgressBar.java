package android.widget;

import android.content.Context;
import android.content.res.ColorStateList;
import android.graphics.Canvas;
import android.util.AttributeSet;
import android.view.View;

import java.awt.Color;
import java.awt.Graphics2D;

/** A bar of the host's: on a phone the system's own is there. */
public class ProgressBar extends View {
    private final float dp = getContext().getResources().getDisplayMetrics().density;
    private int progress;
    private int most = 100;
    private boolean indeterminate;
    private ColorStateList tint;

    public ProgressBar(Context context, AttributeSet attributes, int style) {
        super(context);
    }

    public void setMax(int value) {
        most = value;
    }

    public void setProgress(int value) {
        progress = value;
    }

    public int getProgress() {
        return progress;
    }

    public void setIndeterminate(boolean value) {
        indeterminate = value;
    }

    public void setProgressTintList(ColorStateList value) {
        tint = value;
    }

    public void setIndeterminateTintList(ColorStateList value) {}

    @Override
    protected void onMeasure(int widthSpec, int heightSpec) {
        setMeasuredDimension(MeasureSpec.getSize(widthSpec), Math.round(16 * dp));
    }

    @Override
    protected void onDraw(Canvas canvas) {
        Graphics2D graphics = canvas.graphics;
        int high = Math.round(4 * dp);
        int top = (getHeight() - high) / 2;
        Color color = new Color(tint.getDefaultColor(), true);
        graphics.setColor(new Color(color.getRed(), color.getGreen(), color.getBlue(), 64));
        graphics.fillRoundRect(0, top, getWidth(), high, high, high);
        graphics.setColor(color);
        int from = indeterminate ? getWidth() / 3 : 0;
        int wide = indeterminate ? getWidth() / 4 : getWidth() * progress / most;
        graphics.fillRoundRect(from, top, wide, high, high, high);
    }
}
