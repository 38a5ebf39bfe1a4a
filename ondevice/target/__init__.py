"""What a plan is made for: which methods pay and the tunables of each kernel, from `ondevice/targets/NAME.toml`.
No device is named in code."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ondevice.base.machine import cpu_flags as _cpu_flags
from ondevice.base.paths import TARGETS
from ondevice.base.text.toml import parse_toml
from ondevice.errors import PlanError, UsageError
from ondevice.target.tuning import Tuning, named

AUTO = "auto"  # the host target for the machine that asks
CLASSES = ("portable", "cpu", "mobile")  # of kernels: a folder of shaders/ each
# Of computing an op: what a target bounds and `--without` leaves out one by one. An op has a plain way beside them.
METHODS = ("flash", "winograd", "two_commands")
ALL = "all"  # of `--without`: leaves every fusion and every method out
# What a kernel may need of a device beyond OpenCL 1.2, and a target says that its devices have.
CAPABILITIES = {
    "half": "arithmetic in half precision",
    "image2d": "operands that are read as images",
    "matrix_unit": "products of small matrices in one instruction",
    "subgroups": "exchange between the work-items that run side by side",
    "wave_constants": "loads of constants for all work-items that run side by side at once",
}
BOUNDS = {
    "winograd": {"min_channels", "min_outputs", "min_tiles", "stored", "groups"},
    "flash": {"max_head", "min_queries", "min_keys"},
    "group_norm": {"two_commands"},
}


@dataclass(frozen=True, slots=True)
class Target:
    """`tuning` are measured tunables, most specific file first; `tune` holds those of kernels that are in none of them,
    by kernel name. A kernel that is in neither keeps the defaults of its header.

    `kernel_class` is the class of kernels that it has beside the portable ones, which run anywhere: "cpu" for one
    work-item per group with a cache of its own, "mobile" for GPUs of phones. `caps` are the CAPABILITIES that its
    devices have. For "cpu", weights of products are stored in `panels`: as the kernels' tiles read them, columns after
    columns, not row by row. `winograd` and `flash` bound the shapes for which these methods are chosen (a missing bound
    allows all): least channels of a 3x3 convolution's input and output and least 4x4 tiles of its result; the largest
    head and the least queries and keys of an attention. `winograd.stored`: from so many tiles per picture on, class
    "cpu" stores weights transformed (never by default); `winograd.groups`: how many work-items share a convolution
    then, each with scratch of its own (8 by default). `group_norm.two_commands`: from so many pixels on, a group norm
    is two commands (never by default).
    `scratch` is how many bytes a method may use between its own kernels; what needs more is done in bands.
    """

    name: str
    why: str
    kernel_class: str
    winograd: Mapping[str, int]
    flash: Mapping[str, int]
    group_norm: Mapping[str, int]
    scratch: int
    tune: Mapping[str, Mapping[str, int]]
    tuning: Sequence[Tuning] = ()
    caps: frozenset[str] = frozenset()

    @property
    def panels(self) -> bool:
        return self.kernel_class == "cpu"

    def bounds(self, method: str) -> Mapping[str, int]:
        """Where it says that one of METHODS pays."""
        return {"flash": self.flash, "winograd": self.winograd, "two_commands": self.group_norm}.get(method, {})

    def refuses(self, kernel_class: str, caps: Collection[str]) -> str | None:
        """Why a kernel of this class that needs these capabilities does not run on it; None if it does."""
        if kernel_class not in ("portable", self.kernel_class):
            return f"it is of class {kernel_class} (target {self.name} has {self.kernel_class})"
        missing = sorted(set(caps) - self.caps)
        return f"it needs {', '.join(missing)}, which target {self.name} has not" if missing else None


def target_names() -> list[str]:
    """Every target that the package knows."""
    return sorted(path.stem for path in TARGETS.glob("*.toml"))


def load_target(name: str | Target) -> Target:
    """The target of that name, with the measured files that it names; AUTO is the one for this machine.

    Raises:
        UsageError: there is none.
        PlanError: its file is damaged.
    """
    if isinstance(name, Target):
        return name
    if name == AUTO:
        name = host_target()
    if name not in target_names():
        raise UsageError(f"target {name!r} is unknown (expected one of {', '.join(target_names())}).", where="--target")
    path = TARGETS / f"{name}.toml"
    try:
        content = parse_toml(path.read_bytes())
    except ValueError as error:
        raise PlanError(f"it is not TOML: {error}.", where=path.name) from None
    bounds = all(_bounds(content.get(table), known) for table, known in BOUNDS.items())
    scratch, files = content.get("scratch"), content.pop("tuned", [])
    known = content.keys() == {"why", "class", "caps", "scratch", "tune", *BOUNDS} and content["class"] in CLASSES
    caps = content.get("caps")
    if not known or not bounds or not _capabilities(caps) or type(scratch) is not int or scratch < 1:
        raise PlanError(
            f"it needs `why`, `class` (one of {', '.join(CLASSES)}), `caps` (some of {', '.join(CAPABILITIES)}), "
            f"`scratch` in bytes, [tune.KERNEL] and the bounds {BOUNDS}, "
            "may have `tuned`, and nothing else.",
            where=path.name,
        )
    if not isinstance(content["tune"], dict) or not all(
        isinstance(values, dict) for values in content["tune"].values()
    ):
        raise PlanError("[tune] holds tables, one per kernel.", where=path.name)
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise PlanError(f"`tuned` lists names of measured files (got {files!r}).", where=path.name)
    tuning = tuple(named(file) for file in files)
    return Target(
        name,
        content["why"],
        content["class"],
        content["winograd"],
        content["flash"],
        content["group_norm"],
        scratch,
        content["tune"],
        tuning,
        frozenset(content["caps"]),
    )


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
    """Name of the host target for this machine's CPU, by the width of its vectors: 16 floats, 8 (x86 machines of the
    last ten years have that at least), or 4."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "host-neon"
    return "host" if "avx512f" in _cpu_flags() else "host-avx2"


def _capabilities(caps: object) -> bool:
    return isinstance(caps, list) and all(isinstance(name, str) and name in CAPABILITIES for name in caps)


def _bounds(table: object, known: set[str]) -> bool:
    return (
        isinstance(table, dict)
        and table.keys() <= known
        and all(type(value) is int and value >= 0 for value in table.values())
    )
