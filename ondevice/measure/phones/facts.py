"""What a phone says of itself: what it is, how warm it is, and its battery."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from ondevice.measure.phones.adb import Adb

# of PowerManager.THERMAL_STATUS_*: what a phone slows down for
THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_KINDS = {0: "cpu", 1: "gpu", 2: "battery", 3: "skin"}  # of android.os.Temperature
_TEMPERATURE = re.compile(r"Temperature\{mValue=(-?[0-9.]+), mType=(-?\d+), mName=([^,}]*)")
_CHARGING = "2", "5"  # BatteryManager.BATTERY_STATUS_CHARGING and _FULL
ABIS = {"aarch64": "arm64-v8a", "arm64": "arm64-v8a", "armv7l": "armeabi-v7a", "armv8l": "armeabi-v7a"}


@dataclass(frozen=True, slots=True)
class Phone:
    """`abis`, best first; `cores` and `memory_bytes` 0 where the phone does not say."""

    model: str
    soc: str
    system: str
    abis: tuple[str, ...]
    cores: int
    memory_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"abis": list(self.abis)}


@dataclass(frozen=True, slots=True)
class State:
    """How a phone is at a moment; None where it does not say. `thermal` is one of THERMAL; `celsius` has the warmest
    sensor of each kind."""

    thermal: str | None = None
    celsius: dict[str, float] | None = None
    battery_percent: int | None = None
    battery_celsius: float | None = None
    charging: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def phone_of(adb: Adb) -> Phone:
    """Raises DeviceError where the phone does not answer."""
    properties = _properties(adb.shell("getprop").out)
    answer = adb.shell("uname -m; nproc; cat /proc/meminfo").out  # of which a phone may lack any
    name, *rest = [line.strip() for line in answer.splitlines()] or [""]
    cores = next((line for line in rest if line.isdecimal()), "0")
    total = next((line.split()[1] for line in rest if re.match(r"MemTotal:\s+\d", line)), "0")
    abis = [word for word in properties.get("ro.product.cpu.abilist", "").split(",") if word]
    maker, model = properties.get("ro.product.manufacturer", ""), properties.get("ro.product.model", "")
    chip = [properties.get(key, "") for key in ("ro.soc.manufacturer", "ro.soc.model")]
    release = properties.get("ro.build.version.release", "")
    return Phone(
        model=" ".join(filter(None, [maker, model])) or "unknown",
        soc=" ".join(filter(None, chip)) or properties.get("ro.board.platform", "") or name or "unknown",
        system=f"Android {release}" if release else "Linux",
        abis=tuple(abis or [ABIS.get(name, name)]),
        cores=int(cores),
        memory_bytes=int(total) * 1024,
    )


def state_of(adb: Adb) -> State:
    """Raises DeviceError where the phone does not answer."""
    thermal, battery = adb.shell("dumpsys thermalservice").out, _fields(adb.shell("dumpsys battery").out)
    status = re.search(r"Thermal Status: (\d+)", thermal)
    celsius: dict[str, float] = {}
    # sensors are listed twice, the cached values first: the later ones are those of now
    for value, kind, _ in _TEMPERATURE.findall(thermal.partition("Current temperatures")[2] or thermal):
        if (name := _KINDS.get(int(kind))) and 0 < float(value) < 200:
            celsius[name] = max(celsius.get(name, 0.0), float(value))
    level, tenths = battery.get("level", ""), battery.get("temperature", "")
    plugged = any(battery.get(f"{source} powered") == "true" for source in ("AC", "USB", "Wireless"))
    return State(
        thermal=THERMAL[int(status[1])] if status and int(status[1]) < len(THERMAL) else None,
        celsius=celsius or None,
        battery_percent=int(level) if level.isdecimal() else None,
        battery_celsius=int(tenths) / 10 if tenths.isdecimal() else None,
        charging=plugged or battery.get("status") in _CHARGING if battery else None,
    )


def _properties(text: str) -> dict[str, str]:
    """`[name]: [value]` lines of getprop."""
    return dict(re.findall(r"^\[([^\]]+)\]: \[([^\]]*)\]\s*$", text, re.MULTILINE))


def _fields(text: str) -> dict[str, str]:
    rows = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in rows if value.strip()}
