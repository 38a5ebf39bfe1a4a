package dev.ondevice.player;

import java.io.Closeable;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
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
        byte[][] keys = names(request.numbers);
        byte[][] adapters = names(request.adapters);
        Map<String, Request.Pixels> given = pictures(request);
        byte[][] pictureNames = names(given);
        byte[][] pictures = new byte[given.size()][];
        int[] sizes = new int[2 * given.size()];
        double[] thresholds = new double[2 * given.size()];
        count = 0;
        for (Map.Entry<String, Request.Pixels> one : given.entrySet()) {
            Request.Pixels pixels = one.getValue();
            checkPixels(one.getKey(), pixels);
            pictures[count] = pixels.rgb;
            sizes[2 * count] = pixels.width;
            sizes[2 * count + 1] = pixels.height;
            thresholds[2 * count] = pixels.cannyLow;
            thresholds[2 * count++ + 1] = pixels.cannyHigh;
        }
        synchronized (turn) {
            long player = usable();
            drawing = true;
            try {
                return Native.draw(player, names, texts, keys, values(request.numbers), pictureNames, pictures, sizes,
                        thresholds, adapters, values(request.adapters), request.steps,
                        bytes("sampler", request.sampler), request.seed, request.seedMode, request.emphasis,
                        request.longTexts, request.width, request.height, request.lowMemory, request.fast,
                        request.previewEvery, request.previewBy, watch);
            } finally {
                drawing = false;
            }
        }
    }

    private static Map<String, Request.Pixels> pictures(Request request) {
        Map<String, Request.Pixels> all = new LinkedHashMap<String, Request.Pixels>();
        if (request.image != null) {
            all.put("image", new Request.Pixels(request.image, request.imageWidth, request.imageHeight));
        }
        if (request.mask != null) {
            all.put("mask", new Request.Pixels(request.mask, request.maskWidth, request.maskHeight));
        }
        all.putAll(request.pictures);
        return all;
    }

    private static byte[][] names(Map<String, ?> of) throws PlayerException {
        byte[][] names = new byte[of.size()][];
        int count = 0;
        for (String name : of.keySet()) {
            names[count++] = bytes("request", name);
        }
        return names;
    }

    private static double[] values(Map<String, Double> of) {
        double[] values = new double[of.size()];
        int count = 0;
        for (double value : of.values()) {
            values[count++] = value;
        }
        return values;
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

    private static void checkPixels(String where, Request.Pixels of) throws PlayerException {
        int bytes = of.rgb == null ? 0 : of.rgb.length;
        if (of.width <= 0 || of.height <= 0 || bytes != 3L * of.width * of.height) {
            throw new PlayerException(PlayerException.USAGE, where + ": is not pixels (got " + bytes
                    + " bytes for " + of.width + "x" + of.height
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
