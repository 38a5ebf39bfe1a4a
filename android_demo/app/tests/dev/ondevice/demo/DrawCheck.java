package dev.ondevice.demo;

import static dev.ondevice.demo.HostScreen.check;
import static dev.ondevice.demo.HostScreen.form;
import static dev.ondevice.demo.HostScreen.same;

import java.io.File;
import java.nio.file.Files;
import java.util.Arrays;

/** The app over the player itself: `DrawCheck FOLDER BUNDLE PROMPT` writes picture.png and rows.jsonl there. */
public final class DrawCheck {
    private DrawCheck() {}

    public static void main(String[] args) throws Exception {
        File folder = new File(args[0]);
        HostScreen screen = new HostScreen();
        Engine engine = screen.engine(new File(folder, "store"));
        Presenter presenter = new Presenter(engine, Shown.Page.DRAW);
        presenter.attach(screen);
        presenter.open(new Source.OfPath(args[1]));
        same(screen.untilReady().status, Words.READY);

        presenter.typed(form(args[2], "20"));
        presenter.draw();
        screen.until(new HostScreen.Wish() {
            @Override
            public boolean granted(Shown now) {
                return now.preview != null && now.percent > 0 && now.status.contains(" left");
            }
        });
        presenter.cancel();
        same(screen.untilReady().status, Words.CANCELLED);
        check(screen.shown.shot == null, "a picture of a drawing that was cancelled");

        byte[] png = draw(screen, presenter, args[2]);
        engine.pressure();
        screen.untilSays(Words.PUT_AWAY);
        check(Arrays.equals(draw(screen, presenter, args[2]), png), "another picture after the model was put away");
        Files.write(new File(folder, "picture.png").toPath(), png);

        presenter.measure();
        screen.untilSays(Words.MEASURED);
        check(screen.shown.figures.get(0).contains("Where the time goes"), screen.shown.figures);
        Files.write(new File(folder, "rows.jsonl").toPath(), engine.snapshot().rows.getBytes("UTF-8"));

        presenter.open(new Source.OfPath(args[1] + ".missing"));
        check(screen.untilSays("Fix: ").kind == Snapshot.Kind.ERROR, screen.shown.status);
        System.out.println("passed");
    }

    private static byte[] draw(HostScreen screen, Presenter presenter, String prompt) throws Exception {
        presenter.typed(form(prompt, "4"));
        presenter.draw();
        return screen.untilSays("Drawn in").png;
    }
}
