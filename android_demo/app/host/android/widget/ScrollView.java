package android.widget;

import android.content.Context;
import android.view.View;
import android.view.ViewGroup;

public class ScrollView extends FrameLayout {
    public ScrollView(Context context) {
        super(context);
    }

    /** As wide as the view, as {@link FrameLayout} has it where nothing else is asked for. */
    @Override
    public void addView(View child) {
        int all = ViewGroup.LayoutParams.MATCH_PARENT;
        addView(child, new MarginLayoutParams(all, all));
    }

    @Override
    protected void measureChild(View child, int widthSpec, int heightSpec) {
        child.measure(getChildMeasureSpec(widthSpec, 0, child.getLayoutParams().width),
                MeasureSpec.makeMeasureSpec(MeasureSpec.getSize(heightSpec), MeasureSpec.UNSPECIFIED));
    }
}
