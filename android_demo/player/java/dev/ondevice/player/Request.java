package dev.ondevice.player;

import java.util.LinkedHashMap;
import java.util.Map;

/** One picture. What is left out is the bundle's own. */
public final class Request {
    /** "prompt", and "negative_prompt" where there is one. */
    public final Map<String, String> texts = new LinkedHashMap<String, String>();
    /** "guidance_scale", "strength", and others that the pipeline has. */
    public final Map<String, Double> numbers = new LinkedHashMap<String, Double>();
    /** A picture to begin from: red, green and blue, [imageHeight, imageWidth, 3]; null: none. */
    public byte[] image;
    public int imageWidth;
    public int imageHeight;
    /** Others that the pipeline takes, such as "control", by name. */
    public final Map<String, Pixels> pictures = new LinkedHashMap<String, Pixels>();
    /** Of adapters that the bundle carries, how much. They add up; the next request has its own. */
    public final Map<String, Double> adapters = new LinkedHashMap<String, Double>();
    /** Where the picture is drawn anew, light: as `image`; null: everywhere. */
    public byte[] mask;
    public int maskWidth;
    public int maskHeight;
    /** 0: the bundle's. */
    public int steps;
    /** null: the bundle's. */
    public String sampler;
    public long seed;
    /** Whose numbers a seed gives: 0 diffusers' on a CPU, 1 on a CUDA device, 2 those of AUTOMATIC1111's WebUI. */
    public int seedMode;
    /** What (word:1.2), [word], BREAK and AND in texts mean: 0 nothing, 1 weights as the WebUI has them, 2 as compel. */
    public int emphasis;
    /** Texts over 75 tokens: 0 their beginning is read, 1 in chunks, 2 in as many chunks as the bundle has plans for. */
    public int longTexts;
    /** Pixels; 0: the bundle's. */
    public int width;
    public int height;
    /** Guidance in two passes, the decoder in bands, weights given back: slower, and fits where little is left. */
    public boolean lowMemory;
    /** By the bundle's fast decoder. */
    public boolean fast;
    /** Calls between two previews; 0: none. */
    public int previewEvery;
    /** 0: as the bundle has it; 1: by a sum of the latents' channels; 2: by the fast decoder. */
    public int previewBy;

    /** A picture: red, green and blue, [height, width, 3]. */
    public static final class Pixels {
        public final byte[] rgb;
        public final int width;
        public final int height;
        /** Canny's thresholds: the picture's edges take its place. Both 0: the picture itself. */
        public double cannyLow;
        public double cannyHigh;

        public Pixels(byte[] rgb, int width, int height) {
            this.rgb = rgb;
            this.width = width;
            this.height = height;
        }

        public Pixels edges(double low, double high) {
            cannyLow = low;
            cannyHigh = high;
            return this;
        }
    }

    public Request(String prompt) {
        texts.put("prompt", prompt);
    }

    public Request negative(String prompt) {
        texts.put("negative_prompt", prompt);
        return this;
    }

    public Request steps(int count) {
        steps = count;
        return this;
    }

    public Request seed(long value) {
        seed = value;
        return this;
    }

    public Request size(int pixelsWide, int pixelsHigh) {
        width = pixelsWide;
        height = pixelsHigh;
        return this;
    }

    public Request previewEvery(int calls) {
        previewEvery = calls;
        return this;
    }
}
