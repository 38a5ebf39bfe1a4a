"""What a plan is made for: which methods pay and the tunables of each kernel, from `ondevice/targets/NAME.toml`. No device is named in
code."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from ondevice.errors import PlanError, UsageError
from ondevice.paths import TARGETS

CLASSES = ("cpu", "portable")
BOUNDS = {"winograd": {"min_channels", "min_outputs", "min_tiles", "stored"}, "flash": {"max_head", "min_queries", "min_keys"}}


@dataclass(frozen=True, slots=True)
class Target:
    """`tune` holds tunables by kernel name; a kernel that is not in it keeps the defaults of its header.

    `kernels` is the class of kernels where an op has several: "cpu" for one work-item a group with a cache of its own, "portable" for any.
    For "cpu", weights of products are stored in `panels`: as the kernels' tiles read them, columns after columns, not row by row.
    `winograd` and `flash` bound the shapes for which these methods are chosen (a missing bound allows all): least channels of a 3x3
    convolution's input and output and least 4x4 tiles of its result; the largest head and the least queries and keys of an attention.
    `winograd.stored`: from so many tiles a picture on, class "cpu" stores weights transformed (never by default).
    `scratch` is how many bytes a method may use between its own kernels; what needs more is done in bands.
    """

    name: str
    why: str
    kernels: str
    winograd: Mapping[str, int]
    flash: Mapping[str, int]
    scratch: int
    tune: Mapping[str, Mapping[str, int]]

    @property
    def panels(self) -> bool:
        return self.kernels == "cpu"


def target_names() -> list[str]:
    """Every target that the package knows."""
    return sorted(path.stem for path in TARGETS.glob("*.toml"))


def load_target(name: str) -> Target:
    """The target of that name.

    Raises:
        UsageError: there is none.
        PlanError: its file is damaged.
    """
    if name not in target_names():
        raise UsageError(f"target {name!r} is unknown (expected one of {', '.join(target_names())}).", where="--target")
    path = TARGETS / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"it is not TOML: {error}.", where=path.name) from None
    bounds = all(_bounds(content.get(table), known) for table, known in BOUNDS.items())
    scratch = content.get("scratch")
    known = content.keys() == {"why", "kernels", "scratch", "tune", *BOUNDS} and content["kernels"] in CLASSES
    if not known or not bounds or type(scratch) is not int or scratch < 1:
        raise PlanError(
            f"it needs `why`, `kernels` (one of {', '.join(CLASSES)}), `scratch` in bytes, [tune.KERNEL] and the bounds {BOUNDS}, "
            "and nothing else.",
            where=path.name,
        )
    if not all(isinstance(values, dict) for values in content["tune"].values()):
        raise PlanError("[tune] holds tables, one a kernel.", where=path.name)
    return Target(name, content["why"], content["kernels"], content["winograd"], content["flash"], scratch, content["tune"])


def _bounds(table: object, known: set[str]) -> bool:
    return isinstance(table, dict) and table.keys() <= known and all(type(value) is int and value >= 0 for value in table.values())
