package dev.ondevice.player;

import java.io.Closeable;
import java.nio.charset.StandardCharsets;
import java.util.Map;

/**
 * Draws pictures from a bundle on the phone's GPU.
 *
 * <pre>
 * try (Player player = Player.open(new Options().bundle(path).cache(context.getCacheDir() + "/kernels"))) {
 *     Picture picture = player.draw(new Request("a red circle").steps(20).seed(1), null);
 * }
 * </pre>
 *
 * Every method may be called from any thread. One at a time is in the native player: {@link #draw}, {@link #bench},
 * {@link #describe} and {@link #unload} wait for their turn, so a screen's thread calls {@link #cancel} alone.
 */
public final class Player implements Closeable {
    private static final byte[][] NO_TEXTS = new byte[0][];

    /** Whoever holds it is in the native player. */
    private final Object turn = new Object();
    /** Of `handle`, and never held for long. */
    private final Object guard = new Object();
    private long handle;
    private boolean drawing;

    private Player(long handle) {
        this.handle = handle;
    }

    public static String version() {
        return text(Native.version());
    }

    /** Opens a bundle on a device and checks what both say; weights are loaded by the first drawing. */
    public static Player open(Options options) throws PlayerException {
        if (options.bundle == null && options.descriptor < 0) {
            throw new PlayerException(PlayerException.USAGE,
                    "bundle: is not given. Fix: set Options.bundle or Options.descriptor.");
        }
        return new Player(Native.open(bytes("bundle", options.bundle), options.descriptor,
                bytes("name", options.name), bytes("device", options.device), bytes("cache", options.cache),
                bytes("plans", options.plans), options.memoryLimit));
    }

    /** JSON about the bundle and the device. */
    public String describe() throws PlayerException {
        synchronized (turn) {
            return text(Native.describe(usable()));
        }
    }

    /**
     * Draws one picture. A {@link #cancel} meanwhile ends it with {@link PlayerException#CANCELLED}; the model stays
     * loaded.
     *
     * @param watch hears of it; null: nobody
     */
    public Picture draw(Request request, Watch watch) throws PlayerException {
        byte[][] names = new byte[request.texts.size()][];
        byte[][] texts = new byte[request.texts.size()][];
        int count = 0;
        for (Map.Entry<String, String> given : request.texts.entrySet()) {
            names[count] = bytes("texts", given.getKey());
            texts[count++] = bytes(given.getKey(), given.getValue());
        }
        byte[][] keys = request.numbers.isEmpty() ? NO_TEXTS : new byte[request.numbers.size()][];
        double[] numbers = new double[keys.length];
        count = 0;
        for (Map.Entry<String, Double> given : request.numbers.entrySet()) {
            keys[count] = bytes("numbers", given.getKey());
            numbers[count++] = given.getValue();
        }
        checkPixels("image", request.image, request.imageWidth, request.imageHeight);
        checkPixels("mask", request.mask, request.maskWidth, request.maskHeight);
        synchronized (turn) {
            long player = usable();
            drawing = true;
            try {
                return Native.draw(player, names, texts, keys, numbers, request.image, request.imageWidth,
                        request.imageHeight, request.mask, request.maskWidth, request.maskHeight, request.steps,
                        bytes("sampler", request.sampler), request.seed, request.seedMode, request.emphasis,
                        request.longTexts, request.width, request.height, request.lowMemory, request.previewEvery,
                        watch);
            } finally {
                drawing = false;
            }
        }
    }

    /** Ends the drawing soon, if there is one. Never waits. */
    public void cancel() {
        synchronized (guard) {
            if (handle != 0) {
                Native.cancel(handle);
            }
        }
    }

    /** Gives back the device's memory; the next drawing loads what it needs again. */
    public void unload() throws PlayerException {
        synchronized (turn) {
            Native.unload(usable());
        }
    }

    /** JSON rows of a benchmark: what `repeats` runs took after a warm-up. */
    public String bench(int repeats) throws PlayerException {
        synchronized (turn) {
            return text(Native.bench(usable(), repeats));
        }
    }

    /** Ends a drawing, waits for it and gives everything back. Again: does nothing. */
    @Override
    public void close() {
        cancel();
        synchronized (turn) {
            notFromWatch();
            long closing;
            synchronized (guard) {
                closing = handle;
                handle = 0;
            }
            if (closing != 0) {
                Native.close(closing);
            }
        }
    }

    /** The native player, for whoever has the turn. */
    private long usable() throws PlayerException {
        notFromWatch();
        if (handle == 0) {
            throw new PlayerException(PlayerException.USAGE, "player: is closed. Fix: open the bundle again.");
        }
        return handle;
    }

    /** A lock lets in whoever holds it: the drawing thread itself, from a {@link Watch}. */
    private void notFromWatch() {
        if (drawing) {
            throw new IllegalStateException("a Watch may call the player's cancel() alone");
        }
    }

    private static void checkPixels(String where, byte[] pixels, int width, int height) throws PlayerException {
        if (pixels == null) {
            return;
        }
        if (width <= 0 || height <= 0 || pixels.length != 3L * width * height) {
            throw new PlayerException(PlayerException.USAGE, where + ": is not pixels (got " + pixels.length
                    + " bytes for " + width + "x" + height
                    + ", expected 3 per pixel). Fix: give red, green and blue of each pixel.");
        }
    }

    private static byte[] bytes(String where, String text) throws PlayerException {
        if (text == null) {
            return null;
        }
        if (text.indexOf('\0') >= 0) {
            throw new PlayerException(PlayerException.USAGE,
                    where + ": holds a zero character. Fix: take it out.");
        }
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(byte[] utf8) {
        return new String(utf8, StandardCharsets.UTF_8);
    }
}
