package dev.ondevice.demo;

import android.content.Context;
import android.content.res.ColorStateList;
import android.graphics.Bitmap;
import android.view.View;
import android.view.ViewGroup;
import android.widget.Button;
import android.widget.LinearLayout;
import android.widget.ProgressBar;
import android.widget.ScrollView;
import android.widget.TextView;

import java.util.EnumMap;
import java.util.List;
import java.util.Map;

/** All views of the app, and how a {@link Shown} is copied to them. */
final class Screen {
    /** What a touch asks of the activity, since it needs the system for it. */
    interface Actions {
        void chooseBundle();

        void savePicture();

        void sharePicture();

        void exportRows();

        void chooseControl();
    }

    final View root;
    private final Look look;
    private final Presenter presenter;
    private final TextView title;
    private final Button open;
    private final LinearLayout status;
    private final TextView message;
    private final ProgressBar progress;
    private final Button go;
    private final Button cancel;
    private final ScrollView scroll;
    private final DrawPage drawPage;
    private final LinearLayout lines;
    private final LinearLayout benchmark;
    private final LinearLayout figures;
    private final Button measure;
    private final Button export;
    private final Map<Shown.Page, Button> tabs = new EnumMap<Shown.Page, Button>(Shown.Page.class);
    private Shown.Page page;
    private Object listed;

    Screen(Context context, Look look, Presenter presenter, final Actions actions) {
        this.look = look;
        this.presenter = presenter;
        LinearLayout column = look.column();
        column.setBackgroundColor(look.page);
        column.setFitsSystemWindows(true);
        root = column;

        title = look.bold("", 20, look.ink);
        title.setSingleLine(true);
        open = look.button("Open", new View.OnClickListener() {
            @Override
            public void onClick(View touched) {
                actions.chooseBundle();
            }
        });
        LinearLayout top = look.row();
        top.setPadding(look.px(Look.EDGE), look.px(12), look.px(Look.EDGE), look.px(4));
        top.addView(title, look.share(0));
        top.addView(open, look.narrow(Look.GAP));
        column.addView(top, look.wide(0));
        column.addView(tabRow(), look.wide(0));

        message = look.text("", 14, look.ink);
        message.setAccessibilityLiveRegion(View.ACCESSIBILITY_LIVE_REGION_POLITE);
        progress = new ProgressBar(context, null, android.R.attr.progressBarStyleHorizontal);
        progress.setMax(100);
        progress.setProgressTintList(ColorStateList.valueOf(look.accent));
        progress.setIndeterminateTintList(ColorStateList.valueOf(look.accent));
        go = look.button("Draw it", new View.OnClickListener() {
            @Override
            public void onClick(View touched) {
                Screen.this.presenter.draw();
            }
        });
        cancel = look.button("Cancel", new View.OnClickListener() {
            @Override
            public void onClick(View touched) {
                Screen.this.presenter.cancel();
            }
        });
        status = look.row();
        LinearLayout said = look.column();
        said.addView(message, look.wide(0));
        said.addView(progress, look.wide(4));
        status.addView(said, look.share(0));
        status.addView(go, look.narrow(12));
        status.addView(cancel, look.narrow(12));
        status.setPadding(look.px(Look.EDGE), look.px(10), look.px(Look.EDGE), look.px(10));
        LinearLayout.LayoutParams below = look.wide(Look.GAP);
        below.leftMargin = look.px(Look.EDGE);
        below.rightMargin = look.px(Look.EDGE);
        column.addView(status, below);

        drawPage = new DrawPage(context, look, presenter, new View.OnClickListener() {
            @Override
            public void onClick(View touched) {
                actions.savePicture();
            }
        }, new View.OnClickListener() {
            @Override
            public void onClick(View touched) {
                actions.sharePicture();
            }
        }, new View.OnClickListener() {
            @Override
            public void onClick(View touched) {
                actions.chooseControl();
            }
        });
        lines = look.column();
        figures = look.column();
        measure = look.button("Measure", new View.OnClickListener() {
            @Override
            public void onClick(View touched) {
                Screen.this.presenter.measure();
            }
        });
        export = look.button("Export", new View.OnClickListener() {
            @Override
            public void onClick(View touched) {
                actions.exportRows();
            }
        });
        benchmark = benchmarkPage();
        LinearLayout body = look.column();
        body.setPadding(look.px(Look.EDGE), look.px(12), look.px(Look.EDGE), look.px(24));
        body.addView(drawPage.root, look.wide(0));
        body.addView(lines, look.wide(0));
        body.addView(benchmark, look.wide(0));
        scroll = new ScrollView(context);
        scroll.addView(body);
        column.addView(scroll, new LinearLayout.LayoutParams(ViewGroup.LayoutParams.MATCH_PARENT, 0, 1f));
    }

