package dev.ondevice.player;

import java.nio.charset.StandardCharsets;

/** The native library's side of {@link Player}: jni/ondevice_jni.cpp. Texts cross as UTF-8. */
final class Native {
    static {
        System.loadLibrary("ondevice_jni");
    }

    private Native() {}

    static native byte[] version();

    static native long open(byte[] bundle, int descriptor, byte[] name, byte[] device, byte[] cache, byte[] plans,
            long memoryLimit) throws PlayerException;

    static native void close(long player);

    static native byte[] describe(long player);

    static native Picture draw(long player, byte[][] textNames, byte[][] texts, byte[][] numberNames,
            double[] numbers, byte[][] pictureNames, byte[][] pictures, int[] pictureSizes, double[] thresholds,
            byte[][] adapters, double[] scales, int steps, byte[] sampler, long seed, int seedMode, int emphasis,
            int longTexts, int width, int height, boolean lowMemory, boolean fast, int previewEvery, int previewBy,
            Watch watch) throws PlayerException;

    static native void cancel(long player);

    static native void unload(long player);

    static native byte[] bench(long player, int repeats) throws PlayerException;

    /** Called by the native library. */
    static void progress(Watch watch, int done, int calls, double secondsLeft, byte[] stage) {
        watch.progress(done, calls, secondsLeft, new String(stage, StandardCharsets.UTF_8));
    }

    /** Called by the native library. */
    static void preview(Watch watch, int done, byte[] rgb, int width, int height) {
        watch.preview(done, rgb, width, height);
    }
}
