package android.os;

import java.io.Closeable;

public class ParcelFileDescriptor implements Closeable {
    public int getFd() {
        return -1;
    }

    @Override
    public void close() {}
}
