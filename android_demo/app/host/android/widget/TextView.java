package android.widget;

import android.content.Context;
import android.graphics.Canvas;
import android.graphics.Typeface;
import android.text.Editable;
import android.text.TextWatcher;
import android.view.Gravity;
import android.view.View;

import java.awt.Color;
import java.awt.Font;
import java.awt.Graphics2D;
import java.awt.RenderingHints;
import java.awt.font.FontRenderContext;
import java.awt.font.LineMetrics;
import java.util.ArrayList;
import java.util.List;

/** Text in Roboto where the host has it, broken between words. */
public class TextView extends View {
    private static final FontRenderContext EXACT = new FontRenderContext(null, true, true);

    private CharSequence text = "";
    private CharSequence hint = "";
    private int color = 0xFF000000;
    private int hintColor = 0xFF808080;
    private float size = 14 * getContext().getResources().getDisplayMetrics().density;
    private boolean bold;
    private boolean single;
    private int gravity;
    private final List<TextWatcher> watchers = new ArrayList<TextWatcher>();

    private static final class Typed implements Editable {
        private final String text;

        Typed(String text) {
            this.text = text;
        }

        @Override
        public int length() {
            return text.length();
        }

        @Override
        public char charAt(int index) {
            return text.charAt(index);
        }

        @Override
        public CharSequence subSequence(int start, int end) {
            return text.subSequence(start, end);
        }

        @Override
        public String toString() {
            return text;
        }
    }

    public TextView(Context context) {
        super(context);
    }

    public final void setText(CharSequence value) {
        text = value == null ? "" : value;
        for (TextWatcher watcher : watchers) {
            watcher.afterTextChanged(new Typed(text.toString()));
        }
    }

    public CharSequence getText() {
        return text;
    }

    protected final Editable typed() {
        return new Typed(text.toString());
    }

    public final void setHint(CharSequence value) {
        hint = value;
    }

    public void setTextColor(int value) {
        color = value;
    }

    public final void setHintTextColor(int value) {
        hintColor = value;
    }

    /** The host takes sp for dp: its text is of the usual size. */
    public void setTextSize(int unit, float value) {
        size = value * getContext().getResources().getDisplayMetrics().density;
    }

    public void setTypeface(Typeface face) {
        bold = face == Typeface.DEFAULT_BOLD;
    }

    public void setGravity(int value) {
        gravity = value;
    }

    public void setSingleLine(boolean value) {
        single = value;
    }

    public void setInputType(int type) {}

    public void setAllCaps(boolean caps) {}

    public void setMinHeight(int pixels) {
        setMinimumHeight(Math.max(pixels, getMinimumHeight()));
    }

    public void setMinWidth(int pixels) {
        setMinimumWidth(Math.max(pixels, getMinimumWidth()));
    }

    public void addTextChangedListener(TextWatcher watcher) {
        watchers.add(watcher);
    }

    private Font font() {
        return new Font("Roboto", bold ? Font.BOLD : Font.PLAIN, 1).deriveFont(size);
    }

    private static float width(String line, Font font) {
        return (float) font.getStringBounds(line, EXACT).getWidth();
    }

    private List<String> lines(int room) {
        List<String> out = new ArrayList<String>();
        Font font = font();
        String all = text.length() == 0 ? hint.toString() : text.toString();
        for (String paragraph : all.split("\n", -1)) {
            String line = "";
            for (String word : paragraph.split(" ")) {
                String longer = line.isEmpty() ? word : line + " " + word;
                if (!single && !line.isEmpty() && width(longer, font) > room) {
                    out.add(line);
                    line = word;
                } else {
                    line = longer;
                }
            }
            out.add(line);
        }
        return out;
    }

    private float lineHeight() {
        LineMetrics metrics = font().getLineMetrics("Ag", EXACT);
        return metrics.getAscent() + metrics.getDescent();
    }

    /** Of the host: what stands before the text. */
    protected int before() {
        return 0;
    }

    @Override
    protected void onMeasure(int widthSpec, int heightSpec) {
        int sides = getPaddingLeft() + getPaddingRight() + before();
        boolean bounded = MeasureSpec.getMode(widthSpec) != MeasureSpec.UNSPECIFIED;
        List<String> lines = lines(bounded ? MeasureSpec.getSize(widthSpec) - sides : Integer.MAX_VALUE);
        float widest = 0;
        for (String line : lines) {
            widest = Math.max(widest, width(line, font()));
        }
        int height = (int) Math.ceil(lines.size() * lineHeight()) + getPaddingTop() + getPaddingBottom();
        setMeasuredDimension(resolve((int) Math.ceil(widest) + sides, widthSpec, getMinimumWidth()),
                resolve(height, heightSpec, getMinimumHeight()));
    }

    @Override
    protected void onDraw(Canvas canvas) {
        Graphics2D graphics = canvas.graphics;
        graphics.setRenderingHint(RenderingHints.KEY_TEXT_ANTIALIASING, RenderingHints.VALUE_TEXT_ANTIALIAS_ON);
        graphics.setRenderingHint(RenderingHints.KEY_FRACTIONALMETRICS, RenderingHints.VALUE_FRACTIONALMETRICS_ON);
        graphics.setFont(font());
        graphics.setColor(new Color(text.length() == 0 ? hintColor : color, true));
        int room = getWidth() - getPaddingLeft() - getPaddingRight() - before();
        List<String> lines = lines(room);
        float ascent = font().getLineMetrics("Ag", EXACT).getAscent();
        float y = getPaddingTop();
        if ((gravity & Gravity.CENTER_VERTICAL) != 0) {
            y = (getHeight() - lines.size() * lineHeight()) / 2;
        }
        for (String line : lines) {
            float x = getPaddingLeft() + before();
            if ((gravity & Gravity.CENTER_HORIZONTAL) != 0) {
                x += (room - width(line, font())) / 2;
            }
            graphics.drawString(line, x, y + ascent);
            y += lineHeight();
        }
    }
}
