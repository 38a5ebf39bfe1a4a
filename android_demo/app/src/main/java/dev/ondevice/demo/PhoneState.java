package dev.ondevice.demo;

import android.app.ActivityManager;
import android.content.Context;
import android.os.BatteryManager;
import android.os.Build;
import android.os.PowerManager;

import java.util.LinkedHashMap;
import java.util.Map;

/** What the phone is, and how warm, charged and full it is. */
final class PhoneState implements Engine.Phone {
    private final Context context;

    PhoneState(Context context) {
        this.context = context;
    }

    @Override
    public Map<String, Object> state() {
        Map<String, Object> out = new LinkedHashMap<String, Object>();
        out.put("model", Build.MANUFACTURER + " " + Build.MODEL);
        out.put("hardware", Build.HARDWARE);
        out.put("android", (double) Build.VERSION.SDK_INT);
        BatteryManager battery = (BatteryManager) context.getSystemService(Context.BATTERY_SERVICE);
        if (battery != null) {
            out.put("battery_percent", (double) battery.getIntProperty(BatteryManager.BATTERY_PROPERTY_CAPACITY));
            out.put("charging", battery.isCharging());
        }
        PowerManager power = (PowerManager) context.getSystemService(Context.POWER_SERVICE);
        if (power != null && Build.VERSION.SDK_INT >= 29) {
            out.put("thermal_status", (double) power.getCurrentThermalStatus());
        }
        ActivityManager activities = (ActivityManager) context.getSystemService(Context.ACTIVITY_SERVICE);
        if (activities != null) {
            ActivityManager.MemoryInfo memory = new ActivityManager.MemoryInfo();
            activities.getMemoryInfo(memory);
            out.put("memory_bytes", (double) memory.totalMem);
            out.put("memory_free_bytes", (double) memory.availMem);
        }
        return out;
    }
}
