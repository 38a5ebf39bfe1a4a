package android.content;

import android.database.Cursor;
import android.net.Uri;
import android.os.ParcelFileDescriptor;

import java.io.FileNotFoundException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.HashSet;
import java.util.Set;

public abstract class ContentResolver {
    /** What was inserted and not deleted; the host's alone. */
    public final Set<Uri> inserted = new HashSet<Uri>();

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
        Uri row = new Uri() {
            @Override
            public String getLastPathSegment() {
                return "1";
            }
        };
        inserted.add(row);
        return row;
    }

    public final int delete(Uri uri, String where, String[] arguments) {
        return inserted.remove(uri) ? 1 : 0;
    }

    public void takePersistableUriPermission(Uri uri, int flags) {}
}
