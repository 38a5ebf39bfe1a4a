"""What devices that share a network have of it each, and what goes between them in a step, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ondevice.base.columns import columns
from ondevice.bundle.reader import Bundle
from ondevice.diffusion.memory_budget import default_size, most_passes
from ondevice.diffusion.parallel import sizes_of, sums_of
from ondevice.graph.ranks import MOST, Rank, component_of
from ondevice.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a network: how many sums devices end in it in a step, and the bytes that go between them for that."""

    name: str
    sums: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Shared:
    """A component at one size on so many devices: the whole's bytes of weights and FLOPs and those of the device that
    has the most, and what is exchanged in it, by block. `ranks` of 1: no plans share it, so each device has the
    whole."""

    component: str
    sizes: Mapping[str, int]
    ranks: int
    weights: int
    most_weights: int
    flops: int
    most_flops: int
    blocks: tuple[Block, ...]

    @property
    def sums(self) -> int:
        return sum(block.sums for block in self.blocks)

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self.blocks)

    def to_json(self) -> dict[str, object]:
        """As `show --json` prints it."""
        return asdict(self) | {"sums": self.sums, "nbytes": self.nbytes}


def of_plans(whole: Plan, shares: Sequence[Plan]) -> Shared:
    """What ranks with these plans have of what `whole` computes."""
    blocks: dict[str, list[int]] = {}
    for node, nbytes in sums_of(shares[0]) if shares else ():
        blocks.setdefault(block_of(node), []).append(nbytes * len(shares) ** 2)  # each gives one, gets all others
    made = tuple(Block(name, len(each), sum(each)) for name, each in blocks.items())
    each = shares or [whole]
    weights, flops = max(map(_weights, each)), max(map(_flops, each))
    return Shared(whole.component, whole.sizes, len(each), _weights(whole), weights, _flops(whole), flops, made)


def table(bundle: Bundle) -> list[Shared]:
    """A row for each component of the loop, at the bundle's first size and most passes; none where no plans share
    one. Raises BundleError where the bundle is damaged."""
    components = list(dict.fromkeys(role.component for role in bundle.pipeline.loop_roles()))
    scale = bundle.pipeline.latents.scale
    width, height = (side // scale for side in default_size(bundle))
    rows = []
    for ranks in range(2, MOST + 1):
        names = {one: [component_of(one, Rank(number, ranks)) for number in range(ranks)] for one in components}
        if not any(name in bundle.components for each in names.values() for name in each):
            continue
        for component, each in names.items():
            sizes = sizes_of(bundle, component, most_passes(bundle), width, height)
            shares = [bundle.plan(name, **sizes) for name in each if name in bundle.components]
            rows.append(of_plans(bundle.plan(component, **sizes), shares))
    return rows


def block_of(node: str) -> str:
    """Of a node's name what its block is called: "down_blocks.0" of "down_blocks.0.resnets.1/SumRanks"."""
    first, _, rest = node.partition("/")[0].partition(".")
    number = rest.partition(".")[0]
    return f"{first}.{number}" if number.isdecimal() else first


def _weights(plan: Plan) -> int:
    return sum({one.weight: one.nbytes for one in plan.operands if one.weight is not None}.values())


def _flops(plan: Plan) -> int:
    return sum(one.flops for one in plan.dispatches)


def to_text(rows: Sequence[Shared]) -> list[str]:
    """Lines of what `table` gives."""
    lines: list[str] = []
    for row in rows:
        place = " ".join(f"{name}={size}" for name, size in row.sizes.items())
        weights, flops = f"{row.weights / 1e6:,.1f} MB of weights", f"{row.flops / 1e9:,.1f} GFLOP"
        if row.ranks == 1:
            lines += ["", f"{row.component}, {place}: not shared; each device has all {weights} and {flops}"]
            continue
        lines += [
            "",
            f"{row.component} on {row.ranks} devices that share it (generate --parallel tensor), {place}",
            f"  each has {row.most_weights / 1e6:,.1f} of {weights}, and {row.most_flops / 1e9:,.1f} of {flops}",
            f"  {row.sums} sums a step, for which {row.nbytes / 1e6:,.1f} MB go between them",
        ]
        cells = [(block.name, f"{block.sums}", f"{block.nbytes / 1e6:,.1f}") for block in row.blocks]
        lines += [f"    {line}" for line in columns([("block", "sums", "MB a step"), *cells], left=1)]
    return lines
