"""Execution order: calls change places where that lowers the most bytes that are alive at once.

A search from the order that lowering gave: at the step that holds the most bytes, whatever lies idle there is either
used up before it (its readers move ahead) or made after it (its writers move behind). Moves that help are kept, so the
result is never worse than what was given, and the same program always gives the same order. Calls that write parts of
one tensor keep their order, and so do sums over ranks, which all ranks come to one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from ondevice.graph.ranks import SUM
from ondevice.lower.program import Program
from ondevice.plan.inplace import Pair, pairs

ROUNDS = 64  # moves at most; Stable Diffusion's components take under ten


def ordered(program: Program) -> Program:
    """The same calls in an order whose peak of live bytes is at most that of the given one."""
    search = _Search(program)
    order = search.run()
    return replace(program, calls=[program.calls[i] for i in order])


def dependencies(program: Program) -> list[set[int]]:
    """For each call those that must come before it:
    writers of what it reads, and readers and writers of what it writes; of a sum over ranks, the sum before it."""
    before: list[set[int]] = []
    writer: dict[str, int] = {}
    readers: dict[str, list[int]] = {}
    sums: list[int] = []
    for number, call in enumerate(program.calls):
        needs = {writer[name] for name in (*call.inputs, *call.outputs) if name in writer}
        if call.op == SUM:
            needs.update(sums[-1:])
            sums.append(number)
        for name in call.outputs:
            needs.update(readers.pop(name, ()))
        for name in call.inputs:
            readers.setdefault(name, []).append(number)
        writer.update(dict.fromkeys(call.outputs, number))
        before.append(needs - {number})
    return before


def peak(program: Program) -> int:
    """The most bytes of the arena that are alive at one call, with what can be done in place done in place."""
    search = _Search(program)
    return int(search.alive(np.arange(len(program.calls))).max(initial=0))


class _Search:
    def __init__(self, program: Program) -> None:
        self.before = dependencies(program)
        self.after: list[set[int]] = [set() for _ in self.before]
        for number, needs in enumerate(self.before):
            for other in needs:
                self.after[other].add(number)
        self.uses: dict[str, list[int]] = {name: [] for name in program.inputs}
        self.writers: dict[str, set[int]] = {}
        for number, call in enumerate(program.calls):
            for name in dict.fromkeys((*call.inputs, *call.outputs)):
                if name not in program.weights:
                    self.uses.setdefault(name, []).append(number)
            for name in call.outputs:
                self.writers.setdefault(name, set()).add(number)
        self.names = [name for name, uses in self.uses.items() if uses]
        index = {name: number for number, name in enumerate(self.names)}
        self.sizes = np.array([program.tensors[name].nbytes for name in self.names], np.float64)
        flat = [call for name in self.names for call in self.uses[name]]
        self.flat = np.array(flat, np.int64)
        self.starts = np.cumsum([0, *(len(self.uses[name]) for name in self.names)])[:-1]
        self.inputs = [index[name] for name in program.inputs if name in index]
        self.outputs = [index[name] for name in program.outputs if name in index]
        self.pairs = [_Merge(pair, index, self.uses, self.writers) for pair in pairs(program)]

    def lives(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last step of every tensor; one that is overwritten in place ends where its successor begins."""
        at = place[self.flat]
        first, last = np.minimum.reduceat(at, self.starts), np.maximum.reduceat(at, self.starts)
        first[self.inputs] = 0
        last[self.outputs] = len(place)
        for pair in self.pairs:
            if pair.holds(place, first):
                last[pair.source] = first[pair.target] - 1
        return first, last

    def alive(self, place: np.ndarray) -> np.ndarray:
        """Bytes alive at each step, when call i is done at step place[i]."""
        if not self.names:
            return np.zeros(0)
        first, last = self.lives(place)
        steps = len(place) + 2
        return np.cumsum(np.bincount(first, self.sizes, steps) - np.bincount(last + 1, self.sizes, steps))[:-1]

    def run(self) -> list[int]:
        order = list(range(len(self.before)))
        cost = self.cost(order)
        for _ in range(ROUNDS):
            moved = min(
                ((self.cost(other), other) for other in self.moves(order)),
                key=lambda found: found[0],
                default=(cost, order),
            )
            if moved[0] >= cost:
                break
            cost, order = moved
        return order

    def cost(self, order: list[int]) -> tuple[float, int]:
        """The peak, and at how many steps it is reached."""
        alive = self.alive(_places(order))
        top = float(alive.max(initial=0.0))
        return top, int(np.count_nonzero(alive == top))

    def moves(self, order: list[int]) -> Iterator[list[int]]:
        """Orders in which one of the tensors that lie idle at the peak does not."""
        if not self.names:
            return
        place = _places(order)
        first, last = self.lives(place)
        top = int(self.alive(place).argmax())
        if top >= len(order):
            return
        for tensor in np.flatnonzero((first < top) & (last > top)).tolist():
            uses = self.uses[self.names[tensor]]
            if order[top] in uses:
                continue
            yield from self._ahead(order, place, top, [i for i in uses if place[i] > top], uses)
            if not any(place[i] < top and i not in self.writers.get(self.names[tensor], ()) for i in uses):
                yield from self._behind(order, place, top, [i for i in uses if place[i] < top])

    def _ahead(
        self, order: list[int], place: np.ndarray, top: int, calls: list[int], uses: list[int]
    ) -> Iterator[list[int]]:
        """`calls`, with all that they need and is not done by then, before the peak."""
        group = self._closure(calls, self.before, lambda i: place[i] >= top)
        if order[top] in group or not group:
            return
        earliest = max(
            (int(place[i]) + 1 for member in group for i in self.before[member] if i not in group), default=0
        )
        for at in sorted({earliest, top, *(int(place[i]) for i in uses if earliest < place[i] < top)}):
            head = order[:at]
            yield [*head, *(i for i in order if i in group), *(i for i in order[at:] if i not in group)]

    def _behind(self, order: list[int], place: np.ndarray, top: int, calls: list[int]) -> Iterator[list[int]]:
        """`calls`, with all that follows from them up to then, after the peak."""
        group = self._closure(calls, self.after, lambda i: place[i] <= top)
        if order[top] in group or not group:
            return
        latest = min(
            (int(place[i]) for member in group for i in self.after[member] if i not in group), default=len(order)
        )
        for at in sorted({top + 1, latest}):
            yield [*(i for i in order[:at] if i not in group), *(i for i in order if i in group), *order[at:]]

    @staticmethod
    def _closure(calls: Iterable[int], follow: list[set[int]], wanted: object) -> set[int]:
        group: set[int] = set()
        stack = list(calls)
        while stack:
            call = stack.pop()
            if call not in group and wanted(call):  # type: ignore[operator]
                group.add(call)
                stack.extend(follow[call])
        return group


class _Merge:
    """A pair of tensors by number: when the one may be overwritten by the other."""

    def __init__(
        self, pair: Pair, index: dict[str, int], uses: dict[str, list[int]], writers: dict[str, set[int]]
    ) -> None:
        self.source, self.target = index[pair.source], index[pair.target]
        self.others = [call for call in uses[pair.source] if call not in writers[pair.target]]

    def holds(self, place: np.ndarray, first: np.ndarray) -> bool:
        """Nobody else uses the source once the target is begun."""
        return all(place[call] < first[self.target] for call in self.others)


def _places(order: list[int]) -> np.ndarray:
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place
