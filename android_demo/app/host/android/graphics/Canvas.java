package android.graphics;

import java.awt.Graphics2D;

public class Canvas {
    /** Of the host. */
    public final Graphics2D graphics;

    public Canvas(Graphics2D graphics) {
        this.graphics = graphics;
    }
}
