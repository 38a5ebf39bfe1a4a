package dev.ondevice.demo;

import dev.ondevice.player.Options;
import dev.ondevice.player.Picture;
import dev.ondevice.player.Player;
import dev.ondevice.player.PlayerException;
import dev.ondevice.player.Request;
import dev.ondevice.player.Watch;

import java.io.Closeable;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ThreadFactory;

/**
 * The player and all that the screen shows, for as long as the process lives: screens come and go (rotation,
 * background) and find it as it is. Its methods return at once, and may be called from any thread; what takes long is
 * done by one worker, in order. It knows nothing of Android.
 */
final class Engine {
    /** Told on the screen's thread that there is a new {@link Engine#snapshot}. */
    interface Listener {
        void changed();
    }

    /** What the phone says about itself for a benchmark's rows. */
    interface Phone {
        /** What it is. */
        Map<String, Object> facts();

        /** How warm and charged it is now. */
        Map<String, Object> state();
    }

    /** One drawing or benchmark, and whether it is to end. */
    private static final class Job {
        volatile boolean cancelled;
    }

    private final Store store;
    private final String kernels;
    private final Phone phone;
    private final Executor screen;
    private final ExecutorService worker = thread("ondevice-player");
    private final ExecutorService disk = thread("ondevice-files");
    private final Random chance = new Random();

    // Of the worker alone; `player` is also what cancel() speaks to.
    private volatile Player player;
    private Closeable held;

    // All below is guarded by `this`.
    private Listener listener;
    private boolean told;
    private Job job;
    private boolean loaded;
    private boolean putAway;
    private Source source;
    private Snapshot.Phase phase = Snapshot.Phase.NO_BUNDLE;
    private Facts facts;
    private Form form = Form.empty();
    private String message = Words.NO_BUNDLE;
    private Snapshot.Kind kind = Snapshot.Kind.INFORMATION;
    private int done;
    private int calls;
    private Snapshot.Pixels preview;
    private Shot shot;
    private byte[] png;
    private List<Shot> history = Collections.emptyList();
    private String rows = "";

    /**
     * @param kernels folder for compiled kernels; null: the usual one
     * @param screen runs what it is given on the screen's thread, later
     */
    Engine(Store store, String kernels, Phone phone, Executor screen) {
        this.store = store;
        this.kernels = kernels;
        this.phone = phone;
        this.screen = screen;
    }

    /** One thread, which does not keep the process alive. */
    static ExecutorService thread(final String name) {
        return Executors.newSingleThreadExecutor(new ThreadFactory() {
            @Override
            public Thread newThread(Runnable work) {
                Thread thread = new Thread(work, name);
                thread.setDaemon(true);
                return thread;
            }
        });
    }

    synchronized Snapshot snapshot() {
        return new Snapshot(phase, source == null ? "" : source.name(), facts, form, message, kind, done, calls,
                preview, shot, png, history, rows);
    }

    /** One screen at a time hears; null: none does. */
    synchronized void listen(Listener screenListener) {
        listener = screenListener;
    }

    synchronized void typed(Form typed) {
        form = typed;
    }

    /** Reads what was kept, then gives `opener` the key of the bundle that was open ("" for none). */
    void restore(final Opener opener) {
        disk.execute(new Runnable() {
            @Override
            public void run() {
                Store.Kept kept = store.load();
                synchronized (Engine.this) {
                    form = kept.form;
                    history = kept.shots;
                }
                if (!kept.shots.isEmpty()) {
                    show(kept.shots.get(0));
                }
                Source again = opener.find(kept.source);
                if (again != null) {
                    open(again);
                }
                tell();
            }
        });
    }

    /** Finds a bundle again by its {@link Source#key}. */
    interface Opener {
        /** @return null where there is none */
        Source find(String key);
    }

    /** Opens a bundle instead of the one that is open. Nothing happens while something is drawn. */
    synchronized void open(final Source chosen) {
        if (job != null) {
            return;
        }
        source = chosen;
        facts = null;
        phase = Snapshot.Phase.OPENING;
        say(Snapshot.Kind.INFORMATION, String.format(Words.OPENING, chosen.name()));
        worker.execute(new Runnable() {
            @Override
            public void run() {
                openNow(chosen);
            }
        });
    }

