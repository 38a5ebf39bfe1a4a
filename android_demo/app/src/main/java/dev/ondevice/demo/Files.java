package dev.ondevice.demo;

import android.content.ContentResolver;
import android.content.ContentValues;
import android.content.Intent;
import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import android.media.ExifInterface;
import android.net.Uri;
import android.provider.MediaStore;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;

/** What leaves the app, and pictures that come. Everything but {@link #picker} and {@link #sending} is slow. */
final class Files {
    static final String PNG = "image/png";
    static final String ROWS = "application/json";
    static final String FOLDER = "Pictures/ondevice";
    private static final int MOST_BYTES = 1 << 26;

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
        boolean whole = false;
        try {
            write(resolver, uri, png);
            whole = true;
        } finally {
            if (!whole) {
                resolver.delete(uri, null, null);  // half a picture is none
            }
        }
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

    /** A picture that was chosen, upright. Throws where it is none. */
    static Control picture(ContentResolver resolver, Uri uri) throws IOException {
        byte[] file;
        try (InputStream in = resolver.openInputStream(uri)) {
            file = read(in);
        }
        BitmapFactory.Options options = new BitmapFactory.Options();
        options.inJustDecodeBounds = true;
        BitmapFactory.decodeByteArray(file, 0, file.length, options);
        options.inJustDecodeBounds = false;
        options.inSampleSize = Control.sample(options.outWidth, options.outHeight);
        Bitmap bitmap = BitmapFactory.decodeByteArray(file, 0, file.length, options);
        if (bitmap == null) {
            throw new IOException("it is no picture");
        }
        int width = bitmap.getWidth();
        int height = bitmap.getHeight();
        int[] argb = new int[width * height];
        bitmap.getPixels(argb, 0, width, 0, 0, width, height);
        int orientation = new ExifInterface(new ByteArrayInputStream(file))
                .getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL);
        return new Control(DocumentSource.nameOf(uri, "picture"), Control.upright(argb, width, height, orientation));
    }

    private static byte[] read(InputStream in) throws IOException {
        if (in == null) {
            throw new IOException("the app that holds it is gone");
        }
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        byte[] part = new byte[1 << 16];
        for (int count = in.read(part); count >= 0; count = in.read(part)) {
            out.write(part, 0, count);
            if (out.size() > MOST_BYTES) {
                throw new IOException("it is too large");
            }
        }
        return out.toByteArray();
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
