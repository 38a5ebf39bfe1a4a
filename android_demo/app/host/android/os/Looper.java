package android.os;

import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

/** The screen's thread. On the host a test works its queue off. */
public final class Looper {
    private static final Looper MAIN = new Looper();

    /** Of the host. */
    public final BlockingQueue<Runnable> queue = new LinkedBlockingQueue<Runnable>();

    public static Looper getMainLooper() {
        return MAIN;
    }
}