    private void openNow(Source chosen) {
        Facts found = null;
        Throwable failure = null;
        closeNow();
        try {
            Options options = new Options().cache(kernels);
            held = chosen.open(options);
            player = Player.open(options);
            found = Facts.read(player.describe());
        } catch (Exception | LinkageError | OutOfMemoryError failed) {
            failure = failed;
            closeNow();
        }
        synchronized (this) {
            if (source != chosen) {
                return;  // another was chosen meanwhile, and the worker opens it next
            }
            facts = found;
            phase = found == null ? Snapshot.Phase.NO_BUNDLE : Snapshot.Phase.READY;
            say(found == null ? Snapshot.Kind.ERROR : Snapshot.Kind.INFORMATION,
                    found == null ? Words.of(failure) : Words.READY);
        }
        if (found != null) {
            keep();
        }
    }

    private void closeNow() {
        if (player != null) {
            player.close();
            player = null;
        }
        synchronized (this) {
            loaded = false;
        }
        try {
            if (held != null) {
                held.close();
            }
        } catch (IOException gone) {
            // nothing was written to it
        }
        held = null;
    }

    /** Draws what the form says, or says what is wrong with it. */
    synchronized void draw() {
        if (phase != Snapshot.Phase.READY || job != null) {
            return;
        }
        final Form complete;
        final Request request;
        try {
            complete = form.complete(facts, chance);
            request = complete.request(facts);
        } catch (Form.Mistake mistake) {
            say(Snapshot.Kind.ERROR, mistake.getMessage());
            return;
        }
        final Job drawing = begin(Snapshot.Phase.DRAWING, Words.LOADING);
        worker.execute(new Runnable() {
            @Override
            public void run() {
                drawNow(drawing, complete, request);
            }
        });
    }

    private synchronized Job begin(Snapshot.Phase next, String saying) {
        job = new Job();
        phase = next;
        preview = null;
        done = 0;
        calls = 0;
        say(Snapshot.Kind.INFORMATION, saying);
        return job;
    }

    private void drawNow(Job drawing, Form complete, Request request) {
        keep();
        try {
            if (drawing.cancelled) {
                throw new PlayerException(PlayerException.CANCELLED, Words.CANCELLED);
            }
            synchronized (this) {
                loaded = true;
            }
            long began = System.nanoTime();
            Picture picture = player.draw(request, watch(drawing));
            double seconds = 1e-9 * (System.nanoTime() - began);
            String name = "picture-" + System.currentTimeMillis();
            Shot drawn = new Shot(name, snapshot().bundle, complete, seconds, picture);
            synchronized (this) {
                shot = drawn;
                png = picture.png;
            }
            finish(Snapshot.Kind.INFORMATION, Words.done(drawn));
            add(drawn, picture.png);
        } catch (Exception | OutOfMemoryError failure) {
            fail(failure);
        }
    }

    private void fail(Throwable failure) {
        if (failure instanceof PlayerException && ((PlayerException) failure).code == PlayerException.CANCELLED) {
            finish(Snapshot.Kind.INFORMATION, Words.CANCELLED);
        } else {
            finish(Snapshot.Kind.ERROR, Words.of(failure));
        }
    }

    private Watch watch(final Job drawing) {
        return new Watch() {
            @Override
            public void progress(int doneNow, int callsNow, double secondsLeft, String stage) {
                if (drawing.cancelled) {
                    player.cancel();  // again: the first may have come before the drawing began
                    return;
                }
                synchronized (Engine.this) {
                    done = doneNow;
                    calls = callsNow;
                    if (!putAway) {
                        say(Snapshot.Kind.INFORMATION, Words.step(doneNow, callsNow, stage, secondsLeft));
                    } else {
                        tell();
                    }
                }
            }

            @Override
            public void preview(int doneNow, byte[] rgb, int width, int height) {
                synchronized (Engine.this) {
                    preview = new Snapshot.Pixels(rgb, width, height);
                    tell();
                }
            }
        };
    }

    /** The job is over; memory that was asked for meanwhile is given back. */
    private void finish(Snapshot.Kind how, String saying) {
        boolean unload;
        synchronized (this) {
            unload = putAway;
            putAway = false;
        }
        if (unload) {
            unloadNow();
        }
        synchronized (this) {
            job = null;
            phase = Snapshot.Phase.READY;
            preview = null;
            say(how, unload ? saying + " " + Words.PUT_AWAY : saying);
        }
    }

