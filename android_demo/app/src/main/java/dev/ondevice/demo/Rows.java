package dev.ondevice.demo;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Rows of a benchmark: JSON objects, one a line, as `ondevice bench` writes and reads them. */
final class Rows {
    private static final int MOST_KERNELS = 6;
    /** Keys of docs/benchmarks_on_devices.md, as a person reads them. */
    private static final Map<String, String> FIGURES = new LinkedHashMap<String, String>();

    static {
        FIGURES.put("first_seconds", "First picture");
        FIGURES.put("median_seconds", "Median");
        FIGURES.put("sustained_seconds", "Sustained");
        FIGURES.put("steps_seconds", "Of it steps");
        FIGURES.put("decoder_seconds", "Of it decoder");
        FIGURES.put("plan_bytes", "Memory on the device");
        FIGURES.put("peak_bytes", "Memory of the app, at most");
    }

    private Rows() {}

    /**
     * The player's rows with what the phone said before and after.
     *
     * @throws IllegalArgumentException where `json` is no list of objects
     */
    @SuppressWarnings("unchecked")
    static String join(String json, Map<String, Object> phone, Map<String, Object> before, Map<String, Object> after) {
        Object value = Json.read(json);
        StringBuilder out = new StringBuilder();
        for (Object item : value instanceof List ? (List<Object>) value : Collections.singletonList(value)) {
            if (!(item instanceof Map)) {
                throw new IllegalArgumentException("a row of the benchmark is no object");
            }
            Map<String, Object> row = new LinkedHashMap<String, Object>((Map<String, Object>) item);
            row.put("phone", phone);
            row.put("phone_before", before);
            row.put("phone_after", after);
            out.append(Json.write(row)).append('\n');
        }
        return out.toString();
    }

    /** What a person reads of each. */
    static List<String> summary(String rows) {
        List<String> texts = new ArrayList<String>();
        for (String line : rows.isEmpty() ? new String[0] : rows.split("\n")) {
            texts.add(read(Json.readObject(line)));
        }
        return texts;
    }

    private static String read(Map<String, Object> row) {
        StringBuilder text = new StringBuilder(String.valueOf(row.get("device")));
        if (row.get("width") instanceof Double) {
            text.append('\n').append(Json.write(row.get("width"))).append('x').append(Json.write(row.get("height")))
                    .append(", ").append(Json.write(row.get("steps"))).append(" steps");
        }
        for (Map.Entry<String, String> figure : FIGURES.entrySet()) {
            if (row.get(figure.getKey()) instanceof Double) {
                double value = (Double) row.get(figure.getKey());
                text.append('\n').append(figure.getValue()).append(": ").append(
                        figure.getKey().endsWith("_bytes") ? Words.bytes((long) value) : Words.seconds(value));
            }
        }
        return text.append(kernels(row.get("ops"))).toString();
    }

    /** The kernels that take longest: the player lists them first. */
    private static String kernels(Object ops) {
        StringBuilder text = new StringBuilder();
        List<?> list = ops instanceof List ? (List<?>) ops : Collections.emptyList();
        for (Object item : list.subList(0, Math.min(MOST_KERNELS, list.size()))) {
            Map<?, ?> op = (Map<?, ?>) item;
            text.append(text.length() == 0 ? "\n\nWhere the time goes" : "").append('\n').append(op.get("op"))
                    .append(" (").append(op.get("kernel")).append("): ")
                    .append(Words.seconds((Double) op.get("seconds")));
        }
        return text.toString();
    }
}
