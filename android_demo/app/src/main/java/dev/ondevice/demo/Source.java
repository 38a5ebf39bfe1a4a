package dev.ondevice.demo;

import dev.ondevice.player.Options;

import java.io.Closeable;
import java.io.IOException;

/** Where a bundle comes from: a path, or a document that the system's file picker gave. */
interface Source {
    /** For people. */
    String name();

    /** By which the same is found again after a restart. */
    String key();

    /**
     * Fills `options`. Called off the screen's thread: a document of a provider may be far away.
     *
     * @return what is held open while the bundle is; null: nothing
     */
    Closeable open(Options options) throws IOException;

    /** Finds a bundle again. */
    interface Finder {
        /**
         * @param key what {@link Source#key} gave; empty: nothing was open
         * @return null where there is none
         */
        Source find(String key);
    }

    /** A folder or a file. */
    final class OfPath implements Source {
        private final String path;

        OfPath(String path) {
            this.path = path;
        }

        @Override
        public String name() {
            return new java.io.File(path).getName();
        }

        @Override
        public String key() {
            return path;
        }

        @Override
        public Closeable open(Options options) {
            options.bundle(path);
            return null;
        }
    }
}
