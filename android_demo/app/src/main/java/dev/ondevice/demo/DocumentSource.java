package dev.ondevice.demo;

import android.content.ContentResolver;
import android.database.Cursor;
import android.net.Uri;
import android.os.ParcelFileDescriptor;
import android.provider.OpenableColumns;

import dev.ondevice.player.Options;

import java.io.Closeable;
import java.io.IOException;

/** A bundle as one file that the system's file picker gave; it is mapped where it lies, and not copied. */
final class DocumentSource implements Source {
    private final ContentResolver resolver;
    private final Uri uri;
    private final String name;

    DocumentSource(ContentResolver resolver, Uri uri) {
        this.resolver = resolver;
        this.uri = uri;
        name = nameOf(uri, "bundle");
    }

    /** What stands last in the way to a document. */
    static String nameOf(Uri uri, String otherwise) {
        String last = uri.getLastPathSegment();
        return last == null ? otherwise : last.substring(Math.max(last.lastIndexOf('/'), last.lastIndexOf(':')) + 1);
    }

    @Override
    public String name() {
        return name;
    }

    @Override
    public String key() {
        return uri.toString();
    }

    @Override
    public Closeable open(Options options) throws IOException {
        try {
            ParcelFileDescriptor file = resolver.openFileDescriptor(uri, "r");
            if (file == null) {
                throw new IOException("the app that holds it is gone");
            }
            options.descriptor(file.getFd(), shownName());
            return file;
        } catch (SecurityException taken) {
            throw new IOException("the permission was taken back", taken);
        }
    }

    /** The provider's name for people, where it has one. */
    private String shownName() {
        String[] columns = {OpenableColumns.DISPLAY_NAME};
        try (Cursor cursor = resolver.query(uri, columns, null, null, null)) {
            if (cursor != null && cursor.moveToFirst() && cursor.getString(0) != null) {
                return cursor.getString(0);
            }
        }
        return name;
    }
}
