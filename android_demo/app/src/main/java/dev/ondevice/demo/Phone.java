package dev.ondevice.demo;

import java.util.Map;

/** What a phone says about itself for a benchmark's rows. */
interface Phone {
    /** What it is. */
    Map<String, Object> facts();

    /** How warm and charged it is now. */
    Map<String, Object> state();
}
