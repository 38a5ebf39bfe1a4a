"""A target's file, `ondevice/targets/NAME.toml` -> Target; and that of a set, `ondevice/targets/sets/NAME.toml`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ondevice.base.text.toml import parse_toml
from ondevice.errors import PlanError
from ondevice.target.target import BOUNDS, CAPABILITIES, CLASSES, FP32, MATHS, METHODS, Limits, Roofline, Target
from ondevice.target.tuning import named

REQUIRED = {"why", "class", "caps", "scratch", "tune", *BOUNDS}
OPTIONAL = {"tuned", "base", "limits", "roofline", "device", "maths", "outruns"}
LIMITS = {limit.name for limit in fields(Limits)}
RATES = [rate.name for rate in fields(Roofline) if rate.name != "source"]


def read_target(path: Path, derived: tuple[str, ...] = ()) -> Target:
    """The target in a file, with the measured files and the base that it names.

    Args:
        derived: names of the targets whose base it is, directly or not.

    Raises:
        PlanError: the file, or its base, is damaged; a target is its own base.
        UsageError: a measured file that it names is not there.
    """
    try:
        content = parse_toml(path.read_bytes())
    except ValueError as error:
        raise PlanError(f"it is not TOML: {error}.", where=path.name) from None
    tables = all(_numbers(content.get(table), known) for table, known in BOUNDS.items())
    scratch, caps = content.get("scratch"), content.get("caps")
    known = content.keys() >= REQUIRED and content.keys() <= REQUIRED | OPTIONAL and content["class"] in CLASSES
    if not known or not tables or not _capabilities(caps) or type(scratch) is not int or scratch < 1:
        raise PlanError(
            f"it needs `why`, `class` (one of {', '.join(CLASSES)}), `caps` (some of {', '.join(CAPABILITIES)}), "
            f"`scratch` in bytes, [tune.KERNEL] and the bounds {BOUNDS}, "
            "may have `tuned`, `base`, `maths`, `outruns`, [limits], [roofline] and [device], and nothing else.",
            where=path.name,
        )
    tune = content["tune"]
    if not isinstance(tune, dict) or not all(isinstance(values, dict) for values in tune.values()):
        raise PlanError("[tune] holds tables, one per kernel.", where=path.name)
    files = content.get("tuned", [])
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise PlanError(f"`tuned` lists names of measured files (got {files!r}).", where=path.name)
    return Target(
        path.stem,
        content["why"],
        content["class"],
        content["winograd"],
        content["flash"],
        content["group_norm"],
        scratch,
        _over(_tunables_of_base(content, path, derived), tune),
        tuple(named(file) for file in files),
        frozenset(content["caps"]),
        _limits(content, path.name),
        _roofline(content, path.name),
        _device_words(content, path.name),
        maths=_listed(content, "maths", [name for name in MATHS if name != FP32], path.name),
        outruns=_listed(content, "outruns", METHODS, path.name),
    )


def read_set(path: Path) -> list[str]:
    """The names of the targets that one bundle has plans for, in the order in which a device takes its own;
    a device of no kind takes the last. Raises PlanError where the file is damaged."""
    try:
        content = parse_toml(path.read_bytes())
    except ValueError as error:
        raise PlanError(f"it is not TOML: {error}.", where=path.name) from None
    names = content.get("targets")
    listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if content.keys() != {"why", "targets"} or not listed or not names or len({*names}) != len(names):
        raise PlanError("a set has `why` and `targets`, a list of different targets.", where=path.name)
    known = {file.stem for file in path.parent.parent.glob("*.toml")}
    if unknown := [name for name in names if name not in known]:
        raise PlanError(f"`targets` names targets only (got {unknown[0]!r}).", where=path.name)
    return names


def _tunables_of_base(
    content: Mapping[str, Any], path: Path, derived: tuple[str, ...]
) -> Mapping[str, Mapping[str, int]]:
    """What another target's [tune] says, its own base's included."""
    if "base" not in content:
        return {}
    base, chain = content["base"], (path.stem, *derived)
    if not isinstance(base, str) or base in chain or base not in {other.stem for other in path.parent.glob("*.toml")}:
        raise PlanError(f"`base` names another target whose tunables it starts from (got {base!r}).", where=path.name)
    return read_target(path.with_name(f"{base}.toml"), chain).tune


def _over(base: Mapping[str, Mapping[str, int]], tune: Mapping[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    return {kernel: {**base.get(kernel, {}), **tune.get(kernel, {})} for kernel in {**base, **tune}}


def _limits(content: Mapping[str, Any], where: str) -> Limits:
    table = content.get("limits", {})
    if not _numbers(table, LIMITS, least=1):
        raise PlanError(f"[limits] has whole numbers of {', '.join(sorted(LIMITS))} (got {table!r}).", where=where)
    return Limits(**table)


def _roofline(content: Mapping[str, Any], where: str) -> Roofline | None:
    table = content.get("roofline")
    if table is None:
        return None
    whole = isinstance(table, dict) and table.keys() == {*RATES, "source"} and isinstance(table["source"], str)
    if not whole or not all(_is_rate(table[rate]) for rate in RATES):
        raise PlanError(f"[roofline] has numbers above 0, {', '.join(RATES)}, and their `source`.", where=where)
    return Roofline(**{rate: float(table[rate]) for rate in RATES}, source=table["source"])


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and 0 < value < math.inf


def _device_words(content: Mapping[str, Any], where: str) -> tuple[str, ...]:
    table = content.get("device", {"words": []})
    words = table.get("words") if isinstance(table, dict) and table.keys() == {"words"} else None
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise PlanError("[device] has `words`, a list of what its devices' names contain.", where=where)
    return tuple(words)


def _listed(content: Mapping[str, Any], key: str, known: Sequence[str], where: str) -> tuple[str, ...]:
    names = content.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name in known for name in names):
        raise PlanError(f"`{key}` lists some of {', '.join(known)} (got {names!r}).", where=where)
    return tuple(names)


def _capabilities(caps: object) -> bool:
    return isinstance(caps, list) and all(isinstance(name, str) and name in CAPABILITIES for name in caps)


def _numbers(table: object, known: set[str], least: int = 0) -> bool:
    return (
        isinstance(table, dict)
        and table.keys() <= known
        and all(type(value) is int and value >= least for value in table.values())
    )
