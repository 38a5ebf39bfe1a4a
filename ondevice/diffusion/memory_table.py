"""What pictures need as a table: each size, each way that it can be drawn, each component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ondevice.base.columns import columns
from ondevice.bundle.reader import Bundle
from ondevice.diffusion.control import nets_of
from ondevice.diffusion.memory_budget import drawable, has_plan, need, parts_of_picture, ways
from ondevice.diffusion.memory_way import Need, Way
from ondevice.plan.blocks import Streaming
from ondevice.target import is_for_cpus

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Row:
    """What one component takes that draws a picture of a size in pixels: its arena, what stays on the device beside
    that in the loop, all of its weights, and the most of these that are there at a time where they are streamed."""

    size: Size
    component: str
    arena: int
    kept: int
    weights: int
    streamed: int

    @property
    def whole(self) -> int:
        """The most at once with all weights loaded."""
        return self.arena + self.kept + self.weights

    @property
    def at_most(self) -> int:
        """The most at once with streamed ones."""
        return self.arena + self.kept + self.streamed

    def to_json(self) -> dict[str, object]:
        """As `show --json` prints it."""
        return asdict(self) | {"whole": self.whole, "at_most": self.at_most}


def streaming_of(bundle: Bundle) -> Streaming:
    """How weights are streamed on devices that a bundle is for, through as much as that takes."""
    return Streaming(0, is_for_cpus(bundle.model.get("target")))


def table(bundle: Bundle, sizes: Sequence[Size]) -> list[tuple[Size, Need]]:
    """What each of these picture sizes (latent units) needs, each way that it can be drawn, with all ControlNets;
    first (width, height) in pixels."""
    scale, given = bundle.pipeline.latents.scale, nets_of(bundle.pipeline)
    fast = [role.component for role in bundle.pipeline.fast]
    rows = []
    for width, height in sizes:
        found = ways(bundle, width, height)
        found.append(replace(found[-1], stream=streaming_of(bundle)))
        if fast and all(has_plan(bundle, component, width, height) for component in fast):
            found.append(Way(fast=True))
        rows += [((width * scale, height * scale), need(bundle, width, height, way, given=given)) for way in found]
    return rows


def components(bundle: Bundle, sizes: Sequence[Size]) -> list[Row]:
    """What each component takes for the first of these sizes (latent units), drawn as fast as it can be."""
    scale, given, rows = bundle.pipeline.latents.scale, nets_of(bundle.pipeline), []
    for width, height in sizes[:1]:
        way = drawable(bundle, width, height, Way())
        whole, _ = parts_of_picture(bundle, width, height, way, given=given)
        streamed, _ = parts_of_picture(bundle, width, height, replace(way, stream=streaming_of(bundle)), given=given)
        for one, other in zip(whole, streamed, strict=True):
            weights, window = (sum(part.weights.values()) for part in (one, other))
            size = width * scale, height * scale
            rows.append(Row(size, one.component, one.arena, one.kept, weights, window))
    return rows


def components_to_text(rows: Sequence[Row]) -> list[str]:
    """A table of what `components` gives, in MB."""
    if not rows:
        return []
    head = ("component", "arena", "kept", "weights", "at most", "streamed weights", "at most")
    cells = [
        (
            row.component,
            *(f"{n / 1e6:,.1f}" for n in (row.arena, row.kept, row.weights, row.whole, row.streamed, row.at_most)),
        )
        for row in rows
    ]
    width, height = rows[0].size
    return [
        "",
        f"each component in MB at {width}x{height}, with its weights loaded, and with --stream-weights",
        *(f"  {line}" for line in columns([head, *cells], left=1)),
    ]


def to_text(rows: Sequence[tuple[Size, Need]]) -> list[str]:
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
