package android.view;

import android.content.Context;
import android.graphics.Canvas;

import java.util.ArrayList;
import java.util.List;

public abstract class ViewGroup extends View {
    public static class LayoutParams {
        public static final int MATCH_PARENT = -1;
        public static final int WRAP_CONTENT = -2;

        public int width;
        public int height;

        public LayoutParams(int width, int height) {
            this.width = width;
            this.height = height;
        }
    }

    public static class MarginLayoutParams extends LayoutParams {
        public int leftMargin;
        public int topMargin;
        public int rightMargin;
        public int bottomMargin;

        public MarginLayoutParams(int width, int height) {
            super(width, height);
        }
    }

    private final List<View> children = new ArrayList<View>();

    public ViewGroup(Context context) {
        super(context);
    }

    public void addView(View child) {
        addView(child, new MarginLayoutParams(LayoutParams.WRAP_CONTENT, LayoutParams.WRAP_CONTENT));
    }

    public void addView(View child, LayoutParams params) {
        child.setLayoutParams(params);
        children.add(child);
    }

    public void removeAllViews() {
        children.clear();
    }

    public int getChildCount() {
        return children.size();
    }

    public View getChildAt(int index) {
        return children.get(index);
    }

    public static int getChildMeasureSpec(int spec, int taken, int wanted) {
        int mode = MeasureSpec.getMode(spec);
        int room = Math.max(0, MeasureSpec.getSize(spec) - taken);
        if (wanted >= 0) {
            return MeasureSpec.makeMeasureSpec(wanted, MeasureSpec.EXACTLY);
        }
        if (mode == MeasureSpec.UNSPECIFIED) {
            return MeasureSpec.makeMeasureSpec(room, MeasureSpec.UNSPECIFIED);
        }
        boolean all = wanted == LayoutParams.MATCH_PARENT && mode == MeasureSpec.EXACTLY;
        return MeasureSpec.makeMeasureSpec(room, all ? MeasureSpec.EXACTLY : MeasureSpec.AT_MOST);
    }

    protected final MarginLayoutParams margins(View child) {
        return (MarginLayoutParams) child.getLayoutParams();
    }

    @Override
    protected void dispatchDraw(Canvas canvas) {
        for (View child : children) {
            child.draw(canvas);
        }
    }
}