    /** Ends what goes on, soon. */
    synchronized void cancel() {
        if (job == null || job.cancelled) {
            return;
        }
        job.cancelled = true;
        say(Snapshot.Kind.INFORMATION, Words.CANCELLING);
        Player running = player;
        if (running != null) {
            running.cancel();
        }
    }

    /** Measures; the rows say what the phone was like before and after. */
    synchronized void measure(final int repeats) {
        if (phase != Snapshot.Phase.READY || job != null) {
            return;
        }
        final Job measuring = begin(Snapshot.Phase.MEASURING, Words.BENCHMARK);
        worker.execute(new Runnable() {
            @Override
            public void run() {
                measureNow(measuring, repeats);
            }
        });
    }

    private void measureNow(Job measuring, int repeats) {
        try {
            if (measuring.cancelled) {
                throw new PlayerException(PlayerException.CANCELLED, Words.CANCELLED);
            }
            synchronized (this) {
                loaded = true;
            }
            Map<String, Object> before = phone.state();
            String found = Rows.join(player.bench(repeats), phone.facts(), before, phone.state());
            synchronized (this) {
                rows = found;
            }
            finish(Snapshot.Kind.INFORMATION, Words.MEASURED);
        } catch (Exception | OutOfMemoryError failure) {
            fail(failure);
        }
    }

    /** The system asks for memory: the model is put away at once, or when what goes on is done. */
    synchronized void pressure() {
        if (job != null) {
            putAway = true;
            say(Snapshot.Kind.WARNING, Words.SHORT_OF_MEMORY);
        } else if (loaded) {
            loaded = false;
            worker.execute(new Runnable() {
                @Override
                public void run() {
                    synchronized (Engine.this) {
                        if (job != null) {
                            putAway = true;  // a drawing was asked for before the worker came to this
                            return;
                        }
                    }
                    unloadNow();
                    synchronized (Engine.this) {
                        if (job == null) {
                            say(Snapshot.Kind.WARNING, Words.PUT_AWAY);
                        }
                    }
                }
            });
        }
    }

    private void unloadNow() {
        try {
            if (player != null) {
                player.unload();
            }
        } catch (PlayerException closed) {
            // it holds nothing then
        }
        synchronized (this) {
            loaded = false;
        }
    }

    /** Shows a picture of the history, and what was asked for. */
    void recall(final Shot chosen) {
        disk.execute(new Runnable() {
            @Override
            public void run() {
                show(chosen);
                synchronized (Engine.this) {
                    form = chosen.form;
                    tell();
                }
            }
        });
    }

    private void show(Shot chosen) {
        try {
            byte[] file = store.png(chosen);
            synchronized (this) {
                shot = chosen;
                png = file;
                tell();
            }
        } catch (IOException gone) {
            synchronized (this) {
                say(Snapshot.Kind.ERROR, Words.of(gone));
            }
        }
    }

    private void add(Shot drawn, byte[] file) {
        try {
            List<Shot> all = store.add(snapshot().history, drawn, file);
            synchronized (this) {
                history = Collections.unmodifiableList(new ArrayList<Shot>(all));
                tell();
            }
            keep();
        } catch (IOException full) {
            synchronized (this) {
                say(Snapshot.Kind.WARNING, "The picture is not in the history: " + full.getMessage());
            }
        }
    }

    /** Writes what outlives the process; the screen calls it when it goes to the background. */
    void keep() {
        final Store.Kept kept;
        synchronized (this) {
            kept = new Store.Kept(form, source == null ? "" : source.key(), history);
        }
        disk.execute(new Runnable() {
            @Override
            public void run() {
                try {
                    store.save(kept);
                } catch (IOException full) {
                    // the next start begins with empty fields
                }
            }
        });
    }

    /** Something that the screen did for itself, such as saving a picture. What goes on has more to say. */
    synchronized void note(Snapshot.Kind how, String saying) {
        if (job == null) {
            say(how, saying);
        }
    }

    private synchronized void say(Snapshot.Kind how, String saying) {
        kind = how;
        message = saying;
        tell();
    }

    /** At most one notice waits for the screen: a drawing that is faster than the screen must not fill its queue. */
    private synchronized void tell() {
        if (told || listener == null) {
            return;
        }
        told = true;
        screen.execute(new Runnable() {
            @Override
            public void run() {
                Listener hears;
                synchronized (Engine.this) {
                    told = false;
                    hears = listener;
                }
                if (hears != null) {
                    hears.changed();
                }
            }
        });
    }
}
