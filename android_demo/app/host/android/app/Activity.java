package android.app;

import android.content.ActivityNotFoundException;
import android.content.Context;
import android.content.Intent;
import android.os.Bundle;
import android.os.Handler;
import android.os.Looper;
import android.view.View;

/** A screen. On the host its life is what a test says: {@link #begin}, {@link #end}. */
public class Activity extends Context {
    public static final int RESULT_OK = -1;

    private Application application;
    private View content;

    public final Application getApplication() {
        return application;
    }

    public void setContentView(View view) {
        content = view;
    }

    public final void runOnUiThread(Runnable work) {
        new Handler(Looper.getMainLooper()).post(work);
    }

    public void startActivityForResult(Intent intent, int request) {
        throw new ActivityNotFoundException();
    }

    protected void onCreate(Bundle saved) {}

    protected void onStart() {}

    protected void onStop() {}

    protected void onSaveInstanceState(Bundle out) {}

    protected void onActivityResult(int request, int result, Intent data) {}

    /** Of the host: as the system makes an activity that can be seen. */
    public final View begin(Application of, Bundle saved) {
        application = of;
        onCreate(saved);
        onStart();
        return content;
    }

    /** Of the host: as the system takes one away. */
    public final Bundle end() {
        Bundle saved = new Bundle();
        onStop();
        onSaveInstanceState(saved);
        return saved;
    }
}
