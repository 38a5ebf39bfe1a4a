package dev.ondevice.demo;

import dev.ondevice.player.Options;
import dev.ondevice.player.Picture;
import dev.ondevice.player.Player;
import dev.ondevice.player.PlayerException;
import dev.ondevice.player.Request;
import dev.ondevice.player.Watch;

import java.io.Closeable;
import java.io.IOException;

/** The player of the bundle that is open, if one is. Of the {@link Engine}'s worker alone, but for {@link #cancel}. */
final class Loaded {
    private final String kernels;
    private volatile Player player;
    private Closeable held;

    Loaded(String kernels) {
        this.kernels = kernels;
    }

    /** Opens a bundle instead of the one that is open; where that fails, none is. */
    Facts open(Source source) throws IOException {
        close();
        boolean opened = false;
        try {
            Options options = new Options().cache(kernels);
            held = source.open(options);
            player = Player.open(options);
            Facts facts = Facts.read(player.describe());
            opened = true;
            return facts;
        } finally {
            if (!opened) {
                close();
            }
        }
    }

    private void close() {
        if (player != null) {
            player.close();
            player = null;
        }
        try {
            if (held != null) {
                held.close();
            }
        } catch (IOException gone) {
            // nothing was written to it
        }
        held = null;
    }

    Picture draw(Request request, Watch watch) throws PlayerException {
        return player.draw(request, watch);
    }

    String bench(int repeats) throws PlayerException {
        return player.bench(repeats);
    }

    void unload() {
        try {
            if (player != null) {
                player.unload();
            }
        } catch (PlayerException closed) {
            // it holds nothing then
        }
    }

    /** From any thread. */
    void cancel() {
        Player running = player;
        if (running != null) {
            running.cancel();
        }
    }
}
