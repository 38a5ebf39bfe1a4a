package dev.ondevice.demo;

import dev.ondevice.player.Picture;

import java.util.LinkedHashMap;
import java.util.Map;

/** A picture that was drawn: what was asked for and what it took. Its file is `name`.png in the {@link Store}. */
final class Shot {
    final String name;
    final String bundle;
    final Form form;
    final double seconds;
    final double secondsToFirstStep;
    final long deviceBytes;

    private Shot(String name, String bundle, Form form, double seconds, double secondsToFirstStep, long deviceBytes) {
        this.name = name;
        this.bundle = bundle;
        this.form = form;
        this.seconds = seconds;
        this.secondsToFirstStep = secondsToFirstStep;
        this.deviceBytes = deviceBytes;
    }

    Shot(String name, String bundle, Form form, double seconds, Picture picture) {
        this(name, bundle, form, seconds, picture.secondsToFirstStep, picture.deviceBytes);
    }

    /** What stands below the prompt in the history. */
    String line() {
        return "seed " + form.seed + " \u00b7 " + form.steps + " steps \u00b7 " + form.size + " \u00b7 "
                + Words.seconds(seconds) + (form.adapter.isEmpty() ? "" : " \u00b7 " + Words.adapter(form));
    }

    Map<String, Object> json() {
        Map<String, Object> out = new LinkedHashMap<String, Object>();
        out.put("name", name);
        out.put("bundle", bundle);
        out.put("form", form.json());
        out.put("seconds", seconds);
        out.put("seconds_to_first_step", secondsToFirstStep);
        out.put("device_bytes", (double) deviceBytes);
        return out;
    }

    /** @throws RuntimeException where it is not what {@link #json} gave */
    @SuppressWarnings("unchecked")
    static Shot of(Map<String, Object> json) {
        return new Shot((String) json.get("name"), (String) json.get("bundle"),
                Form.of((Map<String, Object>) json.get("form")), (Double) json.get("seconds"),
                (Double) json.get("seconds_to_first_step"), (long) (double) (Double) json.get("device_bytes"));
    }
}
