package dev.ondevice.demo;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Rows of a benchmark: JSON objects, one a line, as `ondevice bench` writes and reads them. */
final class Rows {
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

    /** What a person reads of them: a row's name and its figures. */
    static List<String> summary(String rows) {
        List<String> lines = new ArrayList<String>();
        for (String line : rows.split("\n")) {
            if (line.isEmpty()) {
                continue;
            }
            StringBuilder text = new StringBuilder();
            for (Map.Entry<String, Object> entry : Json.readObject(line).entrySet()) {
                Object value = entry.getValue();
                if (value instanceof Double || value instanceof String && text.length() == 0) {
                    text.append(text.length() == 0 ? "" : "\n").append(figure(entry.getKey(), value));
                }
            }
            lines.add(text.toString());
        }
        return lines;
    }

    private static String figure(String key, Object value) {
        if (value instanceof String) {
            return (String) value;
        }
        double number = (Double) value;
        String name = key.replace('_', ' ');
        if (key.endsWith("_bytes") || key.endsWith("bytes")) {
            return name.replace(" bytes", "") + ": " + Words.bytes((long) number);
        }
        if (key.endsWith("_seconds") || key.endsWith("seconds") || key.endsWith("_s")) {
            return name.replace(" seconds", "") + ": " + Words.seconds(number);
        }
        return name + ": " + Json.write(number);
    }
}
