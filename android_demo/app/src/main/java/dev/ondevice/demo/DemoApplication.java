package dev.ondevice.demo;

import android.app.Application;
import android.content.ComponentCallbacks2;
import android.net.Uri;
import android.os.Handler;
import android.os.Looper;

import java.io.File;
import java.util.concurrent.Executor;

/** Holds the {@link Engine} for as long as the process lives, whatever becomes of the activity. */
public final class DemoApplication extends Application {
    private Engine engine;

    @Override
    public void onCreate() {
        super.onCreate();
        final Handler main = new Handler(Looper.getMainLooper());
        engine = new Engine(new Store(new File(getFilesDir(), "kept")), new File(getCacheDir(), "kernels").getPath(),
                new PhoneState(this), new Executor() {
                    @Override
                    public void execute(Runnable work) {
                        main.post(work);
                    }
                });
        engine.restore(new Source.Finder() {
            @Override
            public Source find(String key) {
                return key.startsWith("content:") ? new DocumentSource(getContentResolver(), Uri.parse(key))
                        : new File(key).exists() ? new Source.OfPath(key) : pushed();
            }
        });
    }

    Engine engine() {
        return engine;
    }

    /** A bundle that was put into the app's own folder, as by `adb push`. */
    private Source pushed() {
        File folder = getExternalFilesDir(null);
        File[] files = folder == null ? null : folder.listFiles();
        for (File file : files == null ? new File[0] : files) {
            if (file.getName().endsWith(".odpack") || file.getName().endsWith(".ondevice")) {
                return new Source.OfPath(file.getPath());
            }
        }
        return null;
    }

    @Override
    public void onTrimMemory(int level) {
        super.onTrimMemory(level);
        // The screen that is merely hidden is no pressure.
        if (level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND
                || level == ComponentCallbacks2.TRIM_MEMORY_RUNNING_LOW
                || level == ComponentCallbacks2.TRIM_MEMORY_RUNNING_CRITICAL) {
            engine.pressure();
        }
    }

    @Override
    public void onLowMemory() {
        super.onLowMemory();
        engine.pressure();
    }
}
