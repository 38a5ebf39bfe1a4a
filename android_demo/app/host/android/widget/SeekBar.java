package android.widget;

import android.content.Context;

/** A bar that is moved; painted as any other. */
public class SeekBar extends ProgressBar {
    public interface OnSeekBarChangeListener {
        void onProgressChanged(SeekBar bar, int progress, boolean fromUser);

        void onStartTrackingTouch(SeekBar bar);

        void onStopTrackingTouch(SeekBar bar);
    }

    private OnSeekBarChangeListener listener;

    public SeekBar(Context context) {
        super(context, null, 0);
        setProgressTintList(android.content.res.ColorStateList.valueOf(0xFF2457C5));
    }

    public void setOnSeekBarChangeListener(OnSeekBarChangeListener changed) {
        listener = changed;
    }

    @Override
    public void setProgress(int value) {
        boolean changed = value != getProgress();
        super.setProgress(value);
        if (changed && listener != null) {
            listener.onProgressChanged(this, value, false);
        }
    }
}
