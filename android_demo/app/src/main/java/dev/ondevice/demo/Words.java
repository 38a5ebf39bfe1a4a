package dev.ondevice.demo;

import dev.ondevice.player.PlayerException;

import java.util.Locale;

/** What the screen says. */
final class Words {
    static final String NO_BUNDLE = "Open a bundle: a file that `ondevice pack` wrote (.odpack).";
    static final String OPENING = "Opening %s...";
    static final String READY = "Ready.";
    static final String LOADING = "Loading the model...";
    static final String CANCELLING = "Ending...";
    static final String CANCELLED = "Cancelled. The model stays loaded.";
    static final String PUT_AWAY =
            "The system is short of memory, so the model was put away. The next picture loads it again.";
    static final String SHORT_OF_MEMORY = "The system is short of memory. The model is put away when this picture is"
            + " done; if the system ends the app before, take a smaller size or save memory.";
    static final String BENCHMARK = "Measuring. Leave the phone alone meanwhile.";
    static final String MEASURED = "Measured.";
    static final String NO_PICTURE = "picture: cannot be read. Fix: choose a JPEG, PNG or WebP that is on the phone.";
    static final String OUR_FAULT = "This is a fault of the app: ";

    private Words() {}

    static String step(int done, int calls, String stage, double secondsLeft) {
        String where = done == 0 || calls == 0 ? readable(stage) : readable(stage) + ", " + 100 * done / calls + " %";
        return secondsLeft < 0 ? where : where + ", " + left(secondsLeft);
    }

    /** "text_encoder" as a person reads it; "step 3 of 20" as it is. */
    private static String readable(String stage) {
        String words = stage.replace('_', ' ');
        return words.isEmpty() ? LOADING : words.substring(0, 1).toUpperCase(Locale.ROOT) + words.substring(1);
    }

    static String adapter(Form form) {
        return form.adapter + " " + form.strength + " %";
    }

    static String left(double seconds) {
        if (seconds < 1) {
            return "a moment left";
        }
        return "about " + (seconds < 90 ? Math.round(seconds) + " s" : Math.round(seconds / 60) + " min") + " left";
    }

    static String seconds(double seconds) {
        return String.format(Locale.ROOT, seconds < 10 ? "%.2f s" : "%.1f s", seconds);
    }

    static String bytes(long bytes) {
        if (bytes < 1000000) {
            return bytes / 1000 + " kB";
        }
        return bytes < 1000000000 ? String.format(Locale.ROOT, "%.1f MB", bytes / 1e6)
                : String.format(Locale.ROOT, "%.2f GB", bytes / 1e9);
    }

    static String done(Shot shot) {
        return "Drawn in " + seconds(shot.seconds) + " (first step after " + seconds(shot.secondsToFirstStep)
                + "), " + bytes(shot.deviceBytes) + " of the device.";
    }

    /** The player's own text says where, what and the fix. What else is thrown is a fault of ours. */
    static String of(Throwable failure) {
        if (failure instanceof PlayerException) {
            return failure.getMessage();
        }
        if (failure instanceof OutOfMemoryError) {
            return "app: there is no memory for the picture. Fix: take a smaller size.";
        }
        if (failure instanceof java.io.IOException) {
            return "file: cannot be read (" + failure.getMessage() + "). Fix: choose it again.";
        }
        return OUR_FAULT + failure;
    }
}
