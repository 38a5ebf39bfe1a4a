"""What a player measured on a phone, as `od_player bench` prints it and apps export it: read, checked, as a row, and in
words (docs/benchmarks_on_devices.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.base.columns import columns
from ondevice.bundle.format import load_json
from ondevice.diffusion.files import opened
from ondevice.errors import BundleError, UsageError
from ondevice.run.profile import rate
from ondevice.run.timing import STEADY, spread_of

MOST_BYTES = 4 << 20
MOST_RUNS, MOST_OPS, MOST_RESULTS = 10_000, 4_096, 1_000
MOST_SECONDS, MOST_COUNT = 1e9, 1 << 62
FIX = "export it again from the app, or run `ondevice bench BUNDLE --device adb`"
_STATES = ("phone_before", "phone_after")
SHOWN = 20  # rows of the table of ops


@dataclass(frozen=True, slots=True)
class Op:
    """Launches of one kernel for one op, over `runs` of them in one picture."""

    op: str
    kernel: str
    seconds: float
    runs: int
    flops: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Result:
    """One benchmark on one device. Seconds are of a picture: of the first one, from nothing, the median of `runs`, and
    of the last third of them, when a phone is warm. `data` is all of it as it was given, which is a row's."""

    device: str
    driver: str
    source: str
    size: tuple[int, int]
    steps: int
    first: float
    median: float
    sustained: float
    runs: tuple[float, ...]
    ops: tuple[Op, ...]
    components: dict[str, float]
    plan_bytes: int
    peak_bytes: int
    player: str
    phone: dict[str, Any]
    data: dict[str, Any]

    @property
    def spread(self) -> float:
        """As of `spread_of`; 0 of a single run."""
        return spread_of(self.runs) if len(self.runs) > 1 else 0.0

    @property
    def model(self) -> str:
        """The phone's, else the device's."""
        return str(self.phone.get("model") or self.device)

    def row(self) -> dict[str, Any]:
        """In the shape that `ondevice bench --rows` has of a machine, and that benchmarks/rows.py reads; with all that
        the phone said."""
        flops, moved = sum(op.flops for op in self.ops), sum(op.nbytes for op in self.ops)
        device = {"name": self.device, "driver": self.driver, "kind": "gpu"}
        return {
            "name": f"device: {self.source} picture {self.size[0]}x{self.size[1]} steps={self.steps}",
            "kind": "device",
            "model": self.source,
            "median_ms": self.median * 1e3,
            "first_ms": self.first * 1e3,
            "sustained_ms": self.sustained * 1e3,
            "spread": self.spread,
            "counts": self.spread <= STEADY and len(self.runs) >= 3,
            "gflop_per_s": rate(flops, self.median),
            "gb_per_s": rate(moved, self.median),
            "runs": len(self.runs),
            "machine": {
                "cpu": str(self.phone.get("soc") or "unknown"),
                "cores": max(1, int(self.phone.get("cores") or 1)),
                "memory_bytes": int(self.phone.get("memory_bytes") or 0),
                "os": str(self.phone.get("system") or "unknown"),
                "ondevice": self.player,
                "device": device,
            },
            "phone": self.data,
        }


