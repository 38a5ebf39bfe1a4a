package dev.ondevice.demo;

import java.util.concurrent.Executor;

/** Tells one listener, on the screen's thread, that something has changed. From any thread. */
final class Notices {
    /** Whoever shows it. */
    interface Listener {
        void changed();
    }

    private final Executor screen;
    private Listener listener;
    private boolean told;

    /** @param screen runs what it is given on the screen's thread, later */
    Notices(Executor screen) {
        this.screen = screen;
    }

    /** One at a time hears; null: none does. */
    synchronized void listen(Listener next) {
        listener = next;
    }

    /** At most one notice waits for the screen: a drawing that is faster than the screen must not fill its queue. */
    synchronized void tell() {
        if (told || listener == null) {
            return;
        }
        told = true;
        screen.execute(new Runnable() {
            @Override
            public void run() {
                Listener hears;
                synchronized (Notices.this) {
                    told = false;
                    hears = listener;
                }
                if (hears != null) {
                    hears.changed();
                }
            }
        });
    }
}
