package dev.ondevice.demo;

import android.content.Context;
import android.graphics.Bitmap;
import android.text.Editable;
import android.text.InputType;
import android.text.TextWatcher;
import android.view.Gravity;
import android.view.View;
import android.widget.Button;
import android.widget.CheckBox;
import android.widget.CompoundButton;
import android.widget.EditText;
import android.widget.HorizontalScrollView;
import android.widget.ImageView;
import android.widget.LinearLayout;
import android.widget.SeekBar;
import android.widget.TextView;

import java.util.Collections;
import java.util.List;
import java.util.Map;

/** What to draw, and the picture. */
final class DrawPage {
    private static final int TEXT = InputType.TYPE_CLASS_TEXT | InputType.TYPE_TEXT_FLAG_MULTI_LINE
            | InputType.TYPE_TEXT_FLAG_CAP_SENTENCES;
    private static final int PICTURE_DP = 300;

    final LinearLayout root;
    private final Look look;
    private final Presenter presenter;
    private final ImageView picture;
    private final TextView empty;
    private final EditText prompt;
    private final EditText negative;
    private final EditText steps;
    private final EditText seed;
    private final CheckBox saving;
    private final CheckBox fast;
    private final LinearLayout sizeRow;
    private final View sizePart;
    private final LinearLayout adapterRow;
    private final View adapterPart;
    private final TextView strengthLabel;
    private final SeekBar strength;
    private final View controlPart;
    private final TextView control;
    private final Button without;
    private final CheckBox edges;
    private final LinearLayout files;
    private final Button save;
    private final Button share;
    private List<String> sizes = Collections.emptyList();
    private String size = "";
    private Map<String, Integer> adapters = Collections.emptyMap();
    private String adapter = "";
    private boolean filling;

    DrawPage(Context context, Look look, final Presenter presenter, View.OnClickListener onSave,
            View.OnClickListener onShare, View.OnClickListener onControl) {
        this.look = look;
        this.presenter = presenter;
        root = look.column();

        LinearLayout frame = look.card();
        frame.setGravity(Gravity.CENTER);
        frame.setMinimumHeight(look.px(PICTURE_DP));
        picture = new ImageView(context);
        picture.setAdjustViewBounds(true);
        picture.setScaleType(ImageView.ScaleType.FIT_CENTER);
        picture.setVisibility(View.GONE);
        empty = look.text("The picture appears here.", 14, look.faint);
        frame.addView(picture, look.wide(0));
        frame.addView(empty, look.narrow(0));
        root.addView(frame, look.wide(0));
        files = look.row();
        save = look.button("Save", onSave);
        share = look.button("Share", onShare);
        files.addView(save, look.share(0));
        files.addView(share, look.share(Look.GAP));
        root.addView(files, look.wide(Look.GAP));

        prompt = look.field(TEXT, "What to draw");
        negative = look.field(TEXT, "What not to draw");
        root.addView(labelled("Prompt", prompt), look.wide(12));
        root.addView(labelled("Negative prompt", negative), look.wide(Look.GAP));
        steps = look.field(InputType.TYPE_CLASS_NUMBER, "");
        seed = look.field(InputType.TYPE_CLASS_NUMBER, "");
        LinearLayout numbers = look.row();
        numbers.addView(labelled("Steps", steps), look.share(0));
        numbers.addView(labelled("Seed", seed), look.share(Look.GAP));
        root.addView(numbers, look.wide(Look.GAP));

        sizeRow = look.row();
        sizePart = labelled("Size", scrolling(context, sizeRow));
        root.addView(sizePart, look.wide(Look.GAP));
        adapterRow = look.row();
        strengthLabel = look.text("", 13, look.faint);
        strength = new SeekBar(context);
        strength.setMax(Form.MOST_STRENGTH);
        LinearLayout chosen = look.column();
        chosen.addView(scrolling(context, adapterRow), look.wide(0));
        chosen.addView(strengthLabel, look.wide(Look.GAP));
        chosen.addView(strength, look.wide(0));
        adapterPart = labelled("Adapter", chosen);
        root.addView(adapterPart, look.wide(Look.GAP));
        control = look.text("", 14, look.ink);
        without = look.button("Remove", new View.OnClickListener() {
            @Override
            public void onClick(View touched) {
                presenter.look(null);
            }
        });
        edges = box(context, "Its edges alone");
        LinearLayout buttons = look.row();
        buttons.addView(look.button("Choose", onControl), look.narrow(0));
        buttons.addView(without, look.narrow(Look.GAP));
        LinearLayout seen = look.column();
        seen.addView(buttons, look.wide(0));
        seen.addView(control, look.wide(Look.GAP));
        seen.addView(edges, look.wide(0));
        controlPart = labelled("Control picture", seen);
        root.addView(controlPart, look.wide(Look.GAP));
        saving = box(context, "Save memory (slower)");
        fast = box(context, "Fast decoder (less exact)");
        root.addView(saving, look.wide(0));
        root.addView(fast, look.wide(0));

        hearTyping();
        showSizes();
        showAdapters();
    }

    private static View scrolling(Context context, View row) {
        HorizontalScrollView scroll = new HorizontalScrollView(context);
        scroll.setHorizontalScrollBarEnabled(false);
        scroll.addView(row);
        return scroll;
    }

    private CheckBox box(Context context, String text) {
        CheckBox box = new CheckBox(context);
        box.setText(text);
        box.setTextColor(look.ink);
        box.setMinHeight(look.px(48));
        return box;
    }

