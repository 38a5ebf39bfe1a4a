"""Weights a block at a time: what is loaded of a plan while it runs, and what is given back (ondevice/plan/blocks.py).

On a CPU weights stay where their files are mapped: a block's pages are fetched before its dispatches run, and dropped
when they are done. On other devices a block is copied into a window, over one that is done, by a queue of its own, so
that the dispatches before it run on. Of a block's pages none stay in memory then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ondevice.base.machine import give_back_freed
from ondevice.plan.blocks import Block, Streaming, Window
from ondevice.plan.plan import ALIGN, Operand, Plan, home
from ondevice.run.device import Device
from ondevice.run.source import Source

STEP = 16 << 20  # bytes that are copied at once


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes `start` to `end` of a shard, and where they lie in the window."""

    shard: str
    start: int
    end: int
    place: int


class Weights:
    """The streamed weights of a session: at most one plan's at a time.

    Attributes:
        live: bytes of weights that are loaded now.
        most: the most that ever were.
    """

    def __init__(self, bundle: Source, device: Device, how: Streaming) -> None:
        self.how, self.live, self.most = how, 0, 0
        self._bundle, self._device = bundle, device
        self._window: Any = None
        self.window_bytes = 0
        give_back_freed()  # what comes and goes beside weights is not to stay for good

    def of(self, plan: Plan, window: Window) -> Streamed:
        """What streams the weights of a plan, for which the window is large enough."""
        return Streamed(self, plan, window, self._window)

    def grows(self, window: Window) -> bool:
        """Whether a larger window is needed than there is: nothing must use that any more when it `grow`s."""
        return not self.how.mapped and window.nbytes > self.window_bytes

    def grow(self, window: Window, where: str) -> None:
        """Make it as large. Raises DeviceError where there is no memory for it."""
        self.release()
        self._window = self._device.alloc(window.nbytes, f"{where}: window of weights")
        self.window_bytes = window.nbytes

    def release(self) -> None:
        """Give the window back."""
        self._window, self.window_bytes = None, 0

    def load(self, pieces: Collection[Piece], block: Block, following: Collection[Piece]) -> None:
        """Have a block's weights where its dispatches read them; the system begins to read those of the next one.
        Raises BundleError where the file is not what it was, and DeviceError."""
        self.live += block.nbytes
        self.most = max(self.most, self.live)
        for piece in pieces:
            if self.how.mapped:
                self._bundle.fetch(piece.shard, piece.start, piece.end - piece.start)
            else:
                self._copy(piece)
        for piece in following:
            self._bundle.expect(piece.shard, piece.start, piece.end - piece.start)

    def _copy(self, piece: Piece) -> None:
        data = self._bundle.shard(piece.shard)
        for start in range(piece.start, piece.end, STEP):
            part = data[start : min(start + STEP, piece.end)]
            self._bundle.fetch(piece.shard, start, part.nbytes)
            self._device.fill(self._window, piece.place + start - piece.start, part)
            self._bundle.drop(piece.shard, start, part.nbytes)

    def unload(self, touched: Collection[Piece], block: Block) -> None:
        """Give a block back whose dispatches are done."""
        self.live -= block.nbytes
        for piece in touched if self.how.mapped else ():
            self._bundle.drop(piece.shard, piece.start, piece.end - piece.start)

    def pieces(self, places: Mapping[str, int]) -> list[Piece]:
        """Where weights are in their shards; those that follow each other there and in the window as one piece."""
        made: list[Piece] = []
        for key, place in places.items():
            shard, start, nbytes = self._bundle.weight(key)
            last = made[-1] if made else None
            if (
                last is not None
                and (last.shard, last.start - last.place) == (shard, start - place)
                and 0 <= start - last.end < ALIGN
            ):
                made[-1] = Piece(shard, last.start, start + nbytes, last.place)
            else:
                made.append(Piece(shard, start, start + nbytes, place))
        return made


class Streamed:
    """The weights of one plan on their way through the window."""

    def __init__(self, weights: Weights, plan: Plan, window: Window, buffer: Any) -> None:
        self._weights, self._plan, self._buffer = weights, plan, buffer
        self._blocks = window.blocks
        self._touched = [weights.pieces(block.places) for block in self._blocks]
        # of a table that is mapped only the rows are read that a dispatch picks, whichever these are
        self._fetched = self._touched if not weights.how.mapped else [self._whole(block) for block in self._blocks]
        self._loaded = self._done = 0  # blocks of this run

    def _whole(self, block: Block) -> list[Piece]:
        """Of a block, the weights of which all is read."""
        read: dict[str, int] = {}
        for dispatch in self._plan.dispatches[block.first : block.end]:
            for operand in (self._plan.operands[home(self._plan.operands, index)] for index in dispatch.operands):
                key = operand.weight
                if key is not None and key in block.places and operand.nbytes <= dispatch.reads:
                    read[key] = block.places[key]
        return self._weights.pieces(read)

    def buffers(self, part: Callable[[Any, int, int], Any], image: Callable[[Any, Operand], Any]) -> list[Any]:
        """Of each block the buffers of its weights, and the images over these, by operand; none of them where weights
        are mapped, for there they stay where they are.

        Args:
            part: makes a part of a buffer, from an offset on.
            image: makes an image for an operand over a buffer.
        """
        made: list[dict[int, Any]] = []
        for block in self._blocks if not self._weights.how.mapped else ():
            used = {i for one in self._plan.dispatches[block.first : block.end] for i in one.operands}
            here: dict[int, Any] = {}
            for index in sorted(used | {home(self._plan.operands, index) for index in used}):
                operand = self._plan.operands[index]
                if (key := operand.weight) is not None and key in block.places:
                    here[index] = part(self._buffer, block.places[key], operand.nbytes)
            for index in used:
                if (viewed := self._plan.operands[index].view) is not None and viewed in here:
                    here[index] = image(here[viewed], self._plan.operands[index])
            made += [here] * (block.end - block.first)
        return made

    def awaits(self, number: int) -> int | None:
        """Of a dispatch that begins a block, the last one that must be done before that can be loaded, if it may not be
        yet."""
        after = self._blocks[self._loaded].after if self._begins(number) else 0
        return self._blocks[after - 1].end - 1 if after > self._done else None

    def _begins(self, number: int) -> bool:
        return self._loaded < len(self._blocks) and self._blocks[self._loaded].first == number

    def enter(self, number: int) -> None:
        """Before a dispatch is launched, and once what it `awaits` is done: load the block that it begins.
        Raises BundleError, DeviceError as `Weights.load`."""
        if not self._begins(number):
            return
        index = self._loaded
        block = self._blocks[index]
        if block.after > self._done:
            self._unload(block.after)
        self._loaded += 1
        following = self._fetched[index + 1] if index + 1 < len(self._blocks) else ()
        self._weights.load(self._fetched[index], block, following)

    def leave(self) -> None:
        """After all is done, or given up: give back what is loaded."""
        self._unload(self._loaded)
        self._loaded = self._done = 0

    def _unload(self, end: int) -> None:
        for index in range(self._done, end):
            self._weights.unload(self._touched[index], self._blocks[index])
        self._done = end
