"""What it costs that one bundle has plans for several targets: their JSON, and weights that only some of them read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ondevice.base.columns import columns
from ondevice.bundle.reader import Bundle


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of a target's plans and of the weights that they read; `own` are those that not all targets have."""

    target: str
    plans: int
    own_plans: int
    weights: int
    own_weights: int


def costs(bundle: Bundle) -> list[Cost]:
    """A row per target of a bundle, in its order; none where it is for one. Raises BundleError where it is damaged."""
    manifest = bundle.manifest
    plans = {target.name: {entry.file for entry in bundle.for_target(target.name).plans} for target in manifest.targets}
    weights = {name: _weights(bundle.for_target(name)) for name in plans}
    shared_plans = set[str].intersection(*plans.values()) if plans else set()
    shared_weights = set[str].intersection(*weights.values()) if plans else set()

    def sizes(files: set[str]) -> int:
        return sum(manifest.files[file].bytes for file in files)

    def stored(keys: set[str]) -> int:
        return sum(manifest.weights[key].bytes for key in keys)

    rows = []
    for target in manifest.targets:
        files, keys = plans[target.name], weights[target.name]
        own = sizes(files - shared_plans), stored(keys - shared_weights)
        rows.append(Cost(target.name, sizes(files), own[0], stored(keys), own[1]))
    return rows


def _weights(bundle: Bundle) -> set[str]:
    """The keys that the plans of a bundle's target read."""
    found = (bundle.plan(entry.component, **entry.sizes) for entry in bundle.plans)
    return {operand.weight for plan in found for operand in plan.operands if operand.weight is not None}


def to_text(bundle: Bundle, rows: Sequence[Cost]) -> list[str]:
    """A table of what `costs` gives, in MB, and the sum; nothing where there are no rows."""
    if not rows:
        return []
    files = {entry.file for entry in bundle.manifest.plans}
    plans = sum(bundle.manifest.files[file].bytes for file in files)
    weights = sum(entry.bytes for entry in bundle.manifest.weights.values())
    more = plans + weights - max(row.plans + row.weights for row in rows)
    head = ("target", "plans", "of its own", "weights", "of its own")
    cells = [
        (row.target, *(f"{n / 1e6:,.1f}" for n in (row.plans, row.own_plans, row.weights, row.own_weights)))
        for row in rows
    ]
    return [
        "",
        f"plans for {len(rows)} targets, in MB; all of them take {more / 1e6:,.1f} MB more than the largest alone "
        f"(plans {plans / 1e6:,.1f}, weights {weights / 1e6:,.1f})",
        *(f"  {line}" for line in columns([head, *cells])),
    ]