    private LinearLayout tabRow() {
        LinearLayout row = look.row();
        row.setPadding(look.px(Look.EDGE), 0, look.px(Look.EDGE), 0);
        for (final Shown.Page one : Shown.Page.values()) {
            String name = one.name().charAt(0) + one.name().substring(1).toLowerCase(java.util.Locale.ROOT);
            Button tab = look.button(name, new View.OnClickListener() {
                @Override
                public void onClick(View touched) {
                    presenter.turnTo(one);
                }
            });
            tab.setTextSize(android.util.TypedValue.COMPLEX_UNIT_SP, 13);
            tab.setPadding(look.px(4), look.px(4), look.px(4), look.px(4));
            tabs.put(one, tab);
            row.addView(tab, look.share(row.getChildCount() == 0 ? 0 : 6));
        }
        return row;
    }

    private LinearLayout benchmarkPage() {
        LinearLayout out = look.column();
        out.addView(look.text("Draws a picture " + Presenter.REPEATS + " times after a warm-up. Export gives the row"
                + " that `ondevice bench` reads, with the phone's temperature and battery before and after.", 14,
                look.faint), look.wide(0));
        LinearLayout buttons = look.row();
        buttons.addView(measure, look.share(0));
        buttons.addView(export, look.share(Look.GAP));
        out.addView(buttons, look.wide(12));
        out.addView(figures, look.wide(12));
        return out;
    }

    void show(Shown now) {
        title.setText(now.title);
        look.paint(open, false, now.canOpen);
        message.setText(now.status);
        int color = now.kind == Snapshot.Kind.ERROR ? look.error
                : now.kind == Snapshot.Kind.WARNING ? look.warning : look.ink;
        message.setTextColor(color);
        status.setBackground(look.shape(look.card, now.kind == Snapshot.Kind.INFORMATION ? look.line : color));
        progress.setVisibility(now.percent == Presenter.NOTHING ? View.GONE : View.VISIBLE);
        progress.setIndeterminate(now.percent == Presenter.UNKNOWN);
        progress.setProgress(Math.max(0, now.percent));
        go.setVisibility(now.page == Shown.Page.DRAW && !now.canCancel ? View.VISIBLE : View.GONE);
        look.paint(go, true, now.canDraw);
        cancel.setVisibility(now.canCancel ? View.VISIBLE : View.GONE);
        root.setKeepScreenOn(now.canCancel);
        turnTo(now.page);
        drawPage.show(now);
        look.paint(measure, true, now.canMeasure);
        look.paint(export, false, now.canExport);
        list(now);
    }

    private void turnTo(Shown.Page next) {
        if (page == next) {
            return;
        }
        page = next;
        for (Map.Entry<Shown.Page, Button> tab : tabs.entrySet()) {
            look.paintTab(tab.getValue(), tab.getKey() == next);
        }
        drawPage.root.setVisibility(next == Shown.Page.DRAW ? View.VISIBLE : View.GONE);
        benchmark.setVisibility(next == Shown.Page.BENCHMARK ? View.VISIBLE : View.GONE);
        lines.setVisibility(next == Shown.Page.HISTORY || next == Shown.Page.DEVICE ? View.VISIBLE : View.GONE);
        scroll.scrollTo(0, 0);
    }

    /** The page's cards, made anew only where what they say has changed. */
    private void list(Shown now) {
        Object what = page == Shown.Page.HISTORY ? now.history
                : page == Shown.Page.DEVICE ? now.report : now.figures;
        if (page == Shown.Page.DRAW || what.equals(listed)) {
            return;
        }
        listed = what;
        lines.removeAllViews();
        figures.removeAllViews();
        if (page == Shown.Page.HISTORY) {
            listHistory(now.history);
        } else if (page == Shown.Page.DEVICE) {
            listReport(now.report);
        } else {
            for (String row : now.figures) {
                LinearLayout card = look.card();
                card.addView(look.text(row, 15, look.ink), look.wide(0));
                figures.addView(card, look.wide(Look.GAP));
            }
        }
    }

    private void listHistory(List<Shot> history) {
        if (history.isEmpty()) {
            lines.addView(look.text("Nothing was drawn yet.", 14, look.faint), look.wide(0));
        }
        for (final Shot shot : history) {
            LinearLayout card = look.card();
            card.addView(look.bold(shot.form.prompt, 15, look.ink), look.wide(0));
            card.addView(look.text(shot.line(), 13, look.faint), look.wide(4));
            card.setOnClickListener(new View.OnClickListener() {
                @Override
                public void onClick(View touched) {
                    presenter.recall(shot);
                }
            });
            lines.addView(card, look.wide(Look.GAP));
        }
    }

    private void listReport(Map<String, String> report) {
        LinearLayout card = look.card();
        for (Map.Entry<String, String> one : report.entrySet()) {
            card.addView(look.text(one.getKey(), 13, look.faint), look.wide(card.getChildCount() == 0 ? 0 : 10));
            card.addView(look.text(one.getValue(), 15, look.ink), look.wide(0));
        }
        if (report.isEmpty()) {
            String empty = "Open a bundle to see what it needs of this device.";
            card.addView(look.text(empty, 14, look.faint), look.wide(0));
        }
        lines.addView(card, look.wide(0));
    }

    /** null: there is none. */
    void show(Bitmap picture, String described) {
        drawPage.show(picture, described);
    }
}
