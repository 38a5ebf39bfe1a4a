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
import android.widget.TextView;

import java.util.Collections;
import java.util.List;

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
    private final LinearLayout sizeRow;
    private final View sizePart;
    private final LinearLayout files;
    private final Button save;
    private final Button share;
    private List<String> sizes = Collections.emptyList();
    private String size = "";
    private boolean filling;

    DrawPage(Context context, Look look, Presenter presenter, View.OnClickListener onSave,
            View.OnClickListener onShare) {
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
        HorizontalScrollView scroll = new HorizontalScrollView(context);
        scroll.setHorizontalScrollBarEnabled(false);
        scroll.addView(sizeRow);
        sizePart = labelled("Size", scroll);
        root.addView(sizePart, look.wide(Look.GAP));
        saving = new CheckBox(context);
        saving.setText("Save memory (slower)");
        saving.setTextColor(look.ink);
        saving.setMinHeight(look.px(48));
        root.addView(saving, look.wide(0));

        hearTyping();
        showSizes();
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
        saving.setOnCheckedChangeListener(new CompoundButton.OnCheckedChangeListener() {
            @Override
            public void onCheckedChanged(CompoundButton box, boolean on) {
                changed();
            }
        });
    }

    private void changed() {
        if (!filling) {
            presenter.typed(form());
        }
    }

    private Form form() {
        return new Form(prompt.getText().toString(), negative.getText().toString(), steps.getText().toString(),
                seed.getText().toString(), size, saving.isChecked());
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
        filling = false;
        negative.setEnabled(now.takesNegative);
        if (!now.sizes.equals(sizes) || !now.form.size.equals(size)) {
            sizes = now.sizes;
            size = now.form.size;
            showSizes();
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
            Button chip = look.button(one, new View.OnClickListener() {
                @Override
                public void onClick(View touched) {
                    size = one;
                    changed();
                    showSizes();
                }
            });
            look.paint(chip, chosen, true);
            sizeRow.addView(chip, look.narrow(sizeRow.getChildCount() == 0 ? 0 : Look.GAP));
        }
    }

    /** null: there is none. */
    void show(Bitmap bitmap, String described) {
        picture.setImageBitmap(bitmap);
        picture.setContentDescription(described);
        picture.setVisibility(bitmap == null ? View.GONE : View.VISIBLE);
        empty.setVisibility(bitmap == null ? View.VISIBLE : View.GONE);
    }
}
