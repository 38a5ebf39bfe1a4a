"""What a plan is made for: which methods pay, the tunables of each kernel, limits and capabilities of the devices,
from `ondevice/targets/NAME.toml`. No device is named in code."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace

from ondevice.base.machine import cpu_flags as _cpu_flags
from ondevice.base.machine import cpu_maker
from ondevice.base.matrix_unit import AMX, DPBF16, matrix_unit
from ondevice.base.paths import TARGETS
from ondevice.errors import UsageError
from ondevice.target.file import read_set, read_target
from ondevice.target.target import (
    ALL,
    BOUNDS,
    CAPABILITIES,
    CLASSES,
    FP32,
    MATHS,
    METHODS,
    Limits,
    Roofline,
    Target,
)  # fmt: skip
from ondevice.target.tuning import Tuning, made_for

__all__ = [
    "ALL",
    "AUTO",
    "BOUNDS",
    "CAPABILITIES",
    "CLASSES",
    "FP32",
    "MATHS",
    "METHODS",
    "Limits",
    "Roofline",
    "Target",
    "host_choice",
    "host_target",
    "is_for_cpus",
    "load_target",
    "load_targets",
    "set_names",
    "target_names",
    "tuned_by",
]
AUTO = "auto"  # the host target for the machine that asks
UNITS = {AMX: "host-amx", DPBF16: "host-bf16"}  # the host target of each matrix unit


def target_names() -> list[str]:
    """Every target that the package knows."""
    return sorted(path.stem for path in TARGETS.glob("*.toml"))


def load_target(name: str | Target) -> Target:
    """The target of that name, with the measured files that it names; AUTO is the one for this machine, which prefers
    those of them that were measured on CPUs of its maker (NAME-MAKER beside NAME), and with its matrix unit
    (NAME-MAKER-UNIT) before these.

    Raises:
        UsageError: there is none.
        PlanError: its file is damaged.
    """
    if isinstance(name, Target):
        return name
    if name == AUTO:
        host = load_target(host_target())
        unit = next((unit for unit, name in UNITS.items() if name == host.name), "")
        return tuned_by(host, made_for([own.name for own in host.tuning], cpu_maker(), unit))
    if name not in target_names():
        raise UsageError(f"target {name!r} is unknown (expected one of {', '.join(target_names())}).", where="--target")
    return read_target(TARGETS / f"{name}.toml")


def set_names() -> list[str]:
    """Every set of targets, such as the GPUs of Android phones."""
    return sorted(path.stem for path in (TARGETS / "sets").glob("*.toml"))


def load_targets(name: str) -> list[Target]:
    """The targets of a set; of a target's name it alone. Raises as `load_target`."""
    names = read_set(TARGETS / "sets" / f"{name}.toml") if name in set_names() else [name]
    return [load_target(one) for one in names]


def is_for_cpus(name: object) -> bool:
    """Whether a target of this name, such as a bundle names, has the class of kernels for CPUs;
    not where the package knows none."""
    return name in target_names() and load_target(str(name)).kernel_class == "cpu"


def tuned_by(target: Target, files: Sequence[Tuning]) -> Target:
    """The target with these measured files, most specific first, before its own."""
    return replace(
        target, tuning=(*files, *(own for own in target.tuning if own.name not in {file.name for file in files}))
    )


def host_target() -> str:
    """Name of the host target for this machine's CPU."""
    return host_choice()[0]


def host_choice() -> tuple[str, str]:
    """(name, why) of the host target for this machine's CPU: by the width of its vectors, 16 floats, 8 (x86 machines of
    the last ten years have that at least) or 4, and by its matrix unit. Of the latter's targets one that names its
    makers is for their CPUs alone: others have the same instructions, and slower ones."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "host-neon", "its vectors hold 4 floats"
    if "avx512f" not in (flags := _cpu_flags()):
        return "host-avx2", "its vectors hold 8 floats"
    unit = matrix_unit(flags)
    if not unit.name:
        return "host", f"its vectors hold 16 floats, and it has no matrix unit: {unit.why}"
    makers, maker = load_target(UNITS[unit.name]).device_words, cpu_maker()
    if makers and maker not in makers:
        return "host", f"{unit.why}, which is known to be fast on {', '.join(makers)} only (got {maker})"
    return UNITS[unit.name], unit.why
