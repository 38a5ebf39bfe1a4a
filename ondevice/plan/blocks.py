"""Weights a block at a time: which dispatches read them together, and where they lie in a window of memory.

A block is a run of dispatches with all weights that they read. While one runs, the next is loaded beside it, so that
two are there at a time: they lie at both ends of the window in turns,

    window   |block 0 ->            <- block 1|    |block 2 ->    <- block 1|   ...

and a block may be loaded once all but the one before it are done; or that one, too, where both together are too large.
docs/memory.md has the rules, which the players share.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ondevice.errors import PlanError
from ondevice.plan.arena import round_up
from ondevice.plan.plan import ALIGN, Plan, home

# Bytes of weights in a block where nobody says. Loading one must take no longer than running the one before: larger
# blocks even that out, smaller ones take less memory.
BLOCK = 32 << 20


@dataclass(frozen=True, slots=True)
class Streaming:
    """How weights are streamed.

    Attributes:
        nbytes: of the window at most; 0: as many as blocks of BLOCK take.
        mapped: weights are read where their files are mapped, and the window is what of these is in memory; else it is
            a buffer that they are copied to.
    """

    nbytes: int
    mapped: bool


@dataclass(frozen=True, slots=True)
class Block:
    """Dispatches of a plan, `first` to `end`, and what they read.

    Attributes:
        end: the dispatch behind the last one.
        places: where each weight lies in the window, by key.
        nbytes: of all these weights, each in whole units of ALIGN.
        after: how many blocks, from the first on, must be done before this one is loaded.
    """

    first: int
    end: int
    places: Mapping[str, int]
    nbytes: int
    after: int


@dataclass(frozen=True, slots=True)
class Window:
    """The blocks of a plan, in order, in a window of `nbytes`, of which at most `most` hold weights at a time."""

    nbytes: int
    most: int
    blocks: tuple[Block, ...]


def window_of(plan: Plan, how: Streaming, held: Collection[str] = ()) -> Window:
    """The window through which a plan's weights go.

    Args:
        held: weights that have memory of their own.

    Raises:
        PlanError: it is too small for what one dispatch reads.
    """
    return windowed(weights_read(plan, how.mapped, held), how.nbytes, plan.component)


def weights_read(plan: Plan, mapped: bool, held: Collection[str] = ()) -> list[dict[str, int]]:
    """What each dispatch reads of weights: bytes by key. Of a table of which it picks rows that is no more than the
    rows, where the table is mapped: nothing else of it is ever read from its file."""
    found = []
    for dispatch in plan.dispatches:
        operands = [plan.operands[home(plan.operands, index)] for index in dispatch.operands]
        read = {one.weight: one.nbytes for one in operands if one.weight is not None and one.weight not in held}
        found.append({key: min(size, dispatch.reads) if mapped else size for key, size in read.items()})
    return found


def windowed(reads: Sequence[Mapping[str, int]], nbytes: int, component: str) -> Window:
    """A window of at most `nbytes`, 0 as `Streaming` has it, for dispatches that read these bytes by weight.
    Raises PlanError as `window_of`."""
    chosen = nbytes > 0
    nbytes -= nbytes % ALIGN
    most = nbytes // 2 if chosen else BLOCK
    cut: list[tuple[int, dict[str, int]]] = []  # first dispatch, weights
    for number, read in enumerate(reads):
        sizes = {key: round_up(size) for key, size in read.items()}
        here = cut[-1][1] if cut else {}
        more = sum(max(size - here.get(key, 0), 0) for key, size in sizes.items())
        if not cut or (more and here and sum(here.values()) + more > most):
            cut.append((number, sizes))
        else:
            here.update({key: max(size, here.get(key, 0)) for key, size in sizes.items()})
    totals = [sum(sizes.values()) for _, sizes in cut]
    pairs = [sum(totals[max(index - 1, 0) : index + 1]) for index in range(len(totals))]
    least = max(totals, default=0)
    if not chosen:
        nbytes = max(pairs, default=0)
    elif least > nbytes:
        what = f"a dispatch reads {least / 1e6:,.1f} MB of weights, and the window has {nbytes / 1e6:,.1f} MB."
        fix = f"stream weights through {-(-least // 1_000_000)}MB or more"
        raise PlanError(what, where=component, fix=fix)
    blocks = []
    for index, ((first, sizes), total) in enumerate(zip(cut, totals, strict=True)):
        end = cut[index + 1][0] if index + 1 < len(cut) else len(reads)
        at, places = nbytes - total if index % 2 else 0, {}
        for key, size in sizes.items():
            places[key] = at
            at += size
        alone = pairs[index] > nbytes
        blocks.append(Block(first, end, places, total, index if alone else max(index - 1, 0)))
    live = [pair if pair <= nbytes else total for pair, total in zip(pairs, totals, strict=True)]
    return Window(nbytes, max(live, default=0), tuple(blocks))