    private View labelled(String label, View view) {
        LinearLayout column = look.column();
        column.addView(look.text(label, 13, look.faint), look.wide(0));
        column.addView(view, look.wide(4));
        return column;
    }

    private void hearTyping() {
        TextWatcher typed = new TextWatcher() {
            @Override
            public void beforeTextChanged(CharSequence text, int start, int count, int after) {}

            @Override
            public void onTextChanged(CharSequence text, int start, int before, int count) {}

            @Override
            public void afterTextChanged(Editable text) {
                changed();
            }
        };
        for (EditText field : new EditText[] {prompt, negative, steps, seed}) {
            field.addTextChangedListener(typed);
        }
        CompoundButton.OnCheckedChangeListener checked = new CompoundButton.OnCheckedChangeListener() {
            @Override
            public void onCheckedChanged(CompoundButton box, boolean on) {
                changed();
            }
        };
        saving.setOnCheckedChangeListener(checked);
        fast.setOnCheckedChangeListener(checked);
        edges.setOnCheckedChangeListener(checked);
        strength.setOnSeekBarChangeListener(new SeekBar.OnSeekBarChangeListener() {
            @Override
            public void onProgressChanged(SeekBar bar, int value, boolean byHand) {
                strengthLabel.setText("Strength " + value + " %");
                changed();
            }

            @Override
            public void onStartTrackingTouch(SeekBar bar) {}

            @Override
            public void onStopTrackingTouch(SeekBar bar) {}
        });
    }

    private void changed() {
        if (!filling) {
            presenter.typed(form());
        }
    }

    private Form form() {
        return new Form(prompt.getText().toString(), negative.getText().toString(), steps.getText().toString(),
                seed.getText().toString(), size, saving.isChecked())
                .with(adapter, strength.getProgress(), fast.isChecked()).with(edges.isChecked());
    }

    void show(Shown now) {
        filling = true;
        fill(prompt, now.form.prompt);
        fill(negative, now.form.negative);
        fill(steps, now.form.steps);
        fill(seed, now.form.seed);
        steps.setHint(now.stepsHint);
        seed.setHint(now.seedHint);
        saving.setChecked(now.form.lowMemory);
        fast.setChecked(now.form.fast);
        edges.setChecked(now.form.edges);
        strength.setProgress(now.form.strength);
        strengthLabel.setText("Strength " + now.form.strength + " %");
        filling = false;
        negative.setEnabled(now.takesNegative);
        if (!now.sizes.equals(sizes) || !now.form.size.equals(size)) {
            sizes = now.sizes;
            size = now.form.size;
            showSizes();
        }
        fast.setVisibility(now.decodesFast ? View.VISIBLE : View.GONE);
        controlPart.setVisibility(now.takesControl ? View.VISIBLE : View.GONE);
        control.setText(now.control);
        for (View ofControl : new View[] {control, without, edges}) {
            ofControl.setVisibility(now.control.isEmpty() ? View.GONE : View.VISIBLE);
        }
        if (!now.adapters.equals(adapters) || !now.form.adapter.equals(adapter)) {
            adapters = now.adapters;
            adapter = now.form.adapter;
            showAdapters();
        }
        files.setVisibility(now.shot == null ? View.GONE : View.VISIBLE);
        look.paint(save, false, now.canShare);
        look.paint(share, false, now.canShare);
    }

    /** Only where it differs: a field that is filled loses its cursor. */
    private static void fill(EditText field, String text) {
        if (!field.getText().toString().equals(text)) {
            field.setText(text);
        }
    }

    private void showSizes() {
        sizeRow.removeAllViews();
        sizePart.setVisibility(sizes.isEmpty() ? View.GONE : View.VISIBLE);
        for (final String one : sizes) {
            boolean chosen = one.equals(size) || !sizes.contains(size) && one.equals(sizes.get(0));
            addChip(sizeRow, one, chosen, new View.OnClickListener() {
                @Override
                public void onClick(View touched) {
                    size = one;
                    changed();
                    showSizes();
                }
            });
        }
    }

    private void showAdapters() {
        boolean one = adapters.containsKey(adapter);
        adapterRow.removeAllViews();
        adapterPart.setVisibility(adapters.isEmpty() ? View.GONE : View.VISIBLE);
        strengthLabel.setVisibility(one ? View.VISIBLE : View.GONE);
        strength.setVisibility(one ? View.VISIBLE : View.GONE);
        addAdapter("None", "", !one);
        for (String name : adapters.keySet()) {
            addAdapter(name, name, name.equals(adapter));
        }
    }

    private void addAdapter(String shown, final String name, boolean chosen) {
        addChip(adapterRow, shown, chosen, new View.OnClickListener() {
            @Override
            public void onClick(View touched) {
                adapter = name;
                Integer usual = adapters.get(name);
                filling = true;  // one change, not two
                strength.setProgress(usual == null ? Form.USUAL_STRENGTH : usual);
                filling = false;
                changed();
                showAdapters();
            }
        });
    }

    private void addChip(LinearLayout row, String text, boolean chosen, View.OnClickListener touched) {
        Button chip = look.button(text, touched);
        look.paint(chip, chosen, true);
        row.addView(chip, look.narrow(row.getChildCount() == 0 ? 0 : Look.GAP));
    }

    /** null: there is none. */
    void show(Bitmap bitmap, String described) {
        picture.setImageBitmap(bitmap);
        picture.setContentDescription(described);
        picture.setVisibility(bitmap == null ? View.GONE : View.VISIBLE);
        empty.setVisibility(bitmap == null ? View.VISIBLE : View.GONE);
    }
}
