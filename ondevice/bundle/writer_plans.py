"""Plans on their way into a bundle: one file each, however many targets it is for, and what each target's take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ondevice.bundle.plan_file import dump_plan, plan_stem, weight_bytes
from ondevice.bundle.targets import taken_by
from ondevice.bundle.weight_entry import WeightEntry
from ondevice.bundle.weights import shard_sizes
from ondevice.errors import BundleError
from ondevice.lower.local_memory import local_bytes
from ondevice.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class TargetPlans:
    """The plans for one of several kinds of devices, whose names contain one of `devices`."""

    name: str
    devices: tuple[str, ...]
    plans: Sequence[Plan]


@dataclass(frozen=True, slots=True)
class WrittenPlan:
    """A plan, its file's bytes and its row of the manifest, and the targets that it is for."""

    plan: Plan
    data: bytes
    row: dict[str, Any]
    targets: tuple[str, ...]


def distinct_plans(targets: Sequence[TargetPlans]) -> list[WrittenPlan]:
    """Every plan once, in the order of the targets. Raises BundleError where a target has two of the same sizes."""
    users: defaultdict[tuple[str, bytes], list[str]] = defaultdict(list)
    plans: dict[tuple[str, bytes], Plan] = {}
    for target in targets:
        stems: set[str] = set()
        for plan in target.plans:
            stem = plan_stem(plan.component, plan.sizes)
            if stem in stems:
                where = f"plans/{stem}.json"
                raise BundleError(
                    "two plans have the same component and sizes.", where=where, fix="give each size once"
                )
            stems.add(stem)
            key = stem, dump_plan(plan, f"plans/{stem}.json")
            users[key].append(target.name)
            plans[key] = plan
    return [_written(plan, key, users[key], len(users[key]) == len(targets)) for key, plan in plans.items()]


def _written(plan: Plan, key: tuple[str, bytes], users: list[str], for_all: bool) -> WrittenPlan:
    stem, data = key
    row = {
        "component": plan.component,
        "sizes": dict(plan.sizes),
        "file": f"plans/{stem}.json" if for_all else f"plans/{stem}.{users[0]}.json",
        "arena": plan.arena,
        "weight_bytes": weight_bytes(plan),
    }
    return WrittenPlan(plan, data, row if for_all else row | {"targets": users}, tuple(users))


def readers(plans: Sequence[WrittenPlan]) -> dict[str, frozenset[str]]:
    """The targets whose plans read a weight, by its key."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for one in plans:
        for operand in one.plan.operands:
            if operand.weight is not None:
                found[operand.weight].update(one.targets)
    return {key: frozenset(names) for key, names in found.items()}


def target_rows(
    targets: Sequence[TargetPlans],
    plans: Sequence[WrittenPlan],
    placed: Mapping[str, WeightEntry],
    texts: Mapping[str, str],
) -> list[dict[str, Any]]:
    """The manifest's `targets`: what the plans of each need of a device, and take of it at most.

    Args:
        placed: where weights are.
        texts: of the kernels, by name.
    """
    shards, rows = shard_sizes(placed), []
    for target in targets:
        own = [one.plan for one in plans if target.name in one.targets]
        limits = {limit: max(taken[limit] for taken in map(taken_by, own)) for limit in taken_by(own[0])}
        read = {placed[x.weight].file for plan in own for x in plan.operands if x.weight is not None}
        limits["allocation"] = max(limits["allocation"], *(shards[file] for file in read), 0)
        kernels = {kernel for plan in own for kernel in plan.kernels}
        local = (local_bytes(texts[kernel.file], dict(kernel.defines)) or 0 for kernel in kernels)
        limits["local_memory"] = max(local, default=0)
        needs = sorted({need for plan in own for need in plan.needs})
        rows.append({"name": target.name, "devices": list(target.devices), "needs": needs, "limits": limits})
    return rows
