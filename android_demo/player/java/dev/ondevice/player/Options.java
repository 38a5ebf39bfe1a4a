package dev.ondevice.player;

/** What {@link Player#open} opens, and on what. */
public final class Options {
    /** A bundle's folder, or one file that `ondevice pack` wrote; null where there is a descriptor. */
    public String bundle;
    /** Of a packed file that is open for reading, or -1. It stays the caller's, who keeps it open as long. */
    public int descriptor = -1;
    /** Of the file behind the descriptor, for messages. */
    public String name;
    /** A number, "gpu", "cpu" or a part of a device's name; null: the best there is. */
    public String device;
    /** Folder for compiled kernels; an app's own cache folder. "": none. */
    public String cache;
    /** Name of the target whose plans are taken; null: the device's own. */
    public String plans;
    /** Bytes that the device may be asked for in all; 0: what it has. */
    public long memoryLimit;

    public Options bundle(String path) {
        bundle = path;
        return this;
    }

    public Options descriptor(int open, String shownAs) {
        descriptor = open;
        name = shownAs;
        return this;
    }

    public Options device(String spec) {
        device = spec;
        return this;
    }

    public Options cache(String folder) {
        cache = folder;
        return this;
    }
}
