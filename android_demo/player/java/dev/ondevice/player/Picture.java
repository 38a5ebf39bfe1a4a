package dev.ondevice.player;

import java.nio.charset.StandardCharsets;

/** A picture that was drawn, and what it took. */
public final class Picture {
    /** The whole file, with the parameters inside. */
    public final byte[] png;
    /** Red, green and blue, [height, width, 3]. */
    public final byte[] rgb;
    public final int width;
    public final int height;
    /** In the words of AUTOMATIC1111's WebUI. */
    public final String parameters;
    /** From the call until the first step was done: with all that was loaded and compiled. */
    public final double secondsToFirstStep;
    /** Of all steps, the first with what it loads. */
    public final double secondsOfSteps;
    public final double secondsOfDecoder;
    /** At most, on the device. */
    public final long deviceBytes;

    /** Called by the native library. */
    Picture(byte[] png, byte[] rgb, int width, int height, byte[] parameters, double secondsToFirstStep,
            double secondsOfSteps, double secondsOfDecoder, long deviceBytes) {
        this.png = png;
        this.rgb = rgb;
        this.width = width;
        this.height = height;
        this.parameters = new String(parameters, StandardCharsets.UTF_8);
        this.secondsToFirstStep = secondsToFirstStep;
        this.secondsOfSteps = secondsOfSteps;
        this.secondsOfDecoder = secondsOfDecoder;
        this.deviceBytes = deviceBytes;
    }
}
