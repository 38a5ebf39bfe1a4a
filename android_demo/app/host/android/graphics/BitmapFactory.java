package android.graphics;

import java.awt.image.BufferedImage;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import javax.imageio.ImageIO;

public class BitmapFactory {
    public static class Options {
        public boolean inJustDecodeBounds;
        public int inSampleSize;
        public int outWidth;
        public int outHeight;
    }

    /** Of every `inSampleSize` pixels the first. */
    public static Bitmap decodeByteArray(byte[] data, int offset, int length, Options options) {
        Bitmap whole = decodeByteArray(data, offset, length);
        options.outWidth = whole == null ? -1 : whole.getWidth();
        options.outHeight = whole == null ? -1 : whole.getHeight();
        if (whole == null || options.inJustDecodeBounds) {
            return null;
        }
        int each = Math.max(options.inSampleSize, 1);
        int width = Math.max(options.outWidth / each, 1);
        int height = Math.max(options.outHeight / each, 1);
        int[] colors = new int[width * height];
        for (int i = 0; i < colors.length; i++) {
            colors[i] = whole.image.getRGB(i % width * each, i / width * each);
        }
        return Bitmap.createBitmap(colors, width, height, Bitmap.Config.ARGB_8888);
    }

    /** @return null where it is no picture */
    public static Bitmap decodeByteArray(byte[] data, int offset, int length) {
        try {
            BufferedImage image = ImageIO.read(new ByteArrayInputStream(data, offset, length));
            return image == null ? null : new Bitmap(image);
        } catch (IOException damaged) {
            return null;
        }
    }
}
