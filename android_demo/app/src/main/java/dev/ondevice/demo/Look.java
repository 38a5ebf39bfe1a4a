package dev.ondevice.demo;

import android.content.Context;
import android.content.res.ColorStateList;
import android.content.res.Configuration;
import android.graphics.Typeface;
import android.graphics.drawable.Drawable;
import android.graphics.drawable.GradientDrawable;
import android.graphics.drawable.RippleDrawable;
import android.util.TypedValue;
import android.view.Gravity;
import android.view.View;
import android.view.ViewGroup;
import android.widget.Button;
import android.widget.EditText;
import android.widget.LinearLayout;
import android.widget.TextView;

/** Colours, sizes and the few shapes that the screen is made of. Sizes are in dp, of text in sp. */
final class Look {
    static final int GAP = 8;
    static final int EDGE = 16;
    private static final int ROUND = 12;
    private static final int TOUCH = 48;

    final int page;
    final int card;
    final int line;
    final int ink;
    final int faint;
    final int accent;
    final int onAccent;
    final int warning;
    final int error;
    private final Context context;
    private final float density;

    Look(Context context) {
        this.context = context;
        density = context.getResources().getDisplayMetrics().density;
        int night = context.getResources().getConfiguration().uiMode & Configuration.UI_MODE_NIGHT_MASK;
        boolean dark = night == Configuration.UI_MODE_NIGHT_YES;
        page = dark ? 0xFF14161A : 0xFFF4F5F7;
        card = dark ? 0xFF1F2329 : 0xFFFFFFFF;
        line = dark ? 0xFF3A404A : 0xFFD5D9E0;
        ink = dark ? 0xFFE8EAED : 0xFF1B1F24;
        faint = dark ? 0xFF9AA3AF : 0xFF5F6875;
        accent = dark ? 0xFF8FB4FF : 0xFF2457C5;
        onAccent = dark ? 0xFF10203F : 0xFFFFFFFF;
        warning = dark ? 0xFFFFC46B : 0xFF8A5300;
        error = dark ? 0xFFFF9B93 : 0xFFB3261E;
    }

    int px(int dp) {
        return Math.round(dp * density);
    }

    GradientDrawable shape(int fill, int stroke) {
        GradientDrawable shape = new GradientDrawable();
        shape.setColor(fill);
        shape.setCornerRadius(px(ROUND));
        if (stroke != 0) {
            shape.setStroke(px(1), stroke);
        }
        return shape;
    }

    /** `shape`, with a ripple where it is touched. */
    private Drawable touched(GradientDrawable shape) {
        return new RippleDrawable(ColorStateList.valueOf(accent & 0x40FFFFFF), shape, null);
    }

    TextView text(String text, int size, int color) {
        TextView view = new TextView(context);
        view.setText(text);
        view.setTextSize(TypedValue.COMPLEX_UNIT_SP, size);
        view.setTextColor(color);
        return view;
    }

    TextView bold(String text, int size, int color) {
        TextView view = text(text, size, color);
        view.setTypeface(Typeface.DEFAULT_BOLD);
        return view;
    }

    EditText field(int inputType, String hint) {
        EditText field = new EditText(context);
        field.setTextSize(TypedValue.COMPLEX_UNIT_SP, 16);
        field.setTextColor(ink);
        field.setHintTextColor(faint);
        field.setHint(hint);
        field.setInputType(inputType);
        field.setGravity(Gravity.CENTER_VERTICAL);
        field.setBackground(shape(card, line));
        field.setPadding(px(12), px(12), px(12), px(12));
        field.setMinimumHeight(px(TOUCH));
        return field;
    }

    Button button(String text, View.OnClickListener touched) {
        Button button = new Button(context);
        button.setText(text);
        button.setAllCaps(false);
        button.setTextSize(TypedValue.COMPLEX_UNIT_SP, 15);
        button.setTypeface(Typeface.DEFAULT_BOLD);
        button.setStateListAnimator(null);
        button.setMinHeight(px(TOUCH));
        button.setMinimumHeight(px(TOUCH));
        button.setMinWidth(0);
        button.setMinimumWidth(0);
        button.setPadding(px(EDGE), px(GAP), px(EDGE), px(GAP));
        button.setGravity(Gravity.CENTER);
        button.setOnClickListener(touched);
        paint(button, false, true);
        return button;
    }

    /** Whether a button stands out, and whether it does something now. */
    void paint(Button button, boolean strong, boolean enabled) {
        button.setEnabled(enabled);
        button.setAlpha(enabled ? 1f : 0.4f);
        button.setTextColor(strong ? onAccent : accent);
        button.setBackground(touched(strong ? shape(accent, 0) : shape(card, line)));
    }

    void paintTab(Button tab, boolean chosen) {
        tab.setTextColor(chosen ? accent : faint);
        tab.setBackground(touched(shape(chosen ? accent & 0x00FFFFFF | 0x22000000 : 0, 0)));
    }

    LinearLayout column() {
        LinearLayout column = new LinearLayout(context);
        column.setOrientation(LinearLayout.VERTICAL);
        return column;
    }

    LinearLayout row() {
        LinearLayout row = new LinearLayout(context);
        row.setOrientation(LinearLayout.HORIZONTAL);
        row.setGravity(Gravity.CENTER_VERTICAL);
        return row;
    }

    LinearLayout card() {
        LinearLayout column = column();
        column.setBackground(shape(card, line));
        column.setPadding(px(EDGE), px(12), px(EDGE), px(12));
        return column;
    }

    /** Below what stands above it in a column, with a gap of `above`. */
    LinearLayout.LayoutParams wide(int above) {
        LinearLayout.LayoutParams place =
                new LinearLayout.LayoutParams(ViewGroup.LayoutParams.MATCH_PARENT, ViewGroup.LayoutParams.WRAP_CONTENT);
        place.topMargin = px(above);
        return place;
    }

    /** An equal share of a row, with a gap of `before`. */
    LinearLayout.LayoutParams share(int before) {
        LinearLayout.LayoutParams place =
                new LinearLayout.LayoutParams(0, ViewGroup.LayoutParams.WRAP_CONTENT, 1f);
        place.leftMargin = px(before);
        return place;
    }

    /** As wide as it is, with a gap of `before`. */
    LinearLayout.LayoutParams narrow(int before) {
        LinearLayout.LayoutParams place =
                new LinearLayout.LayoutParams(ViewGroup.LayoutParams.WRAP_CONTENT, ViewGroup.LayoutParams.WRAP_CONTENT);
        place.leftMargin = px(before);
        return place;
    }
}
