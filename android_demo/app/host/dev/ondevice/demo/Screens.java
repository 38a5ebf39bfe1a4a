package dev.ondevice.demo;

import android.app.Activity;
import android.graphics.Canvas;
import android.os.Bundle;
import android.os.Looper;
import android.view.View;
import android.view.ViewGroup;
import android.widget.EditText;
import android.widget.TextView;

import java.awt.Graphics2D;
import java.awt.RenderingHints;
import java.awt.image.BufferedImage;
import java.io.File;
import java.io.IOException;
import java.util.concurrent.TimeUnit;
import javax.imageio.ImageIO;

/**
 * Runs the activity on the host, touches its views and paints what they show: `Screens OUT BUNDLE DAMAGED PROMPT`. The
 * views' code, the logic, the JNI library and the player are those of the app; android.* is what stands beside this
 * file.
 */
public final class Screens {
    private static final int WIDTH_DP = 411;
    private static final int HEIGHT_DP = 891;
    private static final long PATIENCE_S = 300;

    private final File out;
    private final DemoApplication application = new DemoApplication();
    private Activity activity;
    private View root;

    /** What must come to be. */
    private interface Wish {
        boolean granted(Snapshot now);
    }

    private Screens(File out) {
        this.out = out;
    }

    public static void main(String[] args) throws Exception {
        new Screens(new File(args[0])).run(new Source.OfPath(args[1]), new Source.OfPath(args[2]), args[3]);
    }

    private void run(Source bundle, Source damaged, String prompt) throws Exception {
        application.onCreate();
        begin(null);
        paint("start");
        application.engine().open(bundle);
        untilReady();
        field(0).setText(prompt);
        field(3).setText("1");
        paint("ready");
        touch("Draw it");
        until(new Wish() {
            @Override
            public boolean granted(Snapshot now) {
                return now.preview != null && now.calls > 0 && 2 * now.done >= now.calls;
            }
        });
        Bundle saved = activity.end();  // as when the phone is turned
        begin(saved);
        paint("drawing");
        untilReady();
        until(new Wish() {
            @Override
            public boolean granted(Snapshot now) {
                return !now.history.isEmpty();
            }
        });
        Thread.sleep(500);  // the picture is decoded on a thread of its own
        work(0);
        paint("done");
        touch("History");
        paint("history");
        touch("Device");
        paint("device");
        touch("Benchmark");
        touch("Measure");
        untilReady();
        paint("benchmark");
        touch("Draw");
        application.onTrimMemory(15);
        until(new Wish() {
            @Override
            public boolean granted(Snapshot now) {
                return now.message.equals(Words.PUT_AWAY);
            }
        });
        paint("memory");
        application.engine().open(damaged);
        until(new Wish() {
            @Override
            public boolean granted(Snapshot now) {
                return now.phase == Snapshot.Phase.NO_BUNDLE;
            }
        });
        paint("error");
    }

    private void begin(Bundle saved) {
        activity = new MainActivity();
        root = activity.begin(application, saved);
    }

    private void untilReady() throws Exception {
        until(new Wish() {
            @Override
            public boolean granted(Snapshot now) {
                return now.phase == Snapshot.Phase.READY;
            }
        });
    }

    private void until(Wish wish) throws Exception {
        while (!wish.granted(application.engine().snapshot())) {
            work(PATIENCE_S);
        }
        work(0);
    }

    /** Works off what the screen's thread has to do. */
    private static void work(long patience) throws Exception {
        Runnable work = Looper.getMainLooper().queue.poll(patience, TimeUnit.SECONDS);
        if (work == null && patience > 0) {
            throw new AssertionError("nothing happened");
        }
        for (; work != null; work = Looper.getMainLooper().queue.poll()) {
            work.run();
        }
    }

    private void touch(String text) throws Exception {
        View found = find(root, text);
        if (found == null || !found.performClick()) {
            throw new AssertionError(text + " cannot be touched");
        }
        work(0);
    }

    /** The first that can be seen with that text. */
    private static View find(View view, String text) {
        if (view.getVisibility() != View.VISIBLE) {
            return null;
        }
        if (view instanceof TextView && ((TextView) view).getText().toString().equals(text)) {
            return view;
        }
        View found = null;
        for (int i = 0; found == null && view instanceof ViewGroup && i < ((ViewGroup) view).getChildCount(); i++) {
            found = find(((ViewGroup) view).getChildAt(i), text);
        }
        return found;
    }

    private EditText field(int index) {
        return fields(root, new int[] {index});
    }

    private static EditText fields(View view, int[] left) {
        if (view instanceof EditText && left[0]-- == 0) {
            return (EditText) view;
        }
        for (int i = 0; view instanceof ViewGroup && i < ((ViewGroup) view).getChildCount(); i++) {
            EditText found = fields(((ViewGroup) view).getChildAt(i), left);
            if (found != null) {
                return found;
            }
        }
        return null;
    }

    private void paint(String name) throws IOException {
        float density = activity.getResources().getDisplayMetrics().density;
        int width = Math.round(WIDTH_DP * density);
        int height = Math.round(HEIGHT_DP * density);
        root.measure(View.MeasureSpec.makeMeasureSpec(width, View.MeasureSpec.EXACTLY),
                View.MeasureSpec.makeMeasureSpec(height, View.MeasureSpec.EXACTLY));
        root.layout(0, 0, width, height);
        BufferedImage image = new BufferedImage(width, height, BufferedImage.TYPE_INT_RGB);
        Graphics2D graphics = image.createGraphics();
        graphics.setRenderingHint(RenderingHints.KEY_ANTIALIASING, RenderingHints.VALUE_ANTIALIAS_ON);
        root.draw(new Canvas(graphics));
        graphics.dispose();
        ImageIO.write(image, "png", new File(out, name + ".png"));
    }
}
