package dev.ondevice.demo;

import dev.ondevice.player.Request;

import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Random;

/** What a person typed: kept as it is through rotation, a restart and a mistake. */
final class Form {
    static final int MOST_STEPS = 1000;
    static final int USUAL_STRENGTH = 100;
    static final int MOST_STRENGTH = 200;

    final String prompt;
    final String negative;
    final String steps;
    final String seed;
    /** "512x512"; empty: the bundle's first. */
    final String size;
    final boolean lowMemory;
    /** Of the bundle's; empty: none. */
    final String adapter;
    /** How much of the adapter, in hundredths. */
    final int strength;
    /** By the bundle's fast decoder. */
    final boolean fast;
    /** Of a control picture its edges. */
    final boolean edges;

    Form(String prompt, String negative, String steps, String seed, String size, boolean lowMemory) {
        this(prompt, negative, steps, seed, size, lowMemory, "", USUAL_STRENGTH, false, true);
    }

    private Form(String prompt, String negative, String steps, String seed, String size, boolean lowMemory,
            String adapter, int strength, boolean fast, boolean edges) {
        this.prompt = prompt;
        this.negative = negative;
        this.steps = steps;
        this.seed = seed;
        this.size = size;
        this.lowMemory = lowMemory;
        this.adapter = adapter;
        this.strength = strength;
        this.fast = fast;
        this.edges = edges;
    }

    /** The same with what only some bundles have. */
    Form with(String chosenAdapter, int hundredths, boolean byFastDecoder) {
        return new Form(prompt, negative, steps, seed, size, lowMemory, chosenAdapter, hundredths, byFastDecoder,
                edges);
    }

    /** The same with a control picture's edges, or with the picture itself. */
    Form with(boolean edgesAlone) {
        return new Form(prompt, negative, steps, seed, size, lowMemory, adapter, strength, fast, edgesAlone);
    }

    static Form empty() {
        return new Form("", "", "", "", "", false);
    }

    /** A mistake in what was typed, for the person who did. */
    static final class Mistake extends Exception {
        private static final long serialVersionUID = 1;

        Mistake(String what) {
            super(what);
        }
    }

    /** The same with what was left out filled in from the bundle, and with a seed where there is none. */
    Form complete(Facts facts, Random chance) throws Mistake {
        if (prompt.trim().isEmpty()) {
            throw new Mistake("Prompt: say what to draw.");
        }
        String count = steps.trim().isEmpty() ? String.valueOf(facts.steps) : steps.trim();
        whole("Steps", count, 1, MOST_STEPS);
        String start = seed.trim().isEmpty() ? String.valueOf(chance.nextInt() & 0xFFFFFFFFL) : seed.trim();
        whole("Seed", start, 0, Long.MAX_VALUE);
        String negativeText = facts.takesNegative ? negative : "";
        String known = facts.adapters.containsKey(adapter) ? adapter : "";
        return new Form(prompt.trim(), negativeText, count, start, sizeIn(facts).toString(), lowMemory)
                .with(known, strength, fast && facts.decodesFast).with(edges);
    }

    /**
     * Of a form that is complete. A preview a tenth of the way, and at least each fifth step.
     *
     * @param control null: none; it is left out where the bundle takes none
     */
    Request request(Facts facts, Control control) throws Mistake {
        Facts.Size pixels = sizeIn(facts);
        int count = (int) whole("Steps", steps, 1, MOST_STEPS);
        Request request = new Request(prompt).steps(count).seed(whole("Seed", seed, 0, Long.MAX_VALUE))
                .size(pixels.width, pixels.height).previewEvery(Math.max(1, Math.min(5, count / 10)));
        if (!negative.trim().isEmpty()) {
            request.negative(negative.trim());
        }
        request.lowMemory = lowMemory;
        request.fast = fast;
        if (!adapter.isEmpty()) {
            request.adapters.put(adapter, strength / 100.0);
        }
        if (control != null && facts.takesControl) {
            Request.Pixels seen = new Request.Pixels(control.pixels.rgb, control.pixels.width, control.pixels.height);
            request.pictures.put(Control.PICTURE, edges ? seen.edges(Control.LOW, Control.HIGH) : seen);
        }
        return request;
    }

    private Facts.Size sizeIn(Facts facts) throws Mistake {
        if (facts.sizes.isEmpty()) {
            throw new Mistake("Bundle: draws no pictures. Fix: choose another.");
        }
        for (Facts.Size one : facts.sizes) {
            if (size.isEmpty() || one.toString().equals(size)) {
                return one;
            }
        }
        throw new Mistake("Size: this bundle has no " + size + "; it has " + facts.sizes + ".");
    }

    private static long whole(String field, String text, long least, long most) throws Mistake {
        try {
            long value = Long.parseLong(text);
            if (value >= least && value <= most) {
                return value;
            }
        } catch (NumberFormatException bad) {
            // said below
        }
        throw new Mistake(field + ": not a whole number from " + least + " to " + most + " (got " + text + ").");
    }

    Map<String, Object> json() {
        Map<String, Object> out = new LinkedHashMap<String, Object>();
        out.put("prompt", prompt);
        out.put("negative_prompt", negative);
        out.put("steps", steps);
        out.put("seed", seed);
        out.put("size", size);
        out.put("low_memory", lowMemory);
        out.put("adapter", adapter);
        out.put("strength", (double) strength);
        out.put("fast", fast);
        out.put("edges", edges);
        return out;
    }

    static Form of(Map<String, Object> json) {
        Object strength = json.get("strength");
        int hundredths = strength instanceof Double ? (int) (double) (Double) strength : USUAL_STRENGTH;
        return new Form(text(json, "prompt"), text(json, "negative_prompt"), text(json, "steps"), text(json, "seed"),
                text(json, "size"), Boolean.TRUE.equals(json.get("low_memory")))
                .with(text(json, "adapter"), hundredths, Boolean.TRUE.equals(json.get("fast")))
                .with(!Boolean.FALSE.equals(json.get("edges")));
    }

    private static String text(Map<String, Object> json, String key) {
        Object value = json.get(key);
        return value instanceof String ? (String) value : "";
    }
}
