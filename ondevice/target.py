"""What a plan is made for: the tunables of each kernel, from `ondevice/targets/NAME.toml`. No device is named in code."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from ondevice.errors import PlanError, UsageError
from ondevice.paths import TARGETS


@dataclass(frozen=True, slots=True)
class Target:
    """`tune` holds tunables by kernel name; a kernel that is not in it keeps the defaults of its header."""

    name: str
    why: str
    tune: Mapping[str, Mapping[str, int]]


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
    if content.keys() != {"why", "tune"} or not all(isinstance(values, dict) for values in content["tune"].values()):
        raise PlanError("it needs `why` and tables [tune.KERNEL], and nothing else.", where=path.name)
    return Target(name, content["why"], content["tune"])
