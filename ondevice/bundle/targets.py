"""Plans of one bundle for several GPUs: which target's a device takes.
The specification is docs/bundle.md, section "Several GPUs"."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ondevice.bundle import format as f
from ondevice.errors import BundleError, DeviceError
from ondevice.lower.prelude import missing
from ondevice.plan.plan import Plan

# What a target's plans take of a device at most -> the fact of a device that says how much it has.
FACTS = {
    "work_group": "max_work_group",
    "local_memory": "local_bytes",
    "allocation": "max_alloc_bytes",
    "image_width": "max_image_width",
    "image_height": "max_image_height",
}


@dataclass(frozen=True, slots=True)
class TargetEntry:
    """A kind of devices that some of a bundle's plans are for.

    `devices`: parts of the names of its devices; `needs`: what its plans need of a device; `limits`: by the keys of
    FACTS, what they take of it at most.
    """

    name: str
    devices: tuple[str, ...]
    needs: tuple[str, ...]
    limits: Mapping[str, int]

    def is_of(self, facts: Mapping[str, Any]) -> bool:
        """Whether a device with these facts is one of its kind."""
        text = f"{facts.get('name', '')}\n{facts.get('version', '')}".casefold()
        return any(words.casefold() in text for words in self.devices)

    def misfit(self, facts: Mapping[str, Any], dialect: str) -> str | None:
        """Why a device cannot run its plans; None if it can. A fact that is not known stands in no way."""
        if lacks := missing(self.needs, dialect, facts.get("caps", ())):
            return f"it needs {', '.join(lacks)}"
        for limit, most in self.limits.items():
            if most > (has := facts.get(FACTS[limit]) or most):
                return f"it needs {limit.replace('_', ' ')} of {most:,} (the device has {has:,})"
        return None


def target_for(targets: Sequence[TargetEntry], facts: Mapping[str, Any], dialect: str) -> TargetEntry:
    """The first target whose kind a device is and whose plans it can run; else the last whose plans it can run.

    Args:
        targets: at least one.
        facts: as `Device.facts` gives them.
        dialect: of the device's kernels.

    Raises:
        DeviceError: it can run those of none of them.
    """
    kinds = [target for target in targets if target.is_of(facts)]
    for target in (*kinds, *reversed(targets)):
        if target.misfit(facts, dialect) is None:
            return target
    why = "; ".join(f"{target.name}: {target.misfit(facts, dialect)}" for target in kinds or targets[-1:])
    raise DeviceError(
        f"{facts.get('name', 'the device')} runs none of the bundle's plans ({why}).",
        fix="convert for a --target of this device, or use another --device",
    )


def parse_targets(check: f.Checker, rows: Any) -> tuple[TargetEntry, ...]:
    """The manifest's `targets`. Raises BundleError with the field that is wrong."""
    found = []
    for i, row in enumerate(check.array(rows, (1, f.MAX_TARGETS), "targets")):
        at = ("targets", i)
        name, devices, needs, limits = check.record(row, ("name", "devices", "needs", "limits"), *at)
        check.name(name, *at, "name")
        words = check.array(devices, (0, f.MAX_TARGETS), *at, "devices")
        for k, word in enumerate(words):
            check.text(word, *at, "devices", k)
        listed = check.array(needs, (0, f.MAX_NEEDS), *at, "needs")
        for k, need in enumerate(listed):
            check.identifier(need, *at, "needs", k)
        numbers = check.record(limits, tuple(FACTS), *at, "limits")
        most = {
            limit: check.integer(number, 0, f.MAX_BYTES, *at, "limits", limit)
            for limit, number in zip(FACTS, numbers, strict=True)
        }
        found.append(TargetEntry(name, tuple(words), tuple(listed), most))
    check.distinct(tuple(target.name for target in found), "targets")
    return tuple(found)


def taken_by(plan: Plan) -> dict[str, int]:
    """What a plan takes of a device at most, by the keys of FACTS; but for local memory, which its kernels say."""
    images = [operand.shape for operand in plan.operands if operand.view is not None]
    return {
        "work_group": max((x * y * z for x, y, z in (call.group for call in plan.dispatches)), default=0),
        "local_memory": 0,
        "allocation": plan.arena,
        "image_width": max((width for _, width, _ in images), default=0),
        "image_height": max((height for height, _, _ in images), default=0),
    }


def check_serves(plan: Plan, where: str, targets: Collection[TargetEntry]) -> None:
    """Refuse a plan that takes more of a device than the targets say that it serves.

    Raises:
        BundleError: names the need or the limit.
    """
    for target in targets:
        if unsaid := [need for need in plan.needs if need not in target.needs]:
            what = f"needs {unsaid[0]}, which target {target.name} of {f.MANIFEST} does not say."
            raise BundleError(what, where=where, fix=f.DAMAGED)
        for limit, taken in taken_by(plan).items():
            if taken > target.limits[limit]:
                what = f"takes {limit} of {taken} (target {target.name} of {f.MANIFEST} says {target.limits[limit]})."
                raise BundleError(what, where=where, fix=f.DAMAGED)
