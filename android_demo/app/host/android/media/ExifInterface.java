package android.media;

import java.io.IOException;
import java.io.InputStream;

/** Every picture of the host is upright. */
public class ExifInterface {
    public static final String TAG_ORIENTATION = "Orientation";
    public static final int ORIENTATION_NORMAL = 1;

    public ExifInterface(InputStream file) throws IOException {
        if (file == null) {
            throw new IOException("no file");
        }
    }

    public int getAttributeInt(String tag, int otherwise) {
        return otherwise;
    }
}
