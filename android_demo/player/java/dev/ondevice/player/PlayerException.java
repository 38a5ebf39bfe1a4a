package dev.ondevice.player;

import java.io.IOException;
import java.nio.charset.StandardCharsets;

/**
 * What the player refuses or fails at. The message says where, what is wrong, and the fix, for people; {@link #code}
 * is the exit code of the command line.
 */
public final class PlayerException extends IOException {
    private static final long serialVersionUID = 1;

    public static final int INTERNAL = 1;
    public static final int USAGE = 2;
    public static final int BUNDLE = 9;
    public static final int NO_DEVICE = 10;
    public static final int KERNEL_BUILD = 11;
    public static final int DEVICE = 12;
    public static final int NUMERIC = 13;
    public static final int OUTPUT = 16;
    public static final int CANCELLED = 130;

    public final int code;

    public PlayerException(int code, String message) {
        super(message);
        this.code = code;
    }

    /** Called by the native library. */
    PlayerException(int code, byte[] message) {
        this(code, new String(message, StandardCharsets.UTF_8));
    }
}
