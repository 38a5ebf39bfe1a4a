"""What pictures need as a table: each size, each way that it can be drawn, each component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ondevice.base.columns import columns
from ondevice.bundle.reader import Bundle
from ondevice.diffusion.control import nets_of
from ondevice.diffusion.memory_budget import drawable, has_plan, need, parts_of_picture, streamed, ways
from ondevice.diffusion.memory_way import Need, Part, Way
from ondevice.plan.blocks import Streaming
from ondevice.target import is_for_cpus

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Taken:
    """Bytes that one component takes: its arena, what stays on the device beside that in the loop, pictures in the
    host's memory, and its weights, or the most of these that are there at a time where they are streamed."""

    arena: int
    kept: int
    pictures: int
    weights: int

    @property
    def at_most(self) -> int:
        """All of it."""
        return self.arena + self.kept + self.pictures + self.weights


@dataclass(frozen=True, slots=True)
class Row:
    """What one component takes that draws a picture of a size in pixels, with all weights loaded, and with
    `--stream-weights`, which gives all of it back after use and may decode in bands."""

    size: Size
    component: str
    whole: Taken
    streamed: Taken

    def to_json(self) -> dict[str, object]:
        """As `show --json` prints it."""
        found = asdict(self)
        for name, taken in (("whole", self.whole), ("streamed", self.streamed)):
            found[name]["at_most"] = taken.at_most
        return found


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
        found.append(streamed(bundle, width, height, Way(stream=streaming_of(bundle)), given=given))
        if fast and all(has_plan(bundle, component, width, height) for component in fast):
            found.append(Way(fast=True))
        rows += [((width * scale, height * scale), need(bundle, width, height, way, given=given)) for way in found]
    return rows


def components(bundle: Bundle, sizes: Sequence[Size]) -> list[Row]:
    """What each component takes for the first of these sizes (latent units), drawn as fast as it can be, and with
    streamed weights."""
    scale, given, rows = bundle.pipeline.latents.scale, nets_of(bundle.pipeline), []
    for width, height in sizes[:1]:
        way = drawable(bundle, width, height, Way())
        small = streamed(bundle, width, height, replace(way, stream=streaming_of(bundle)), given=given)
        found = [_taken(parts_of_picture(bundle, width, height, one, given=given)[0]) for one in (way, small)]
        size = width * scale, height * scale
        rows += [Row(size, name, taken, found[1][name]) for name, taken in found[0].items()]
    return rows


def _taken(parts: Sequence[Part]) -> dict[str, Taken]:
    return {one.component: Taken(one.arena, one.kept, one.host, sum(one.weights.values())) for one in parts}


def at_most(rows: Sequence[Row]) -> tuple[int, int]:
    """The most bytes at a time that a picture takes: with all weights, of each component from its first use on, and
    with streamed ones."""
    loaded = most = 0
    for row in rows:
        loaded += row.whole.weights
        most = max(most, loaded + row.whole.at_most - row.whole.weights)
    return most, max(row.streamed.at_most for row in rows)


def components_to_text(rows: Sequence[Row]) -> list[str]:
    """A table of what `components` gives, in MB."""
    if not rows:
        return []
    words = ("arena", "kept", "pictures", "weights", "at most")
    cells = [
        (
            row.component,
            *(
                f"{n / 1e6:,.1f}"
                for one in (row.whole, row.streamed)
                for n in (one.arena, one.kept, one.pictures, one.weights, one.at_most)
            ),
        )
        for row in rows
    ]
    (width, height), (whole, through) = rows[0].size, at_most(rows)
    return [
        "",
        f"each component in MB at {width}x{height}: with its weights loaded, and then with --stream-weights",
        *(f"  {line}" for line in columns([("component", *words, *words), *cells], left=1)),
        f"  a picture: {whole / 1e6:,.1f} MB, with --stream-weights {through / 1e6:,.1f}, beside the program itself",
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
