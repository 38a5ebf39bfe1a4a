package android.widget;

import android.content.Context;

public abstract class CompoundButton extends Button {
    public interface OnCheckedChangeListener {
        void onCheckedChanged(CompoundButton button, boolean on);
    }

    private boolean checked;
    private OnCheckedChangeListener listener;

    public CompoundButton(Context context) {
        super(context);
    }

    public void setOnCheckedChangeListener(OnCheckedChangeListener changed) {
        listener = changed;
    }

    public boolean isChecked() {
        return checked;
    }

    public void setChecked(boolean value) {
        boolean changed = checked != value;
        checked = value;
        if (changed && listener != null) {
            listener.onCheckedChanged(this, value);
        }
    }
}
