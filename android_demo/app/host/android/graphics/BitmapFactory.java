package android.graphics;

import java.awt.image.BufferedImage;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import javax.imageio.ImageIO;

public class BitmapFactory {
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
