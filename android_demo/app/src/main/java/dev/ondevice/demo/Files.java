package dev.ondevice.demo;

import android.content.ContentResolver;
import android.content.ContentValues;
import android.content.Intent;
import android.graphics.Bitmap;
import android.net.Uri;
import android.provider.MediaStore;

import java.io.IOException;
import java.io.OutputStream;

/** What leaves the app: pictures and rows. Everything but {@link #picker} and {@link #sending} is slow. */
final class Files {
    static final String PNG = "image/png";
    static final String ROWS = "application/json";
    static final String FOLDER = "Pictures/ondevice";

    private Files() {}

    /** The system's picker for a new file, where there is no common folder to write to (before Android 10). */
    static Intent picker(String type, String name) {
        return new Intent(Intent.ACTION_CREATE_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType(type)
                .putExtra(Intent.EXTRA_TITLE, name);
    }

    static Intent sending(Uri picture) {
        Intent send = new Intent(Intent.ACTION_SEND).setType(PNG).putExtra(Intent.EXTRA_STREAM, picture);
        return Intent.createChooser(send.addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION), null);
    }

    /** Into the phone's pictures; from Android 10 on no permission is needed. */
    static Uri addToPictures(ContentResolver resolver, String name, byte[] png) throws IOException {
        ContentValues values = new ContentValues();
        values.put(MediaStore.MediaColumns.DISPLAY_NAME, name);
        values.put(MediaStore.MediaColumns.MIME_TYPE, PNG);
        values.put(MediaStore.MediaColumns.RELATIVE_PATH, FOLDER);
        Uri uri = resolver.insert(MediaStore.Images.Media.EXTERNAL_CONTENT_URI, values);
        if (uri == null) {
            throw new IOException("the phone's pictures cannot be written to");
        }
        write(resolver, uri, png);
        return uri;
    }

    static void write(ContentResolver resolver, Uri uri, byte[] data) throws IOException {
        try (OutputStream out = resolver.openOutputStream(uri)) {
            if (out == null) {
                throw new IOException("the app that holds it is gone");
            }
            out.write(data);
        }
    }

    static Bitmap bitmap(Snapshot.Pixels pixels) {
        int[] colors = new int[pixels.width * pixels.height];
        for (int i = 0; i < colors.length; i++) {
            colors[i] = 0xFF000000 | (pixels.rgb[3 * i] & 255) << 16 | (pixels.rgb[3 * i + 1] & 255) << 8
                    | pixels.rgb[3 * i + 2] & 255;
        }
        return Bitmap.createBitmap(colors, pixels.width, pixels.height, Bitmap.Config.ARGB_8888);
    }
}
