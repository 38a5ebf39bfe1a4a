package android.view;

public class Gravity {
    public static final int CENTER_VERTICAL = 16;
    public static final int CENTER_HORIZONTAL = 1;
    public static final int CENTER = 17;
}
