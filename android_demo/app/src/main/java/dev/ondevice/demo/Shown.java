package dev.ondevice.demo;

import java.util.List;
import java.util.Map;

/** A screen, in the words and numbers that are on it. The views only copy it. */
final class Shown {
    enum Page {
        DRAW, HISTORY, BENCHMARK, DEVICE
    }

    Page page;
    String title;
    String status;
    Snapshot.Kind kind;
    Form form;
    boolean takesNegative;
    List<String> sizes;
    /** Adapters to choose from, and how much of each is usual, in hundredths. */
    Map<String, Integer> adapters;
    boolean decodesFast;
    boolean takesControl;
    /** For people: the control picture that was chosen; empty: none. */
    String control;
    /** What stands in empty fields. */
    String stepsHint;
    String seedHint;
    /** Of 100; -1: going on, nobody knows how far; -2: nothing goes on. */
    int percent;
    boolean canOpen;
    boolean canDraw;
    boolean canCancel;
    boolean canShare;
    boolean canMeasure;
    boolean canExport;
    /** A preview, where something is drawn; null: the picture. */
    Snapshot.Pixels preview;
    Shot shot;
    byte[] png;
    List<Shot> history;
    Map<String, String> report;
    List<String> figures;
}
