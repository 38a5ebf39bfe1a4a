package android.widget;

import android.content.Context;
import android.graphics.Bitmap;
import android.graphics.Canvas;
import android.view.View;

import java.awt.RenderingHints;

public class ImageView extends View {
    public enum ScaleType {
        FIT_CENTER
    }

    private Bitmap bitmap;

    public ImageView(Context context) {
        super(context);
    }

    public void setImageBitmap(Bitmap value) {
        bitmap = value;
    }

    public void setAdjustViewBounds(boolean adjust) {}

    public void setScaleType(ScaleType type) {}

    /** As wide as it may be, and as high as the picture then is: adjustViewBounds. */
    @Override
    protected void onMeasure(int widthSpec, int heightSpec) {
        int width = MeasureSpec.getSize(widthSpec);
        int height = bitmap == null ? 0 : width * bitmap.image.getHeight() / bitmap.image.getWidth();
        setMeasuredDimension(width, resolve(height, heightSpec, 0));
    }

    @Override
    protected void onDraw(Canvas canvas) {
        if (bitmap != null) {
            canvas.graphics.setRenderingHint(RenderingHints.KEY_INTERPOLATION,
                    RenderingHints.VALUE_INTERPOLATION_BILINEAR);
            canvas.graphics.drawImage(bitmap.image, 0, 0, getWidth(), getHeight(), null);
        }
    }
}
