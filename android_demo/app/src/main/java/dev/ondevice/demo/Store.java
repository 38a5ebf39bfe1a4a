package dev.ondevice.demo;

import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** What outlives the process: the last pictures, what was typed, and which bundle was open. A folder of the app's. */
final class Store {
    static final int MOST_SHOTS = 20;

    /** What is kept beside the pictures. */
    static final class Kept {
        final Form form;
        /** {@link Source#key} of the bundle that was open; empty: none. */
        final String source;
        final List<Shot> shots;

        Kept(Form form, String source, List<Shot> shots) {
            this.form = form;
            this.source = source;
            this.shots = shots;
        }
    }

    private final File folder;

    Store(File folder) {
        this.folder = folder;
    }

    /** Of a damaged file nothing is kept: it is the app's own, and a person can do nothing about it. */
    @SuppressWarnings("unchecked")
    synchronized Kept load() {
        List<Shot> shots = new ArrayList<Shot>();
        try {
            Map<String, Object> all = Json.readObject(new String(read("kept.json"), StandardCharsets.UTF_8));
            for (Object shot : (List<Object>) all.get("shots")) {
                Shot one = Shot.of((Map<String, Object>) shot);
                if (file(one).isFile()) {
                    shots.add(one);
                }
            }
            return new Kept(Form.of((Map<String, Object>) all.get("form")), (String) all.get("source"), shots);
        } catch (IOException none) {
            return new Kept(Form.empty(), "", shots);
        } catch (RuntimeException damaged) {
            return new Kept(Form.empty(), "", new ArrayList<Shot>());
        }
    }

    synchronized void save(Kept kept) throws IOException {
        Map<String, Object> all = new LinkedHashMap<String, Object>();
        List<Object> shots = new ArrayList<Object>();
        for (Shot shot : kept.shots) {
            shots.add(shot.json());
        }
        all.put("form", kept.form.json());
        all.put("source", kept.source);
        all.put("shots", shots);
        write("kept.json", Json.write(all).getBytes(StandardCharsets.UTF_8));
    }

    /** Adds a picture before the others and forgets the oldest; gives the list that there is then. */
    synchronized List<Shot> add(List<Shot> shots, Shot shot, byte[] png) throws IOException {
        write(shot.name + ".png", png);
        List<Shot> all = new ArrayList<Shot>(shots);
        all.add(0, shot);
        while (all.size() > MOST_SHOTS) {
            file(all.remove(all.size() - 1)).delete();
        }
        return all;
    }

    synchronized byte[] png(Shot shot) throws IOException {
        return read(shot.name + ".png");
    }

    private File file(Shot shot) {
        return new File(folder, shot.name + ".png");
    }

    private byte[] read(String name) throws IOException {
        File file = new File(folder, name);
        byte[] data = new byte[(int) file.length()];
        try (InputStream in = new FileInputStream(file)) {
            for (int at = 0, count; at < data.length; at += count) {
                count = in.read(data, at, data.length - at);
                if (count < 0) {
                    throw new IOException(name + " ends early");
                }
            }
        }
        return data;
    }

    /** Written beside and renamed: a process may be ended at any time. */
    private void write(String name, byte[] data) throws IOException {
        File beside = new File(folder, name + ".partial");
        if (!folder.isDirectory() && !folder.mkdirs()) {
            throw new IOException(folder + " cannot be made");
        }
        try (OutputStream out = new FileOutputStream(beside)) {
            out.write(data);
        }
        if (!beside.renameTo(new File(folder, name))) {
            throw new IOException(name + " cannot be written");
        }
    }
}
