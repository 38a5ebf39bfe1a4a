package android.content;

import android.database.Cursor;
import android.net.Uri;
import android.os.ParcelFileDescriptor;

import java.io.FileNotFoundException;
import java.io.InputStream;
import java.io.OutputStream;

public abstract class ContentResolver {
    public final ParcelFileDescriptor openFileDescriptor(Uri uri, String mode) throws FileNotFoundException {
        throw new FileNotFoundException();
    }

    public final InputStream openInputStream(Uri uri) throws FileNotFoundException {
        throw new FileNotFoundException();
    }

    public final OutputStream openOutputStream(Uri uri) throws FileNotFoundException {
        throw new FileNotFoundException();
    }

    public final Cursor query(Uri uri, String[] columns, String where, String[] arguments, String order) {
        return null;
    }

    public final Uri insert(Uri uri, ContentValues values) {
        return null;
    }

    public void takePersistableUriPermission(Uri uri, int flags) {}
}
