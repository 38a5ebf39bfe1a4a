package dev.ondevice.demo;

/** A picture that a ControlNet looks at while another is drawn. It is forgotten with the process. */
final class Control {
    /** The name by which pipelines ask for it. */
    static final String PICTURE = "control";
    /** Of edges: Canny's thresholds. */
    static final double LOW = 100;
    static final double HIGH = 200;
    /** Longer sides are halved until they are not: what is drawn is smaller. */
    static final int MOST_SIDE = 2048;

    /** For people: the file's. */
    final String name;
    final Snapshot.Pixels pixels;

    Control(String name, Snapshot.Pixels pixels) {
        this.name = name;
        this.pixels = pixels;
    }

    /** "bird.jpg, 1024 x 768". */
    @Override
    public String toString() {
        return name + ", " + pixels.width + " x " + pixels.height;
    }

    /** Each so many pixels of a file are read as one. */
    static int sample(int width, int height) {
        int each = 1;
        while (Math.max(width, height) / each > MOST_SIDE) {
            each *= 2;
        }
        return each;
    }

    /**
     * What a person sees in a file: turned upright, and what is transparent on white.
     *
     * @param argb [height, width]
     * @param orientation EXIF's, 1 to 8; others are 1
     */
    static Snapshot.Pixels upright(int[] argb, int width, int height, int orientation) {
        boolean turned = orientation >= 5 && orientation <= 8;
        int wide = turned ? height : width;
        int high = turned ? width : height;
        byte[] rgb = new byte[3 * wide * high];
        for (int y = 0; y < high; y++) {
            for (int x = 0; x < wide; x++) {
                int pixel = argb[place(x, y, width, height, orientation)];
                int alpha = pixel >>> 24;
                for (int channel = 0; channel < 3; channel++) {
                    int value = pixel >>> 16 - 8 * channel & 255;
                    rgb[3 * (y * wide + x) + channel] = (byte) ((value * alpha + 255 * (255 - alpha) + 127) / 255);
                }
            }
        }
        return new Snapshot.Pixels(rgb, wide, high);
    }

    /** Where a pixel of the upright picture is in the file's. */
    private static int place(int x, int y, int width, int height, int orientation) {
        int right = width - 1;
        int bottom = height - 1;
        switch (orientation) {
            case 2:
                return y * width + right - x;
            case 3:
                return (bottom - y) * width + right - x;
            case 4:
                return (bottom - y) * width + x;
            case 5:
                return x * width + y;
            case 6:
                return (bottom - x) * width + y;
            case 7:
                return (bottom - x) * width + right - y;
            case 8:
                return x * width + right - y;
            default:
                return y * width + x;
        }
    }
}
