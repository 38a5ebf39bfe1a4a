"""What pictures need as a table: each size, each way that it can be drawn."""

from __future__ import annotations

from collections.abc import Sequence

from ondevice.base.columns import columns
from ondevice.bundle.reader import Bundle
from ondevice.diffusion.control import nets_of
from ondevice.diffusion.memory_budget import Need, Way, has_plan, need, ways


def table(bundle: Bundle, sizes: Sequence[tuple[int, int]]) -> list[tuple[tuple[int, int], Need]]:
    """What each of these picture sizes (latent units) needs, each way that it can be drawn, with all ControlNets;
    first (width, height) in pixels."""
    scale, given = bundle.pipeline.latents.scale, nets_of(bundle.pipeline)
    fast = [role.component for role in bundle.pipeline.fast]
    rows = []
    for width, height in sizes:
        found = ways(bundle, width, height)
        if fast and all(has_plan(bundle, component, width, height) for component in fast):
            found.append(Way(fast=True))
        rows += [((width * scale, height * scale), need(bundle, width, height, way, given=given)) for way in found]
    return rows


def to_text(rows: Sequence[tuple[tuple[int, int], Need]]) -> list[str]:
    """A table of what `table` gives, in MB."""
    if not rows:
        return []
    head = ("picture", "drawn with", "arena", "weights", "most at once", "beside it")
    cells = [
        (
            f"{size[0]}x{size[1]}",
            one.way.text(),
            *(f"{n / 1e6:,.1f}" for n in (one.arena, one.weights, one.device, one.host)),
        )
        for size, one in rows
    ]
    return [
        "",
        "memory in MB: on the device, and beside it in the host's (pictures)",
        *(f"  {line}" for line in columns([head, *cells], left=2)),
    ]
