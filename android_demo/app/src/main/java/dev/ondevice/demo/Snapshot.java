package dev.ondevice.demo;

import java.util.List;

/** All that there is to show, at one moment. Never changes. */
final class Snapshot {
    enum Phase {
        NO_BUNDLE, OPENING, READY, DRAWING, MEASURING
    }

    enum Kind {
        INFORMATION, WARNING, ERROR
    }

    /** Red, green and blue, [height, width, 3]. */
    static final class Pixels {
        final byte[] rgb;
        final int width;
        final int height;

        Pixels(byte[] rgb, int width, int height) {
            this.rgb = rgb;
            this.width = width;
            this.height = height;
        }
    }

    final Phase phase;
    /** Of the bundle; empty: none was chosen. */
    final String bundle;
    /** null until a bundle is open. */
    final Facts facts;
    final Form form;
    /** null: none was chosen. */
    final Control control;
    final String message;
    final Kind kind;
    /** Calls of the sampler that are done, and in all; 0 of 0 while nothing is drawn. */
    final int done;
    final int calls;
    /** Of the drawing that goes on; null: none yet. */
    final Pixels preview;
    /** The picture that is shown, and its file; null: none. */
    final Shot shot;
    final byte[] png;
    final List<Shot> history;
    /** Rows of the last benchmark, JSON of one a line; empty: none. */
    final String rows;

    Snapshot(Phase phase, String bundle, Facts facts, Form form, Control control, String message, Kind kind, int done,
            int calls, Pixels preview, Shot shot, byte[] png, List<Shot> history, String rows) {
        this.phase = phase;
        this.bundle = bundle;
        this.facts = facts;
        this.form = form;
        this.control = control;
        this.message = message;
        this.kind = kind;
        this.done = done;
        this.calls = calls;
        this.preview = preview;
        this.shot = shot;
        this.png = png;
        this.history = history;
        this.rows = rows;
    }

    boolean busy() {
        return phase == Phase.DRAWING || phase == Phase.MEASURING;
    }
}
