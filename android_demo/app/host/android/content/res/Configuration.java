package android.content.res;

public final class Configuration {
    public static final int UI_MODE_NIGHT_MASK = 48;
    public static final int UI_MODE_NIGHT_YES = 32;

    public int uiMode = Integer.getInteger("host.ui_mode", 0);
}
