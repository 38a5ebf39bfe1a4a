package dev.ondevice.demo;

import android.app.Activity;
import android.content.ActivityNotFoundException;
import android.content.Intent;
import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import android.net.Uri;
import android.os.Build;
import android.os.Bundle;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executor;

/** The app's one screen: views, and what needs the system. What it shows lives in the {@link Engine}. */
public final class MainActivity extends Activity implements Presenter.View, Screen.Actions {
    private static final int OPEN = 1;
    private static final int SAVE = 2;
    private static final int SHARE = 3;
    private static final int EXPORT = 4;
    private static final int CONTROL = 5;
    private static final String PAGE = "page";
    /** Of all activities that come and go: decoding and writing, off the screen's thread. */
    private static final Executor FILES = Worker.thread("ondevice-pictures");

    private Engine engine;
    private Presenter presenter;
    private Screen screen;
    private Object pictured;

    /** What is done off the screen's thread, and may fail. */
    private interface Work {
        void run() throws IOException;
    }

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        engine = ((DemoApplication) getApplication()).engine();
        String page = saved == null ? null : saved.getString(PAGE);
        presenter = new Presenter(engine, page == null ? Shown.Page.DRAW : Shown.Page.valueOf(page));
        screen = new Screen(this, new Look(this), presenter, this);
        setContentView(screen.root);
    }

    @Override
    protected void onStart() {
        super.onStart();
        presenter.attach(this);
    }

    @Override
    protected void onStop() {
        presenter.detach();
        super.onStop();
    }

    @Override
    protected void onSaveInstanceState(Bundle out) {
        super.onSaveInstanceState(out);
        out.putString(PAGE, presenter.page().name());
    }

    @Override
    public void show(Shown now) {
        screen.show(now);
        final Object picture = now.preview != null ? now.preview : now.png;
        if (picture == pictured) {
            return;
        }
        pictured = picture;
        final String described = now.shot == null ? "" : now.shot.form.prompt;
        if (now.preview != null) {
            screen.show(Files.bitmap(now.preview), now.status);
        } else if (now.png != null) {
            final byte[] png = now.png;
            FILES.execute(new Runnable() {
                @Override
                public void run() {
                    showLater(picture, BitmapFactory.decodeByteArray(png, 0, png.length), described);
                }
            });
        }
    }

    private void showLater(final Object picture, final Bitmap bitmap, final String described) {
        runOnUiThread(new Runnable() {
            @Override
            public void run() {
                if (pictured == picture) {
                    screen.show(bitmap, described);
                }
            }
        });
    }

    @Override
    public void chooseBundle() {
        ask(new Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*"), OPEN);
    }

    @Override
    public void savePicture() {
        withPicture(SAVE);
    }

    @Override
    public void sharePicture() {
        withPicture(SHARE);
    }

    @Override
    public void exportRows() {
        ask(Files.picker(Files.ROWS, "ondevice-bench.jsonl"), EXPORT);
    }

    @Override
    public void chooseControl() {
        ask(new Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("image/*"), CONTROL);
    }

    private void withPicture(final int request) {
        final Snapshot now = engine.snapshot();
        if (now.shot == null) {
            return;
        }
        final String name = now.shot.name + ".png";
        if (Build.VERSION.SDK_INT < 29) {
            ask(Files.picker(Files.PNG, name), request);
            return;
        }
        work(new Work() {
            @Override
            public void run() throws IOException {
                saved(request, Files.addToPictures(getContentResolver(), name, now.png), Files.FOLDER);
            }
        });
    }

    @Override
    protected void onActivityResult(final int request, int result, Intent data) {
        final Uri uri = data == null ? null : data.getData();
        if (result != RESULT_OK || uri == null) {
            return;
        }
        if (request == OPEN) {
            try {
                getContentResolver().takePersistableUriPermission(uri, Intent.FLAG_GRANT_READ_URI_PERMISSION);
            } catch (SecurityException once) {
                // it is open until the process ends, and is then chosen again
            }
            presenter.open(new DocumentSource(getContentResolver(), uri));
            return;
        }
        if (request == CONTROL) {
            read(uri);
            return;
        }
        final Snapshot now = engine.snapshot();
        final byte[] file = request == EXPORT ? now.rows.getBytes(StandardCharsets.UTF_8) : now.png;
        work(new Work() {
            @Override
            public void run() throws IOException {
                Files.write(getContentResolver(), uri, file);
                saved(request, uri, "the file");
            }
        });
    }

    private void read(final Uri uri) {
        FILES.execute(new Runnable() {
            @Override
            public void run() {
                try {
                    engine.look(Files.picture(getContentResolver(), uri));
                } catch (IOException | SecurityException | OutOfMemoryError failed) {
                    engine.note(Snapshot.Kind.ERROR, Words.NO_PICTURE);
                }
            }
        });
    }

    private void saved(int request, final Uri uri, String where) {
        if (request == SHARE) {
            runOnUiThread(new Runnable() {
                @Override
                public void run() {
                    startActivity(Files.sending(uri));
                }
            });
        } else {
            engine.note(Snapshot.Kind.INFORMATION, "Saved to " + where + ".");
        }
    }

    private void work(final Work slow) {
        FILES.execute(new Runnable() {
            @Override
            public void run() {
                try {
                    slow.run();
                } catch (IOException | SecurityException failed) {
                    engine.note(Snapshot.Kind.ERROR, "file: cannot be written (" + failed.getMessage()
                            + "). Fix: make room, or choose another place.");
                }
            }
        });
    }

    private void ask(Intent intent, int request) {
        try {
            startActivityForResult(intent, request);
        } catch (ActivityNotFoundException none) {
            engine.note(Snapshot.Kind.ERROR, "phone: has no app for files. Fix: install one, or enable it.");
        }
    }
}
