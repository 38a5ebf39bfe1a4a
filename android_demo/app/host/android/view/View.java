package android.view;

import android.animation.StateListAnimator;
import android.content.Context;
import android.graphics.Canvas;
import android.graphics.drawable.ColorDrawable;
import android.graphics.drawable.Drawable;

import java.awt.AlphaComposite;
import java.awt.Composite;
import java.awt.Graphics2D;

/** Measured, laid out and drawn by Android's rules; into a picture instead of a window. */
public class View {
    public static final int VISIBLE = 0;
    public static final int GONE = 8;
    public static final int ACCESSIBILITY_LIVE_REGION_POLITE = 1;

    public interface OnClickListener {
        void onClick(View view);
    }

    /** What a parent asks of a size: exactly it, at most it, or whatever the child wants. */
    public static class MeasureSpec {
        public static final int UNSPECIFIED = 0;
        public static final int EXACTLY = 1073741824;
        public static final int AT_MOST = -2147483648;

        public static int makeMeasureSpec(int size, int mode) {
            return Math.max(0, size) | mode;
        }

        public static int getMode(int spec) {
            return spec & 0xC0000000;
        }

        public static int getSize(int spec) {
            return spec & 0x3FFFFFFF;
        }
    }

    private final Context context;
    private ViewGroup.LayoutParams place;
    private Drawable background;
    private OnClickListener listener;
    private int visibility;
    private boolean enabled = true;
    private float alpha = 1;
    private int minimumWidth;
    private int minimumHeight;
    private int measuredWidth;
    private int measuredHeight;
    private int left;
    private int top;
    private int width;
    private int height;
    private int paddingLeft;
    private int paddingTop;
    private int paddingRight;
    private int paddingBottom;

    public View(Context context) {
        this.context = context;
    }

    public final Context getContext() {
        return context;
    }

    public void setLayoutParams(ViewGroup.LayoutParams params) {
        place = params;
    }

    public ViewGroup.LayoutParams getLayoutParams() {
        return place;
    }

    public void setBackground(Drawable drawable) {
        background = drawable;
    }

    public void setBackgroundColor(int color) {
        background = new ColorDrawable(color);
    }

    public void setOnClickListener(OnClickListener clicked) {
        listener = clicked;
    }

    public boolean performClick() {
        if (listener == null || !enabled) {
            return false;
        }
        listener.onClick(this);
        return true;
    }

    public void setVisibility(int value) {
        visibility = value;
    }

    public int getVisibility() {
        return visibility;
    }

    public void setEnabled(boolean value) {
        enabled = value;
    }

    public void setAlpha(float value) {
        alpha = value;
    }

    public void setMinimumWidth(int pixels) {
        minimumWidth = pixels;
    }

    public void setMinimumHeight(int pixels) {
        minimumHeight = pixels;
    }

    public void setPadding(int l, int t, int r, int b) {
        paddingLeft = l;
        paddingTop = t;
        paddingRight = r;
        paddingBottom = b;
    }

    public int getPaddingLeft() {
        return paddingLeft;
    }

    public int getPaddingTop() {
        return paddingTop;
    }

    public int getPaddingRight() {
        return paddingRight;
    }

    public int getPaddingBottom() {
        return paddingBottom;
    }

    public void setContentDescription(CharSequence text) {}

    public void setAccessibilityLiveRegion(int mode) {}

    public void setFitsSystemWindows(boolean fits) {}

    public void setKeepScreenOn(boolean on) {}

    public void setStateListAnimator(StateListAnimator animator) {}

    public void setHorizontalScrollBarEnabled(boolean enabled) {}

    public void scrollTo(int x, int y) {}

    public final void measure(int widthSpec, int heightSpec) {
        onMeasure(widthSpec, heightSpec);
    }

    protected void onMeasure(int widthSpec, int heightSpec) {
        setMeasuredDimension(resolve(0, widthSpec, minimumWidth), resolve(0, heightSpec, minimumHeight));
    }

    /** Of the host: what is wanted, within what the parent allows. */
    protected static int resolve(int wanted, int spec, int least) {
        int size = Math.max(wanted, least);
        int mode = MeasureSpec.getMode(spec);
        int limit = MeasureSpec.getSize(spec);
        return mode == MeasureSpec.EXACTLY ? limit : mode == MeasureSpec.AT_MOST ? Math.min(size, limit) : size;
    }

    protected final void setMeasuredDimension(int measuredW, int measuredH) {
        measuredWidth = measuredW;
        measuredHeight = measuredH;
    }

    public final int getMeasuredWidth() {
        return measuredWidth;
    }

    public final int getMeasuredHeight() {
        return measuredHeight;
    }

    public int getMinimumWidth() {
        return minimumWidth;
    }

    public int getMinimumHeight() {
        return minimumHeight;
    }

    public final int getWidth() {
        return width;
    }

    public final int getHeight() {
        return height;
    }

    public void layout(int l, int t, int r, int b) {
        left = l;
        top = t;
        width = r - l;
        height = b - t;
        onLayout(true, l, t, r, b);
    }

    protected void onLayout(boolean changed, int l, int t, int r, int b) {}

    /** Of the host: at its place within its parent, and never outside of it. */
    public void draw(Canvas canvas) {
        if (visibility != VISIBLE) {
            return;
        }
        Graphics2D own = (Graphics2D) canvas.graphics.create(left, top, width, height);
        Composite all = own.getComposite();
        if (alpha < 1) {
            own.setComposite(AlphaComposite.getInstance(AlphaComposite.SRC_OVER, alpha));
        }
        if (background != null) {
            background.paint(own, width, height);
        }
        Canvas inside = new Canvas(own);
        onDraw(inside);
        dispatchDraw(inside);
        own.setComposite(all);
        own.dispose();
    }

    protected void onDraw(Canvas canvas) {}

    protected void dispatchDraw(Canvas canvas) {}
}
