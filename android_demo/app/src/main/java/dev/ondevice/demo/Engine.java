package dev.ondevice.demo;

import dev.ondevice.player.Picture;
import dev.ondevice.player.PlayerException;
import dev.ondevice.player.Request;
import dev.ondevice.player.Watch;

import java.io.IOException;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;

/**
 * The player and all that the screen shows, for as long as the process lives: screens come and go (rotation,
 * background) and find it as it is. Its methods return at once, and may be called from any thread; what takes long is
 * done by one worker, in order. It knows nothing of Android.
 */
final class Engine {
    private final Store store;
    private final Phone phone;
    private final Notices notices;
    private final ExecutorService worker = Worker.thread("ondevice-player");
    private final ExecutorService disk = Worker.thread("ondevice-files");
    private final Random chance = new Random();

    private final Loaded player;

    // All below is guarded by `this`.
    private Job job;
    private boolean loaded;
    private boolean putAway;
    private Source source;
    private Snapshot.Phase phase = Snapshot.Phase.NO_BUNDLE;
    private Facts facts;
    private Form form = Form.empty();
    private Control control;
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
        player = new Loaded(kernels);
        this.phone = phone;
        notices = new Notices(screen);
    }

    synchronized Snapshot snapshot() {
        return new Snapshot(phase, source == null ? "" : source.name(), facts, form, control, message, kind, done,
                calls, preview, shot, png, history, rows);
    }

    /** One screen at a time hears of changes; null: none does. */
    void listen(Notices.Listener screen) {
        notices.listen(screen);
    }

    synchronized void typed(Form typed) {
        form = typed;
    }

    /** The picture that a ControlNet looks at from now on; null: none. */
    synchronized void look(Control chosen) {
        control = chosen;
        notices.tell();
    }

    /** Reads what was kept, then gives `opener` the key of the bundle that was open ("" for none). */
    void restore(final Source.Finder opener) {
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
                notices.tell();
            }
        });
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
        try {
            found = player.open(chosen);
        } catch (Exception | LinkageError | OutOfMemoryError failed) {
            failure = failed;
        }
        synchronized (this) {
            if (source != chosen) {
                return;  // another was chosen meanwhile, and the worker opens it next
            }
            loaded = false;
            facts = found;
            phase = found == null ? Snapshot.Phase.NO_BUNDLE : Snapshot.Phase.READY;
            say(found == null ? Snapshot.Kind.ERROR : Snapshot.Kind.INFORMATION,
                    found == null ? Words.of(failure) : Words.READY);
        }
        if (found != null) {
            keep();
        }
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
            request = complete.request(facts, control);
        } catch (Form.Mistake mistake) {
            say(Snapshot.Kind.ERROR, mistake.getMessage());
            return;
        }
        begin(Snapshot.Phase.DRAWING, Words.LOADING, new Drawing(complete, request));
    }

    private synchronized void begin(Snapshot.Phase next, String saying, Job work) {
        job = work;
        phase = next;
        preview = null;
        done = 0;
        calls = 0;
        say(Snapshot.Kind.INFORMATION, saying);
        worker.execute(work);
    }

    /** What the worker is asked for, and whether it is to end. */
    private abstract class Job implements Runnable {
        volatile boolean cancelled;

        /** Gives what the screen then says. */
        abstract String work() throws IOException;

        @Override
        public void run() {
            keep();
            try {
                if (cancelled) {
                    throw new PlayerException(PlayerException.CANCELLED, Words.CANCELLED);
                }
                synchronized (Engine.this) {
                    loaded = true;
                }
                finish(Snapshot.Kind.INFORMATION, work());
            } catch (Exception | OutOfMemoryError failure) {
                boolean ended = failure instanceof PlayerException
                        && ((PlayerException) failure).code == PlayerException.CANCELLED;
                finish(ended ? Snapshot.Kind.INFORMATION : Snapshot.Kind.ERROR,
                        ended ? Words.CANCELLED : Words.of(failure));
            }
        }
    }

    private final class Drawing extends Job implements Watch {
        private final Form complete;
        private final Request request;

        Drawing(Form complete, Request request) {
            this.complete = complete;
            this.request = request;
        }

        @Override
        String work() throws IOException {
            long began = System.nanoTime();
            Picture picture = player.draw(request, this);
            double seconds = 1e-9 * (System.nanoTime() - began);
            String name = "picture-" + System.currentTimeMillis();
            Shot drawn = new Shot(name, snapshot().bundle, complete, seconds, picture);
            synchronized (Engine.this) {
                shot = drawn;
                png = picture.png;
            }
            return Words.done(drawn) + add(drawn, picture.png);
        }

        @Override
        public void progress(int doneNow, int callsNow, double secondsLeft, String stage) {
            if (cancelled) {
                player.cancel();  // again: the first may have come before the drawing began
                return;
            }
            synchronized (Engine.this) {
                done = doneNow;
                calls = callsNow;
                if (putAway) {
                    notices.tell();
                } else {
                    say(Snapshot.Kind.INFORMATION, Words.step(doneNow, callsNow, stage, secondsLeft));
                }
            }
        }

        @Override
        public void preview(int doneNow, byte[] rgb, int width, int height) {
            synchronized (Engine.this) {
                preview = new Snapshot.Pixels(rgb, width, height);
                notices.tell();
            }
        }
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
        player.cancel();
    }

    /** Measures; the rows say what the phone was like before and after. */
    synchronized void measure(final int repeats) {
        if (phase != Snapshot.Phase.READY || job != null) {
            return;
        }
        begin(Snapshot.Phase.MEASURING, Words.BENCHMARK, new Job() {
            @Override
            String work() throws IOException {
                Map<String, Object> before = phone.state();
                String found = Rows.join(player.bench(repeats), phone.facts(), before, phone.state());
                synchronized (Engine.this) {
                    rows = found;
                }
                return Words.MEASURED;
            }
        });
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
        player.unload();
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
                    notices.tell();
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
                notices.tell();
            }
        } catch (IOException gone) {
            synchronized (this) {
                say(Snapshot.Kind.ERROR, Words.of(gone));
            }
        }
    }

    /** Puts a picture into the history; gives what is to be said where that fails. */
    private String add(Shot drawn, byte[] file) {
        try {
            List<Shot> all = store.add(snapshot().history, drawn, file);
            synchronized (this) {
                history = Collections.unmodifiableList(all);
            }
            keep();
            return "";
        } catch (IOException full) {
            return " It is not in the history: " + full.getMessage() + ".";
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
        notices.tell();
    }
}