def read_results(path: Path) -> list[Result]:
    """The results in a file that an app exported, one JSON object per line, or one in all. Raises UsageError."""

    def refused(why: str) -> UsageError:
        return UsageError(f"no results of an app can be read from it: {why}.", where=str(path), fix=FIX)

    with opened(path, MOST_BYTES, refused) as (file, _):
        data = file.read(MOST_BYTES + 1)
    if _whole(data):
        return [parse_result(data, str(path))]
    lines = [line for line in data.splitlines() if line.strip()]
    if not 1 <= len(lines) <= MOST_RESULTS:
        raise refused(f"it has {len(lines)} lines (expected 1 to {MOST_RESULTS})")
    return [parse_result(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def _whole(data: bytes) -> bool:
    """Whether it is one value over several lines."""
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def parse_result(data: bytes, where: str) -> Result:
    """A result from its JSON, every value checked. Raises UsageError."""
    try:
        value = load_json(data, where)
    except BundleError as error:
        raise UsageError(error.what, where=where, fix=FIX) from None
    check = _Checker(where)
    row = check.table(value, "it")
    runs = [check.seconds(one, f"runs[{i}]") for i, one in enumerate(check.listed(row, "runs", MOST_RUNS))]
    if not runs:
        check.fail("runs is empty")
    phone = check.table(row.get("phone", {}), "phone")
    for key in ("model", "soc", "system"):
        if key in phone:
            check.text(phone[key], f"phone.{key}")
    for key in ("cores", "memory_bytes"):
        if key in phone:
            check.count(phone[key], f"phone.{key}")
    for key in _STATES:
        check.table(row.get(key, {}), key)
    components = check.table(row.get("components", {}), "components")
    return Result(
        device=check.text(row.get("device"), "device"),
        driver=check.text(row.get("driver", "unknown"), "driver"),
        source=check.text(row.get("source"), "source"),
        size=(check.count(row.get("width"), "width"), check.count(row.get("height"), "height")),
        steps=check.count(row.get("steps"), "steps"),
        first=check.seconds(row.get("first_seconds"), "first_seconds"),
        median=check.seconds(row.get("median_seconds"), "median_seconds"),
        sustained=check.seconds(row.get("sustained_seconds"), "sustained_seconds"),
        runs=tuple(runs),
        ops=tuple(_op(check, one, f"ops[{i}]") for i, one in enumerate(check.listed(row, "ops", MOST_OPS))),
        components={check.text(name, "components"): check.seconds(s, name) for name, s in components.items()},
        plan_bytes=check.count(row.get("plan_bytes"), "plan_bytes"),
        peak_bytes=check.count(row.get("peak_bytes"), "peak_bytes"),
        player=check.text(row.get("player"), "player"),
        phone=phone,
        data=row,
    )


def _op(check: _Checker, value: Any, path: str) -> Op:
    row = check.table(value, path)
    texts = [check.text(row.get(key), f"{path}.{key}") for key in ("op", "kernel")]
    counts = [check.count(row.get(key, 0), f"{path}.{key}") for key in ("runs", "flops", "bytes")]
    return Op(texts[0], texts[1], check.seconds(row.get("seconds"), f"{path}.seconds", least=0.0), *counts)


class _Checker:
    def __init__(self, where: str) -> None:
        self.where = where

    def fail(self, what: str) -> Any:
        raise UsageError(f"{what}.", where=self.where, fix=FIX)

    def table(self, value: Any, path: str) -> dict[str, Any]:
        return value if type(value) is dict else self.fail(f"{path} is no object")

    def listed(self, row: Mapping[str, Any], key: str, most: int) -> list[Any]:
        value = row.get(key, [])
        return value if type(value) is list and len(value) <= most else self.fail(f"{key} is no list of at most {most}")

    def text(self, value: Any, path: str) -> str:
        good = type(value) is str and 1 <= len(value) <= 512 and value.isprintable()
        return value if good else self.fail(f"{path} is no text of 1 to 512 printable characters")

    def count(self, value: Any, path: str) -> int:
        good = type(value) is int and 0 <= value <= MOST_COUNT
        return value if good else self.fail(f"{path} is no whole number, 0 or more")

    def seconds(self, value: Any, path: str, least: float = 1e-9) -> float:
        good = type(value) in (int, float) and least <= value <= MOST_SECONDS  # false for NaN, and it may be past float
        return float(value) if good else self.fail(f"{path} is no time in seconds")


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was to be expected: seconds of a picture on `target` (None: no model of its time), and bytes on the device
    ("" and 0 where nothing is known)."""

    target: str = ""
    seconds: float | None = None
    device_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"target": self.target, "seconds": self.seconds, "device_bytes": self.device_bytes}


def to_text(result: Result, predicted: Predicted | None = None) -> str:
    """A result for people."""
    phone = result.phone
    about = ", ".join(str(phone[key]) for key in ("soc", "system") if phone.get(key))
    lines = [
        f"{result.model}{f' ({about})' if about else ''}: {result.device}, driver {result.driver}, {result.player}",
        f"{result.source}, {result.size[0]}x{result.size[1]}, {result.steps} steps, {len(result.runs)} pictures: first "
        f"{result.first:,.2f} s, median {result.median:,.2f} s, sustained {result.sustained:,.2f} s "
        f"(spread {result.spread:.2f}{'' if result.spread <= STEADY else '; does not count'})",
    ]
    if predicted and predicted.seconds:
        off = result.median / predicted.seconds - 1
        lines.append(f"predicted for {predicted.target}: {predicted.seconds:,.2f} s; measured {off:+.1%} of that")
    known = f", predicted {predicted.device_bytes / 1e6:,.1f} MB" if predicted and predicted.device_bytes else ""
    lines.append(
        f"memory: {result.plan_bytes / 1e6:,.1f} MB on the device{known}; the process "
        f"{result.peak_bytes / 1e6:,.1f} MB at most"
    )
    lines += _states(result.data)
    return "\n".join([*lines, *_table(result)])


def _states(data: Mapping[str, Any]) -> list[str]:
    found = []
    for key, word in zip(_STATES, ("before", "after"), strict=True):
        state = data.get(key) or {}
        celsius: dict[str, Any] = state["celsius"] if isinstance(state.get("celsius"), dict) else {}
        parts = [f"thermal {state['thermal']}"] if state.get("thermal") else []
        parts += [f"{name} {value:g} °C" for name, value in celsius.items() if type(value) in (int, float)]
        if type(state.get("battery_percent")) in (int, float):
            parts.append(
                f"battery {state['battery_percent']:g} %{', charging' if state.get('charging') is True else ''}"
            )
        if type(state.get("battery_celsius")) in (int, float):
            parts.append(f"battery {state['battery_celsius']:g} °C")
        found += [f"{word}: {', '.join(parts)}"] if parts else []
    return found


def _table(result: Result) -> list[str]:
    total = sum(op.seconds for op in result.ops)
    if not total:
        return []
    ordered = sorted(result.ops, key=lambda op: -op.seconds)
    head = ("op", "kernel", "launches", "ms", "share", "GFLOP/s", "GB/s")
    cells = [
        (
            op.op,
            op.kernel,
            f"{op.runs:,}",
            f"{op.seconds * 1e3:,.1f}",
            f"{op.seconds / total:.1%}",
            f"{rate(op.flops, op.seconds):,.1f}",
            f"{rate(op.nbytes, op.seconds):,.1f}",
        )
        for op in ordered[:SHOWN]
    ]
    parts = ", ".join(f"{name} {seconds:,.2f} s" for name, seconds in result.components.items())
    rest = [f"... {len(ordered) - SHOWN} more"] if len(ordered) > SHOWN else []
    return [
        *columns([head, *cells], left=2),
        *rest,
        *([f"of one picture on the device's clock: {parts}"] if parts else []),
    ]


def of_row(row: Mapping[str, Any]) -> Result:
    """The result that a row was made of. Raises UsageError."""
    return parse_result(json.dumps(row.get("phone")).encode(), "a row")
