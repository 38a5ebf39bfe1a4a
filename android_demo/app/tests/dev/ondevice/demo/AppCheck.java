package dev.ondevice.demo;

import static dev.ondevice.demo.HostScreen.check;
import static dev.ondevice.demo.HostScreen.form;
import static dev.ondevice.demo.HostScreen.same;

import android.content.ContentResolver;

import java.io.File;
import java.io.IOException;
import java.util.List;

/** What the app does on the host, through the JNI library, with a player that draws nothing: `AppCheck NAME FOLDER`. */
public final class AppCheck {
    private final HostScreen screen = new HostScreen();
    private final File folder;
    private final Source bundle;
    private final Engine engine;
    private final Presenter presenter;

    private AppCheck(File folder) throws Exception {
        this.folder = folder;
        bundle = new Source.OfPath(new File(folder, "fake.ondevice").getPath());
        engine = screen.engine(new File(folder, "store"));
        presenter = new Presenter(engine, Shown.Page.DRAW);
        presenter.attach(screen);
        same(screen.shown.status, Words.NO_BUNDLE);
        presenter.open(bundle);
        screen.untilReady();
    }

    public static void main(String[] args) throws Exception {
        AppCheck test = new AppCheck(new File(args[1]));
        AppCheck.class.getDeclaredMethod(args[0]).invoke(test);
        System.out.println("passed");
    }

    void draws() throws Exception {
        presenter.typed(new Form(" a \ud83d\ude00 ", "rain", "", "", "32x32", true));
        presenter.draw();
        Shown done = screen.untilSays(" s (first step after 0.25 s), 3.0 MB of the device.");
        check(done.preview == null && done.percent == Presenter.NOTHING, done.percent);
        Form asked = done.shot.form;
        check(Long.parseLong(asked.seed) >= 0 && asked.lowMemory, asked.json());
        same(new String(done.png, "UTF-8"), "a \ud83d\ude00\nnegative_prompt: rain\nsteps 4, seed " + asked.seed
                + ", 32x32, low_memory 1, pictures 0, ways 000, unloads 0");
        screen.until(new HostScreen.Wish() {
            @Override
            public boolean granted(Shown now) {
                return now.history.size() == 1;
            }
        });
    }

    void drawsWithAnAdapter() throws Exception {
        check(screen.shown.adapters.get("ink") == 75 && screen.shown.adapters.size() == 2, screen.shown.adapters);
        check(screen.shown.decodesFast, "no fast decoder");
        presenter.typed(form("a", "2").with("ink", 40, true));
        presenter.draw();
        String said = new String(screen.untilSays("Drawn in").png, "UTF-8");
        check(said.endsWith("unloads 0\nadapter ink 0.4\nfast 1, previews 0"), said);
        Shot shot = screen.shown.shot;
        check(shot.line().endsWith(" \u00b7 ink 40 %"), shot.line());
        Form kept = Form.of(shot.form.json());
        check(kept.adapter.equals("ink") && kept.strength == 40 && kept.fast, kept.json());
        presenter.typed(form("a", "2").with("of another bundle", 40, false));  // as a form that was kept may have it
        presenter.draw();
        screen.until(new HostScreen.Wish() {
            @Override
            public boolean granted(Shown now) {
                return now.canDraw && now.shot != null && now.shot.form.adapter.isEmpty();
            }
        });
        check(new String(screen.shown.png, "UTF-8").endsWith("unloads 0"), "an adapter that is not there");
    }

