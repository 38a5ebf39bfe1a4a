"""What a figure was measured on, and by which state of the project: part of every row of results."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice import __version__

ISA = (
    "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "asimd", "asimdhp",
    "asimddp", "sve", "i8mm",
)  # fmt: skip
CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
RESIDENT = {"RssAnon": "of its own", "RssFile": "of mapped files"}  # as Linux names them
M_MMAP_THRESHOLD, LARGE = -3, 1 << 20  # of glibc's mallopt; bytes
FEATURES = ("flags", "Features")  # what Linux calls them on x86 and on Arm
KEPT = ("name", "platform", "version", "driver", "kind")  # of a device's facts


def facts(cores: Sequence[int] | None = None, device: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Processor, cores used, instruction sets, memory, system, versions; of the device, too, where one was used.

    Args:
        cores: numbers of the cores used; all that the process may use by default.
        device: `Device.facts()`.
    """
    used = list(cores) if cores is not None else available_cores()
    found: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": len(used),
        "isa": _isa(),
        "memory_bytes": _memory(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "ondevice": __version__,
        "commit": commit(),
    }
    return found | ({"device": {name: device[name] for name in KEPT if name in device}} if device else {})


def same(machine: Mapping[str, Any]) -> tuple[str, int, str]:
    """What must agree for two rows to be compared: processor, number of cores, device."""
    device = machine.get("device") or {}
    return str(machine.get("cpu")), int(machine.get("cores", 0)), str(device.get("name", ""))


def available_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that this code is from, with "+" where files differ from it;
    None where it is no checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        words = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_flags(path: Path = CPUINFO) -> set[str]:
    """Instruction sets of the processor as Linux names them; nothing elsewhere."""
    return set(_cpuinfo("flags", "Features", path=path).split())


def cpu_maker() -> str:
    """Who made the processor, as Linux names them, such as "AuthenticAMD"; "unknown" elsewhere."""
    return _cpuinfo("vendor_id", path=CPUINFO) or "unknown"


def cpu_features() -> str:
    """Everything that the processors say of their instructions,
    in one text that is the same on machines that are alike."""
    return _features(CPUINFO)


@functools.cache
def _features(path: Path) -> str:
    with suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        sets = {
            " ".join(sorted(value.split()))
            for name, _, value in (line.partition(":") for line in lines)
            if name.strip() in FEATURES
        }
        if sets:
            return "; ".join(sorted(sets))
    listed = [_sysctl(name) for name in ("machdep.cpu.features", "machdep.cpu.leaf7_features", "hw.optional")]
    return " ".join(filter(None, [*listed, platform.machine(), platform.processor()]))


def _cpuinfo(*names: str, path: Path = CPUINFO) -> str:
    """A field of Linux's list, under the first of `names` that it has."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    return next((found[name] for name in names if name in found), "")


def _cpu() -> str:
    return (
        _cpuinfo("model name", "Hardware", "CPU part")
        or _sysctl("machdep.cpu.brand_string")
        or platform.processor()
        or "unknown"
    )


def _isa() -> list[str]:
    flags = cpu_flags()
    return [name for name in ISA if name in flags] or ([platform.machine()] if platform.machine() else [])


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return int(_sysctl("hw.memsize") or 0)


def available_memory() -> int | None:
    """Bytes that a process may take without others' being written to disk; None where the system does not say."""
    field = _cpuinfo("MemAvailable", path=MEMINFO).split()
    return int(field[0]) << 10 if field and field[0].isdecimal() else None


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes of this process in memory: the most that ever were, and those that are now, by what they are."""

    most: int
    now: dict[str, int]


def resident(path: Path = STATUS) -> Resident | None:
    """What Linux says of this process; None elsewhere."""
    fields = {name: _cpuinfo(name, path=path).split() for name in ("VmHWM", *RESIDENT)}
    if not all(value and value[0].isdecimal() for value in fields.values()):
        return None
    sizes = {name: int(value[0]) << 10 for name, value in fields.items()}
    return Resident(sizes["VmHWM"], {what: sizes[name] for name, what in RESIDENT.items()})


def give_back_freed() -> None:
    """From now on every freed piece of memory of LARGE bytes or more goes back to the system at once. glibc keeps
    pieces of up to 32 MB otherwise, and as much as it once had of them, for what is allocated later; others than glibc
    do as they do."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def _sysctl(name: str) -> str:
    try:
        return subprocess.run(
            ["sysctl", "-n", name], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
