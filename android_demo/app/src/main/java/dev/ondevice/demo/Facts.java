package dev.ondevice.demo;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** What a player says about its bundle and device (`od_describe`). */
final class Facts {
    /** Pixels of a picture. */
    static final class Size {
        final int width;
        final int height;

        Size(int width, int height) {
            this.width = width;
            this.height = height;
        }

        @Override
        public String toString() {
            return width + "x" + height;
        }
    }

    /** Empty where the bundle draws no pictures. */
    final List<Size> sizes;
    /** The sampler's, where nobody says another number. */
    final int steps;
    final boolean takesNegative;
    /** Those that the bundle carries, and how much of each is usual, in hundredths. */
    final Map<String, Integer> adapters;
    final boolean decodesFast;
    /** Whether a ControlNet looks at a picture meanwhile. */
    final boolean takesControl;
    /** Lines of a report: what it is, and its value. */
    final Map<String, String> report;

    private Facts(Map<String, Object> bundle) {
        steps = (int) number(object(bundle.get("sampler")).get("steps"));
        boolean negative = false;
        for (Object text : list(bundle.get("texts"))) {
            negative |= "negative_prompt".equals(object(text).get("name"));
        }
        takesNegative = negative;
        boolean control = false;
        for (Object picture : list(bundle.get("pictures"))) {
            control |= Control.PICTURE.equals(object(picture).get("name"));
        }
        takesControl = control;
        decodesFast = Boolean.TRUE.equals(bundle.get("fast_decoder"));
        Map<String, Integer> carried = new LinkedHashMap<String, Integer>();
        for (Object item : list(bundle.get("adapters"))) {
            Map<String, Object> adapter = object(item);
            carried.put(String.valueOf(adapter.get("name")), (int) Math.round(100 * number(adapter.get("scale"))));
        }
        adapters = Collections.unmodifiableMap(carried);
        List<Size> found = new ArrayList<Size>();
        Map<String, String> lines = new LinkedHashMap<String, String>();
        device(lines, object(bundle.get("device")));
        line(lines, "Model", bundle.get("source"));
        line(lines, "Family", bundle.get("family"));
        line(lines, "Plans for", bundle.get("plans"));
        line(lines, "Made by", bundle.get("producer"));
        line(lines, "Format", bundle.get("format"));
        line(lines, "Player", bundle.get("player"));
        for (Object item : list(bundle.get("sizes"))) {
            Map<String, Object> size = object(item);
            Size pixels = new Size((int) number(size.get("width")), (int) number(size.get("height")));
            found.add(pixels);
            memory(lines, pixels + " needs", object(size.get("memory")));
            memory(lines, pixels + " saving memory", object(size.get("low_memory")));
        }
        sizes = Collections.unmodifiableList(found);
        report = Collections.unmodifiableMap(lines);
    }

    /** @throws IllegalArgumentException where it is no JSON object */
    static Facts read(String json) {
        return new Facts(Json.readObject(json));
    }

    private static void device(Map<String, String> lines, Map<String, Object> device) {
        line(lines, "Device", device.get("name"));
        line(lines, "Platform", device.get("version"));
        line(lines, "Driver", device.get("driver"));
        bytes(lines, "Memory of the device", device.get("memory"));
        bytes(lines, "Largest buffer", device.get("allocation"));
        bytes(lines, "Local memory", device.get("local_memory"));
        line(lines, "Largest work-group", device.get("work_group"));
        line(lines, "Compute units", device.get("compute_units"));
        StringBuilder can = new StringBuilder();
        for (Object need : list(device.get("needs"))) {
            can.append(can.length() == 0 ? "" : ", ").append(need);
        }
        line(lines, "Can", can.length() == 0 ? null : can.toString());
    }

    private static void memory(Map<String, String> lines, String name, Map<String, Object> need) {
        if (!need.isEmpty()) {
            lines.put(name, show(need, "device") + " (weights " + show(need, "weights") + ", arena "
                    + show(need, "arena") + ")");
        }
    }

    private static String show(Map<String, Object> need, String key) {
        return Words.bytes((long) number(need.get(key)));
    }

    private static void line(Map<String, String> lines, String name, Object value) {
        if (value != null) {
            lines.put(name, value instanceof String ? (String) value : Json.write(value));
        }
    }

    private static void bytes(Map<String, String> lines, String name, Object value) {
        if (value instanceof Double) {
            lines.put(name, Words.bytes((long) number(value)));
        }
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> object(Object value) {
        return value instanceof Map ? (Map<String, Object>) value : Collections.<String, Object>emptyMap();
    }

    private static List<?> list(Object value) {
        return value instanceof List ? (List<?>) value : Collections.emptyList();
    }

    private static double number(Object value) {
        return value instanceof Double ? (Double) value : 0;
    }
}
