"""A tiny bundle with plans for three targets: one has a plan and a weight of its own, two share one, one is for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bundle.setting import setting
from bundle.tiny_bundle import BIAS, tiny_contents, tiny_plan, tiny_weights

from ondevice.bundle import WeightSource, write_bundle
from ondevice.bundle.targets import FACTS
from ondevice.bundle.writer_plans import TargetPlans
from ondevice.plan.plan import Dispatch, Plan

FAST_PLAN, WIDE_PLAN, SHARED_PLAN = (f"plans/tiny_width{name}.json" for name in ("8.fast", "8.wide", "1000"))
LIMITS = dict(zip(FACTS, (256, 32_768, 1 << 30, 16_384, 16_384), strict=True))


def fast_plan() -> Plan:
    """The plan of 8 numbers in groups of 8, with half arithmetic and a bias of its own."""
    plan = tiny_plan(8)
    first, *rest = plan.dispatches
    operands = [replace(x, weight="tiny/own") if x.weight == "tiny/bias" else x for x in plan.operands]
    wide: Dispatch = replace(first, group=(8, 1, 1))
    return replace(plan, needs=("half",), operands=tuple(operands), dispatches=(wide, *rest))


def write_targets(path: Path, *, force: bool = False) -> Path:
    targets = [
        TargetPlans("fast", ("GPU(TM) 8", "GPU 9"), [fast_plan(), tiny_plan(1000)]),
        TargetPlans("wide", ("GPU(TM) 7",), [tiny_plan(8), tiny_plan(1000)]),
        TargetPlans("any", (), [tiny_plan(8), tiny_plan(1000)]),
    ]
    weights = tiny_weights() | {"tiny/own": WeightSource(lambda: BIAS, "f16", (4,))}
    return write_bundle(path, tiny_contents(plans=(), targets=targets, weights=weights), force=force)


# Devices, and the target that each takes; None: it is refused.
DEVICES: list[tuple[dict[str, Any], str | None]] = [
    ({"name": "GPU(TM) 830", "version": "OpenCL 3.0", "needs": ["half"], "limits": LIMITS}, "fast"),
    ({"name": "gpu 9 pro", "version": "", "needs": ["half", "image2d"], "limits": LIMITS}, "fast"),
    ({"name": "GPU(TM)", "version": "OpenCL 3.0 GPU(TM) 740", "needs": ["half"], "limits": LIMITS}, "wide"),
    ({"name": "GPU(TM) 830", "version": "", "needs": [], "limits": LIMITS}, "any"),
    ({"name": "GPU(TM) 830", "version": "", "needs": ["half"], "limits": LIMITS | {"work_group": 7}}, "any"),
    ({"name": "another", "version": "", "needs": ["half"], "limits": LIMITS}, "any"),
    ({"name": "GPU(TM) 740", "version": "", "needs": [], "limits": LIMITS | {"work_group": 3}}, None),
    ({"name": "GPU(TM) 830", "version": "", "needs": ["half"], "limits": LIMITS | {"allocation": 1024}}, None),
]


def facts_of(device: dict[str, Any]) -> dict[str, Any]:
    """A device's facts, as `ondevice.run.device` has them."""
    known = {fact: device["limits"][limit] for limit, fact in FACTS.items()}
    return {"name": device["name"], "version": device["version"], "caps": device["needs"]} | known


TARGET_CHANGES: list[tuple[str, Any, str]] = [
    ("bundle.json", change, message)
    for change, message in [
        (setting("targets", to=...), 'plans[0].targets[0] is "fast" (expected nothing here)'),
        (setting("targets", to=[]), "targets is a list of 0 (expected a list of 1..64)"),
        (setting("targets", to={}), "targets is an object of 0 (expected a list of 1..64)"),
        (setting("targets", 0, to="fast"), 'targets[0] is "fast" (expected an object)'),
        (setting("targets", 0, "name", to=...), "targets[0].name is missing"),
        (setting("targets", 0, "name", to="../x"), 'targets[0].name is "../x" (expected a file name of letters'),
        (setting("targets", 2, "name", to="WIDE"), 'targets names "WIDE" twice'),
        (
            setting("targets", 1, "name", to="narrow"),
            'plans[2].targets[0] is "wide" (expected one of: any, fast, narrow)',
        ),
        (setting("targets", 0, "devices", to="GPU"), 'targets[0].devices is "GPU" (expected a list of 0..64)'),
        (
            setting("targets", 0, "devices", 0, to=""),
            'targets[0].devices[0] is "" (expected 1..512 printable characters)',
        ),
        (setting("targets", 0, "needs", to=None), "targets[0].needs is null (expected a list of 0..16)"),
        (setting("targets", 0, "needs", 0, to="a b"), 'targets[0].needs[0] is "a b" (expected an identifier)'),
        (setting("targets", 0, "limits", to=[]), "targets[0].limits is a list of 0 (expected an object)"),
        (setting("targets", 0, "limits", "allocation", to=...), "targets[0].limits.allocation is missing"),
        (setting("targets", 0, "limits", "work_group", to=-1), "targets[0].limits.work_group is -1 (expected 0.."),
        (setting("targets", 0, "limits", "work_group", to=8.0), "targets[0].limits.work_group is 8.0 (expected 0.."),
        (setting("plans", 0, "targets", to=[]), "plans[0].targets is a list of 0 (expected a list of 1..64)"),
        (setting("plans", 0, "targets", to=["fast", "fast"]), 'plans[0].targets names "fast" twice'),
        (
            setting("plans", 0, "targets", to=["slow"]),
            'plans[0].targets[0] is "slow" (expected one of: any, fast, wide)',
        ),
        (setting("plans", 0, "targets", to=...), "plans[2] is a second plan of tiny at {'width': 8} for wide"),
        (
            setting("plans", 2, "targets", to=["wide", "fast"]),
            "plans[2] is a second plan of tiny at {'width': 8} for fast",
        ),
    ]
]
TARGET_CHANGES += [
    (
        "bundle.json",
        setting("targets", 0, "needs", to=[]),
        f"{FAST_PLAN}: needs half, which target fast of bundle.json",
    ),
    (
        "bundle.json",
        setting("targets", 0, "limits", "work_group", to=7),
        f"{FAST_PLAN}: takes work_group of 8 (target fast of bundle.json says 7)",
    ),
    (
        "bundle.json",
        setting("targets", 1, "limits", "allocation", to=8703),
        f"{SHARED_PLAN}: takes allocation of 8704 (target wide of bundle.json says 8703)",
    ),
]