    void drawsWithAControlPicture() throws Exception {
        check(screen.shown.takesControl && screen.shown.control.isEmpty(), screen.shown.control);
        final Control bird = new Control("bird.png", new Snapshot.Pixels(new byte[3 * 5 * 4], 5, 4));
        presenter.look(bird);
        screen.until(new HostScreen.Wish() {
            @Override
            public boolean granted(Shown now) {
                return now.control.equals("bird.png, 5 x 4");
            }
        });
        String[] said = {"pictures 1, ways 000, unloads 0\ncontrol 5x4 100,200", "pictures 1, ways 000, unloads 0",
            "pictures 0, ways 000, unloads 0"};
        for (int i = 0; i < said.length; i++) {
            presenter.typed(form("picture " + i, "2").with(i == 0));
            presenter.draw();
            final String prompt = "picture " + i;
            Shown done = screen.until(new HostScreen.Wish() {
                @Override
                public boolean granted(Shown now) {
                    return now.canDraw && now.shot != null && now.shot.form.prompt.equals(prompt);
                }
            });
            String got = new String(done.png, "UTF-8");
            check(got.endsWith(said[i]), got);
            check(Form.of(done.shot.form.json()).edges == (i == 0), done.shot.form.json());
            if (i == 1) {
                presenter.look(null);
            }
        }
        int[] argb = {0xFF010203, 0xFF040506, 0x00000000, 0x80FFFFFF, 0xFF0A0B0C, 0xFF0D0E0F};  // [2, 3]
        int[][] reds = {{1, 4, 255, 255, 10, 13}, {255, 4, 1, 13, 10, 255}, {13, 10, 255, 255, 4, 1},
            {255, 10, 13, 1, 4, 255}, {1, 255, 4, 10, 255, 13}, {255, 1, 10, 4, 13, 255}, {13, 255, 10, 4, 255, 1},
            {255, 13, 4, 10, 1, 255}};
        for (int orientation = 1; orientation <= 8; orientation++) {
            Snapshot.Pixels seen = Control.upright(argb, 3, 2, orientation);
            same(seen.width, orientation < 5 ? 3 : 2);
            for (int i = 0; i < 6; i++) {
                same(seen.rgb[3 * i] & 255, reds[orientation - 1][i]);
            }
        }
        check(Control.sample(2048, 1) == 1 && Control.sample(1, 2049) == 2 && Control.sample(9000, 1) == 8, "sides");
    }

    void cancels() throws Exception {
        presenter.typed(form("slow", "5"));
        presenter.draw();
        screen.until(new HostScreen.Wish() {
            @Override
            public boolean granted(Shown now) {
                return now.status.equals("Step 4 of 5, 60 %, about 1 s left") && now.percent == 60
                        && now.preview != null && now.preview.width == 8;
            }
        });
        check(!screen.shown.canDraw && !screen.shown.canOpen && screen.shown.canCancel, "buttons");
        presenter.draw();  // all that a finger can reach meanwhile does nothing, and comes back at once
        presenter.measure();
        presenter.open(new Source.OfPath("elsewhere"));
        presenter.cancel();
        presenter.cancel();
        same(screen.untilReady().status, Words.CANCELLED);
        check(screen.shown.shot == null && screen.shown.title.equals("fake.ondevice"), screen.shown.title);
        presenter.draw();
        presenter.cancel();  // before the worker has begun
        same(screen.untilReady().status, Words.CANCELLED);
        presenter.typed(form("late slow", "5"));
        presenter.draw();
        Thread.sleep(100);
        presenter.cancel();
        same(screen.untilReady().status, Words.CANCELLED);
        presenter.typed(form("quick", "2"));
        presenter.draw();
        screen.untilSays("Drawn in");
    }

    void givesMemoryBack() throws Exception {
        engine.pressure();  // nothing is loaded
        presenter.typed(form("one", "2"));
        presenter.draw();
        screen.untilSays("Drawn in");
        engine.pressure();
        same(screen.untilSays("put away.").status, Words.PUT_AWAY);
        presenter.typed(form("slow", "5"));
        presenter.draw();
        screen.untilSays("Step 4 of 5");
        engine.pressure();
        Shown warned = screen.untilSays(Words.SHORT_OF_MEMORY);
        same(warned.kind, Snapshot.Kind.WARNING);
        presenter.cancel();
        same(screen.untilReady().status, Words.CANCELLED + " " + Words.PUT_AWAY);
        presenter.typed(form("one", "2"));
        presenter.draw();
        String said = new String(screen.untilSays("Drawn in").png, "UTF-8");
        check(said.endsWith("unloads 2"), said);
    }

