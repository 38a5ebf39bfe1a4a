package android.content;

import android.content.res.Resources;

import java.io.File;

/** An app's surroundings. On the host its folders are below the property `host.folder`. */
public abstract class Context {
    public static final String ACTIVITY_SERVICE = "activity";
    public static final String BATTERY_SERVICE = "batterymanager";
    public static final String POWER_SERVICE = "power";

    private static final Resources RESOURCES = new Resources();

    public Resources getResources() {
        return RESOURCES;
    }

    public ContentResolver getContentResolver() {
        throw new UnsupportedOperationException("the host has no content resolver");
    }

    public File getFilesDir() {
        return new File(System.getProperty("host.folder"), "files");
    }

    public File getCacheDir() {
        return new File(System.getProperty("host.folder"), "cache");
    }

    public File getExternalFilesDir(String type) {
        return new File(System.getProperty("host.folder"), "external");
    }

    /** The host has no services. */
    public Object getSystemService(String name) {
        return null;
    }

    /** Nothing is ever said on the host. */
    public Intent registerReceiver(BroadcastReceiver receiver, IntentFilter filter) {
        return null;
    }

    public void startActivity(Intent intent) {
        throw new ActivityNotFoundException();
    }
}
