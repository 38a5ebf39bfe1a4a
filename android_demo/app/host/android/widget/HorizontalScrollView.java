package android.widget;

import android.content.Context;
import android.view.View;

public class HorizontalScrollView extends FrameLayout {
    public HorizontalScrollView(Context context) {
        super(context);
    }

    @Override
    protected void measureChild(View child, int widthSpec, int heightSpec) {
        child.measure(MeasureSpec.makeMeasureSpec(MeasureSpec.getSize(widthSpec), MeasureSpec.UNSPECIFIED),
                getChildMeasureSpec(heightSpec, 0, child.getLayoutParams().height));
    }
}
