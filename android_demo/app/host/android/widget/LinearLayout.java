package android.widget;

import android.content.Context;
import android.view.Gravity;
import android.view.View;
import android.view.ViewGroup;

public class LinearLayout extends ViewGroup {
    public static final int HORIZONTAL = 0;
    public static final int VERTICAL = 1;

    public static class LayoutParams extends ViewGroup.MarginLayoutParams {
        public float weight;

        public LayoutParams(int width, int height) {
            super(width, height);
        }

        public LayoutParams(int width, int height, float weight) {
            super(width, height);
            this.weight = weight;
        }
    }

    private boolean vertical;
    private int gravity;

    public LinearLayout(Context context) {
        super(context);
    }

    public void setOrientation(int orientation) {
        vertical = orientation == VERTICAL;
    }

    public void setGravity(int value) {
        gravity = value;
    }

    private static float weight(View child) {
        return child.getLayoutParams() instanceof LayoutParams ? ((LayoutParams) child.getLayoutParams()).weight : 0;
    }

    /** Along the row or column: margins, or the child and its margins. */
    private int along(View child, boolean whole) {
        MarginLayoutParams place = margins(child);
        int margin = vertical ? place.topMargin + place.bottomMargin : place.leftMargin + place.rightMargin;
        return margin + (whole ? vertical ? child.getMeasuredHeight() : child.getMeasuredWidth() : 0);
    }

    private int across(View child) {
        MarginLayoutParams place = margins(child);
        return vertical ? child.getMeasuredWidth() + place.leftMargin + place.rightMargin
                : child.getMeasuredHeight() + place.topMargin + place.bottomMargin;
    }

    /** First what has a size of its own, then by weight what is left. */
    @Override
    protected void onMeasure(int widthSpec, int heightSpec) {
        int horizontal = getPaddingLeft() + getPaddingRight();
        int upright = getPaddingTop() + getPaddingBottom();
        int room = MeasureSpec.getSize(vertical ? heightSpec : widthSpec);
        int used = vertical ? upright : horizontal;
        float weights = 0;
        for (int i = 0; i < getChildCount(); i++) {
            View child = getChildAt(i);
            if (child.getVisibility() == GONE) {
                continue;
            }
            if (weight(child) > 0) {
                weights += weight(child);
                used += along(child, false);
                continue;
            }
            measureChild(child, widthSpec, heightSpec, horizontal + (vertical ? 0 : used - horizontal),
                    upright + (vertical ? used - upright : 0));
            used += along(child, true);
        }
        int left = Math.max(0, room - used);
        int widest = 0;
        for (int i = 0; i < getChildCount(); i++) {
            View child = getChildAt(i);
            if (child.getVisibility() == GONE) {
                continue;
            }
            if (weight(child) > 0) {
                int share = MeasureSpec.makeMeasureSpec((int) (left * weight(child) / weights), MeasureSpec.EXACTLY);
                MarginLayoutParams place = margins(child);
                if (vertical) {
                    int taken = horizontal + place.leftMargin + place.rightMargin;
                    child.measure(getChildMeasureSpec(widthSpec, taken, place.width), share);
                } else {
                    int taken = upright + place.topMargin + place.bottomMargin;
                    child.measure(share, getChildMeasureSpec(heightSpec, taken, place.height));
                }
                used += along(child, true) - along(child, false);
            }
            widest = Math.max(widest, across(child));
        }
        int width = vertical ? widest + horizontal : used;
        int height = vertical ? used : widest + upright;
        setMeasuredDimension(resolve(width, widthSpec, getMinimumWidth()),
                resolve(height, heightSpec, getMinimumHeight()));
    }

    private void measureChild(View child, int widthSpec, int heightSpec, int takenWidth, int takenHeight) {
        MarginLayoutParams place = margins(child);
        child.measure(
                getChildMeasureSpec(widthSpec, takenWidth + place.leftMargin + place.rightMargin, place.width),
                getChildMeasureSpec(heightSpec, takenHeight + place.topMargin + place.bottomMargin, place.height));
    }

    @Override
    protected void onLayout(boolean changed, int l, int t, int r, int b) {
        int total = 0;
        for (int i = 0; i < getChildCount(); i++) {
            total += getChildAt(i).getVisibility() == GONE ? 0 : along(getChildAt(i), true);
        }
        int x = getPaddingLeft();
        int y = getPaddingTop();
        int innerWidth = getWidth() - getPaddingLeft() - getPaddingRight();
        int innerHeight = getHeight() - getPaddingTop() - getPaddingBottom();
        boolean middle = (gravity & Gravity.CENTER_VERTICAL) != 0;
        boolean center = (gravity & Gravity.CENTER_HORIZONTAL) != 0;
        x += !vertical && center ? Math.max(0, innerWidth - total) / 2 : 0;
        y += vertical && middle ? Math.max(0, innerHeight - total) / 2 : 0;
        for (int i = 0; i < getChildCount(); i++) {
            View child = getChildAt(i);
            if (child.getVisibility() == GONE) {
                continue;
            }
            MarginLayoutParams place = margins(child);
            int left = x + place.leftMargin + (vertical && center ? (innerWidth - across(child)) / 2 : 0);
            int top = y + place.topMargin + (!vertical && middle ? (innerHeight - across(child)) / 2 : 0);
            child.layout(left, top, left + child.getMeasuredWidth(), top + child.getMeasuredHeight());
            x += vertical ? 0 : along(child, true);
            y += vertical ? along(child, true) : 0;
        }
    }
}
