"""Phones that are measured from here: over adb, or by files that their apps export (docs/benchmarks_on_devices.md)."""
