package android.net;

import android.os.Parcelable;

public abstract class Uri implements Parcelable {
    public static Uri parse(String text) {
        throw new UnsupportedOperationException("the host has no documents");
    }

    public abstract String getLastPathSegment();
}
