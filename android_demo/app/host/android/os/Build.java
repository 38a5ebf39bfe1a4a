package android.os;

public class Build {
    public static final String MANUFACTURER = "host".toString();
    public static final String MODEL = "JVM".toString();
    public static final String HARDWARE = "none".toString();

    public static final String SOC_MANUFACTURER = "host".toString();
    public static final String SOC_MODEL = "JVM".toString();

    public static class VERSION {
        public static final String RELEASE = "15".toString();
        public static final int SDK_INT = Integer.parseInt("35");
    }
}
