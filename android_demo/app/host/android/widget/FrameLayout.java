package android.widget;

import android.content.Context;
import android.view.View;
import android.view.ViewGroup;

public class FrameLayout extends ViewGroup {
    public FrameLayout(Context context) {
        super(context);
    }

    @Override
    protected void onMeasure(int widthSpec, int heightSpec) {
        int widest = 0;
        int highest = 0;
        for (int i = 0; i < getChildCount(); i++) {
            View child = getChildAt(i);
            measureChild(child, widthSpec, heightSpec);
            widest = Math.max(widest, child.getMeasuredWidth());
            highest = Math.max(highest, child.getMeasuredHeight());
        }
        setMeasuredDimension(resolve(widest, widthSpec, getMinimumWidth()),
                resolve(highest, heightSpec, getMinimumHeight()));
    }

    protected void measureChild(View child, int widthSpec, int heightSpec) {
        child.measure(getChildMeasureSpec(widthSpec, 0, child.getLayoutParams().width),
                getChildMeasureSpec(heightSpec, 0, child.getLayoutParams().height));
    }

    @Override
    protected void onLayout(boolean changed, int l, int t, int r, int b) {
        for (int i = 0; i < getChildCount(); i++) {
            View child = getChildAt(i);
            child.layout(0, 0, child.getMeasuredWidth(), child.getMeasuredHeight());
        }
    }
}
