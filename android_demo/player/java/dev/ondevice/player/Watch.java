package dev.ondevice.player;

/**
 * Hears of a drawing, from the thread that draws; what it throws ends the drawing. Of the player's methods only
 * {@link Player#cancel} may be called from here.
 */
public interface Watch {
    /**
     * @param done of the sampler's calls; 0 when all is loaded and the first begins
     * @param calls in all
     * @param secondsLeft negative while it is not known
     * @param stage for people: "text_encoder", "step 3 of 20", "vae_decoder"
     */
    void progress(int done, int calls, double secondsLeft, String stage);

    /** A small picture of what there is so far: red, green and blue, [height, width, 3]. */
    void preview(int done, byte[] rgb, int width, int height);
}
