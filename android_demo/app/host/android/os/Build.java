package android.os;

public class Build {
    public static final String MANUFACTURER = "host".toString();
    public static final String MODEL = "JVM".toString();
    public static final String HARDWARE = "none".toString();

    public static class VERSION {
        public static final int SDK_INT = Integer.parseInt("35");
    }
}
