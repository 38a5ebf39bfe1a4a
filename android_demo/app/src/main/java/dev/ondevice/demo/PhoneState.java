package dev.ondevice.demo;

import android.app.ActivityManager;
import android.content.Context;
import android.content.Intent;
import android.content.IntentFilter;
import android.os.BatteryManager;
import android.os.Build;
import android.os.PowerManager;

import java.util.LinkedHashMap;
import java.util.Map;

/** What the phone is, and how warm and charged; in the words of docs/benchmarks_on_devices.md. */
final class PhoneState implements Phone {
    /** Names of PowerManager's states, by number. */
    private static final String[] THERMAL = {
        "none", "light", "moderate", "severe", "critical", "emergency", "shutdown"
    };

    private final Context context;

    PhoneState(Context context) {
        this.context = context;
    }

    @Override
    public Map<String, Object> facts() {
        Map<String, Object> out = new LinkedHashMap<String, Object>();
        out.put("model", Build.MANUFACTURER + " " + Build.MODEL);
        out.put("soc", Build.VERSION.SDK_INT >= 31 ? Build.SOC_MANUFACTURER + " " + Build.SOC_MODEL : Build.HARDWARE);
        out.put("system", "Android " + Build.VERSION.RELEASE);
        out.put("cores", (double) Runtime.getRuntime().availableProcessors());
        ActivityManager activities = (ActivityManager) context.getSystemService(Context.ACTIVITY_SERVICE);
        if (activities != null) {
            ActivityManager.MemoryInfo memory = new ActivityManager.MemoryInfo();
            activities.getMemoryInfo(memory);
            out.put("memory_bytes", (double) memory.totalMem);
        }
        return out;
    }

    @Override
    public Map<String, Object> state() {
        Map<String, Object> out = new LinkedHashMap<String, Object>();
        PowerManager power = (PowerManager) context.getSystemService(Context.POWER_SERVICE);
        if (power != null && Build.VERSION.SDK_INT >= 29) {
            int status = power.getCurrentThermalStatus();
            out.put("thermal", status >= 0 && status < THERMAL.length ? THERMAL[status] : null);
        }
        BatteryManager battery = (BatteryManager) context.getSystemService(Context.BATTERY_SERVICE);
        if (battery != null) {
            out.put("battery_percent", (double) battery.getIntProperty(BatteryManager.BATTERY_PROPERTY_CAPACITY));
            out.put("charging", battery.isCharging());
        }
        // No receiver: this gives what was last said of the battery.
        Intent last = context.registerReceiver(null, new IntentFilter(Intent.ACTION_BATTERY_CHANGED));
        int tenths = last == null ? 0 : last.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, 0);
        if (tenths != 0) {
            out.put("battery_celsius", tenths / 10.0);
        }
        return out;
    }
}
