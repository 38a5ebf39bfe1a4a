package dev.ondevice.demo;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Between a screen and the engine: what is shown for a {@link Snapshot}, and what a touch does. Of one screen. */
final class Presenter implements Notices.Listener {
    static final int NOTHING = -2;
    static final int UNKNOWN = -1;
    static final int REPEATS = 5;
    private static final String TITLE = "ondevice";

    /** Whatever shows it: the activity, or a test. */
    interface View {
        void show(Shown shown);
    }

    private final Engine engine;
    private View view;
    private Shown.Page page;

    Presenter(Engine engine, Shown.Page page) {
        this.engine = engine;
        this.page = page;
    }

    /** The screen can be seen: it is filled at once with what there is now. */
    void attach(View screen) {
        view = screen;
        engine.listen(this);
        changed();
    }

    /** The screen goes; what goes on goes on. */
    void detach() {
        engine.listen(null);
        view = null;
        engine.keep();
    }

    @Override
    public void changed() {
        if (view != null) {
            view.show(shown(engine.snapshot(), page));
        }
    }

    Shown.Page page() {
        return page;
    }

    void turnTo(Shown.Page next) {
        page = next;
        changed();
    }

    void typed(Form form) {
        engine.typed(form);
    }

    void draw() {
        engine.draw();
    }

    void cancel() {
        engine.cancel();
    }

    void measure() {
        engine.measure(REPEATS);
    }

    /** null: no control picture. */
    void look(Control chosen) {
        engine.look(chosen);
    }

    void open(Source source) {
        engine.open(source);
    }

    void recall(Shot shot) {
        engine.recall(shot);
        turnTo(Shown.Page.DRAW);
    }

    static Shown shown(Snapshot now, Shown.Page page) {
        Shown out = new Shown();
        boolean ready = now.phase == Snapshot.Phase.READY;
        out.page = page;
        out.title = now.bundle.isEmpty() ? TITLE : now.bundle;
        out.status = now.message;
        out.kind = now.kind;
        out.form = now.form;
        out.takesNegative = now.facts == null || now.facts.takesNegative;
        out.sizes = sizes(now.facts);
        out.adapters = now.facts == null ? Collections.<String, Integer>emptyMap() : now.facts.adapters;
        out.decodesFast = now.facts != null && now.facts.decodesFast;
        out.takesControl = now.facts != null && now.facts.takesControl;
        out.control = now.control == null ? "" : now.control.toString();
        out.stepsHint = now.facts == null ? "" : String.valueOf(now.facts.steps);
        out.seedHint = "random";
        out.percent = percent(now);
        out.canOpen = !now.busy();
        out.canDraw = ready;
        out.canCancel = now.busy();
        out.canShare = now.shot != null && !now.busy();
        out.canMeasure = ready;
        out.canExport = !now.rows.isEmpty() && !now.busy();
        out.preview = now.phase == Snapshot.Phase.DRAWING ? now.preview : null;
        out.shot = now.shot;
        out.png = now.png;
        out.history = now.history;
        out.report = report(now);
        out.figures = Rows.summary(now.rows);
        return out;
    }

    private static int percent(Snapshot now) {
        if (now.phase == Snapshot.Phase.DRAWING && now.done > 0 && now.calls > 0) {
            return 100 * now.done / now.calls;
        }
        return now.busy() || now.phase == Snapshot.Phase.OPENING ? UNKNOWN : NOTHING;
    }

    private static List<String> sizes(Facts facts) {
        if (facts == null) {
            return Collections.emptyList();
        }
        List<String> out = new ArrayList<String>();
        for (Facts.Size size : facts.sizes) {
            out.add(size.toString());
        }
        return out;
    }

    private static Map<String, String> report(Snapshot now) {
        Map<String, String> out = new LinkedHashMap<String, String>();
        if (now.facts != null) {
            out.putAll(now.facts.report);
        }
        if (now.shot != null) {
            out.put("Last picture, device memory", Words.bytes(now.shot.deviceBytes));
        }
        return out;
    }
}
