package dev.ondevice.demo;

import java.io.File;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Executor;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** The screen's thread of a test: a queue that the test works off, and a view that remembers what it was shown. */
final class HostScreen implements Executor, Presenter.View {
    /** What must come to be. */
    interface Wish {
        boolean granted(Shown shown);
    }

    private static final long PATIENCE_S = 60;

    final List<String> statuses = new ArrayList<String>();
    Shown shown;
    private volatile boolean crowded;
    private final BlockingQueue<Runnable> queue = new LinkedBlockingQueue<Runnable>();

    @Override
    public void execute(Runnable work) {
        crowded |= !queue.isEmpty();
        queue.add(work);
    }

    @Override
    public void show(Shown now) {
        if (statuses.isEmpty() || !statuses.get(statuses.size() - 1).equals(now.status)) {
            statuses.add(now.status);
        }
        shown = now;
    }

    /** Works off the queue until `wish` is granted by what is there after all that was done before. */
    Shown until(Wish wish) throws InterruptedException {
        Runnable work = queue.poll();
        while (work != null || !wish.granted(shown)) {
            if (work == null) {
                work = queue.poll(PATIENCE_S, TimeUnit.SECONDS);
            }
            if (work == null) {
                throw new AssertionError("nothing more happened after " + statuses);
            }
            work.run();
            work = null;
        }
        check(!crowded, "a notice was given before the last was heard");
        return shown;
    }

    Shown untilSays(final String part) throws InterruptedException {
        return until(new Wish() {
            @Override
            public boolean granted(Shown now) {
                return now.status.contains(part);
            }
        });
    }

    Shown untilReady() throws InterruptedException {
        return until(new Wish() {
            @Override
            public boolean granted(Shown now) {
                return now.canDraw;
            }
        });
    }

    Engine engine(File folder) {
        return new Engine(new Store(folder), null, new Phone() {
            @Override
            public Map<String, Object> facts() {
                return Collections.<String, Object>singletonMap("model", "JVM");
            }

            @Override
            public Map<String, Object> state() {
                return Collections.<String, Object>singletonMap("battery_percent", 50.0);
            }
        }, this);
    }

    static void check(boolean holds, Object what) {
        if (!holds) {
            throw new AssertionError(String.valueOf(what));
        }
    }

    static void same(Object got, Object expected) {
        check(expected.equals(got), "got " + got + ", expected " + expected);
    }

    static Form form(String prompt, String steps) {
        return new Form(prompt, "", steps, "7", "", false);
    }
}