    void saysWhatIsWrong() throws Exception {
        String[][] mistakes = {
            {"", "4", "1", "", "Prompt: say what to draw."},
            {"a", "0", "1", "", "Steps: not a whole number from 1 to 1000 (got 0)."},
            {"a", "4", "-1", "", "Seed: not a whole number from 0 to 9223372036854775807 (got -1)."},
            {"a", "4", "1", "9x9", "Size: this bundle has no 9x9; it has [64x32, 32x32]."},
        };
        for (String[] one : mistakes) {
            presenter.typed(new Form(one[0], "", one[1], one[2], one[3], false));
            presenter.draw();
            Shown refused = screen.untilSays(one[4]);
            check(refused.canDraw && refused.kind == Snapshot.Kind.ERROR && refused.form.steps.equals(one[1]), one[4]);
        }
        for (String failure : new String[] {
            "12 unet: the driver failed (got -5). Fix: close other apps.",
            "13 sampler: is not finite. Fix: use fp32.",
            "1 \u00e9: our fault."
        }) {
            presenter.typed(form("fail " + failure, "4"));
            presenter.draw();
            screen.untilSays(failure.substring(failure.indexOf(' ') + 1));
            same(screen.untilReady().kind, Snapshot.Kind.ERROR);
        }
        presenter.open(new Source.OfPath(new File(folder, "not a bundle").getPath()));
        screen.untilSays("is no bundle. Fix: copy the bundle again.");
        check(!screen.shown.canDraw && screen.shown.canOpen, "buttons");
        presenter.open(bundle);
        screen.untilReady();
    }

    void survivesRotation() throws Exception {
        presenter.typed(form("slow", "5"));
        presenter.draw();
        screen.untilSays("Step 4 of 5");
        presenter.detach();
        Presenter turned = new Presenter(engine, presenter.page());
        turned.attach(screen);
        check(screen.shown.canCancel && screen.shown.status.startsWith("Step 4 of 5"), screen.shown.status);
        same(screen.shown.form.prompt, "slow");
        turned.detach();  // into the background, where it ends
        turned.cancel();
        while (engine.snapshot().busy()) {
            Thread.sleep(5);
        }
        turned.attach(screen);
        same(screen.shown.status, Words.CANCELLED);
    }

    /** A picture that the phone has no room for leaves nothing among the phone's pictures. */
    void keepsNoHalfOfAPicture() throws Exception {
        ContentResolver full = new ContentResolver() {};
        boolean refused = false;
        try {
            Files.addToPictures(full, "picture.png", new byte[1]);
        } catch (IOException why) {
            refused = true;
        }
        check(refused && full.inserted.isEmpty(), full.inserted);
    }

    void survivesTheProcess() throws Exception {
        for (int i = 0; i < Store.MOST_SHOTS + 2; i++) {
            presenter.typed(form("picture " + i, "1"));
            presenter.draw();
            screen.untilSays("Drawn in");
            final String last = "picture " + i;
            screen.until(new HostScreen.Wish() {
                @Override
                public boolean granted(Shown now) {
                    return !now.history.isEmpty() && now.history.get(0).form.prompt.equals(last);
                }
            });
        }
        presenter.typed(form("typed later", "3"));
        presenter.detach();
        File kept = new File(folder, "store");
        while (!new String(java.nio.file.Files.readAllBytes(new File(kept, "kept.json").toPath()), "UTF-8")
                .contains("typed later")) {
            Thread.sleep(5);
        }
        same(kept.list().length, Store.MOST_SHOTS + 1);
        HostScreen after = new HostScreen();
        Engine next = after.engine(kept);
        Presenter again = new Presenter(next, Shown.Page.HISTORY);
        again.attach(after);
        next.restore(new Source.Finder() {
            @Override
            public Source find(String key) {
                return new Source.OfPath(key);
            }
        });
        after.untilReady();
        List<Shot> history = after.shown.history;
        same(after.shown.form.prompt, "typed later");
        same(history.size(), Store.MOST_SHOTS);
        same(after.shown.shot.form.prompt, "picture " + (Store.MOST_SHOTS + 1));
        again.recall(history.get(3));
        after.until(new HostScreen.Wish() {
            @Override
            public boolean granted(Shown now) {
                return now.form.prompt.equals("picture " + (Store.MOST_SHOTS - 2)) && now.page == Shown.Page.DRAW;
            }
        });
    }

    void measures() throws Exception {
        presenter.turnTo(Shown.Page.BENCHMARK);
        presenter.measure();
        Shown measured = screen.untilSays(Words.MEASURED);
        same(measured.figures.get(0), "none\nMedian: 1.50 s\nMemory of the app, at most: 7.0 MB");
        same(engine.snapshot().rows, "{\"device\": \"none\", \"median_seconds\": 1.5, \"peak_bytes\": 7000000, "
                + "\"runs\": [5], \"ops\": [], \"phone\": {\"model\": \"JVM\"}, \"phone_before\": "
                + "{\"battery_percent\": 50}, \"phone_after\": {\"battery_percent\": 50}}\n");
    }
}
