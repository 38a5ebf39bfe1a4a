package android.content;

public interface ComponentCallbacks2 {
    int TRIM_MEMORY_RUNNING_LOW = 10;
    int TRIM_MEMORY_RUNNING_CRITICAL = 15;
    int TRIM_MEMORY_BACKGROUND = 40;
}
