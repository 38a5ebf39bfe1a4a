"""Tables of few values that stand for a weight's: k-means in one dimension, over how often each float16 occurs.

There are at most 65,536 of these, so that a weight of any size is read once to count and once to look up, and no
start is drawn by chance: the same weight gives the same table.
"""

from __future__ import annotations

import numpy as np

from ondevice.errors import GraphError
from ondevice.export.narrow import BROKEN, half

CODES = 1 << 16  # of float16
AT_ONCE = 1 << 22  # elements that are counted at a time, as int64
ROUNDS, SWAPS = 500, 1000  # a weight's table is at rest after some tens


def palettized(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(which, table): uint8 indices of the same shape, and float32 [2 ** bits], ascending.

    Raises:
        GraphError: a value is not finite, or float16 cannot hold it.
    """
    codes = half(values, "").view(np.uint16)
    counts, flat = np.zeros(CODES, np.int64), codes.reshape(-1)
    for start in range(0, flat.size, AT_ONCE):
        counts += np.bincount(flat[start : start + AT_ONCE], minlength=CODES)
    present = np.nonzero(counts)[0]
    numbers = present.astype(np.uint16).view(np.float16).astype(np.float64)
    if not np.isfinite(numbers).all():
        raise GraphError("holds an infinity.", fix=BROKEN)
    order = np.argsort(numbers, kind="stable")
    table = k_means(numbers[order], counts[present[order]], 1 << bits)
    nearest = np.zeros(CODES, np.uint8)
    nearest[present] = np.searchsorted(_middles(table), numbers)
    return nearest[codes], table.astype(np.float32)


def k_means(numbers: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    """[size], ascending: the means of as many groups of `numbers`, which ascend and occur `counts` times, so that the
    sum of squared distances is small.

    It starts where many values of a smooth density have their best places (Panter and Dite: as dense as the density's
    cube root). Lloyd's iteration goes on from there to its end, and again after each group that is worth two, while
    two neighbours are worth one.
    """
    if len(numbers) <= size:
        return np.concatenate([numbers, np.repeat(numbers[-1:], size - len(numbers))])
    mass = np.cumsum(np.cbrt(counts * np.gradient(numbers) ** 2))
    starts = np.searchsorted(mass, mass[-1] * np.arange(size) / size)
    groups = _Groups(numbers, counts)
    ends = groups.at_rest(np.append(np.unique(starts), len(numbers)))
    for _ in range(SWAPS):
        if (better := groups.swapped(ends, size)) is None:
            break
        ends = groups.at_rest(better)
    return groups.means(ends)


class _Groups:
    """Groups of numbers that ascend: those between one of `ends` [groups + 1] and the next."""

    def __init__(self, numbers: np.ndarray, counts: np.ndarray) -> None:
        self._numbers = numbers
        self._many, self._sum = (np.concatenate([[0], np.cumsum(x)]) for x in (counts, counts * numbers))

    def means(self, ends: np.ndarray) -> np.ndarray:
        return np.diff(self._sum[ends]) / np.diff(self._many[ends])

    def at_rest(self, ends: np.ndarray) -> np.ndarray:
        """Once each number is in the group whose mean is nearest, and no cut between two neighbours could be better
        placed, which is more where groups are small. A group without numbers is gone."""
        for _ in range(ROUNDS):
            cuts = np.searchsorted(self._numbers, _middles(self.means(ends)))
            found = np.unique(np.concatenate([ends[:1], cuts, ends[-1:]]))
            if np.array_equal(found, ends):
                break
            ends = found
        for _ in range(ROUNDS):
            found = self._recut(self._recut(ends, 0), 1)
            if np.array_equal(found, ends):
                break
            ends = found
        return ends

    def _recut(self, ends: np.ndarray, first: int) -> np.ndarray:
        """With the best cuts inside pairs of neighbours; `first`: the number of the first pair's first group."""
        starts = ends[first:-2:2]
        stops = ends[first + 2 :: 2]
        if not len(starts):
            return ends
        cuts = np.delete(np.arange(starts[0] + 1, stops[-1]), starts[1:] - starts[0] - 1)
        pair = np.searchsorted(starts, cuts, side="right") - 1
        gains = self._apart(starts[pair], cuts, stops[pair])
        most = np.maximum.reduceat(gains, np.searchsorted(pair, np.arange(len(starts))))
        best = np.nonzero(gains == most[pair])[0]
        found = ends.copy()
        found[first + 1 : -1 : 2] = cuts[best[np.unique(pair[best], return_index=True)[1]]]
        return found

    def swapped(self, ends: np.ndarray, size: int) -> np.ndarray | None:
        """With the group in two that gains most by it, and the neighbours in one that lose least, where there are
        `size` groups already; None where that gains nothing."""
        cuts = np.delete(np.arange(ends[0] + 1, ends[-1]), ends[1:-1] - ends[0] - 1)
        group = np.searchsorted(ends, cuts, side="right") - 1
        gains = self._apart(ends[group], cuts, ends[group + 1])
        best = int(gains.argmax())
        kept = ends
        if len(ends) > size:
            losses = self._apart(ends[:-2], ends[1:-1], ends[2:])
            losses[max(0, group[best] - 1) : group[best] + 1] = np.inf  # of the group that is cut
            least = int(losses.argmin())
            if not gains[best] > losses[least] * (1 + 1e-9):
                return None
            kept = np.delete(ends, least + 1)
        return np.sort(np.append(kept, cuts[best]))

    def _apart(self, start: np.ndarray, cut: np.ndarray, end: np.ndarray) -> np.ndarray:
        """How much less the squared distances are with the numbers from start to end in two groups."""
        left, right = self._many[cut] - self._many[start], self._many[end] - self._many[cut]
        means = (self._sum[cut] - self._sum[start]) / left, (self._sum[end] - self._sum[cut]) / right
        return left * right / (left + right) * (means[0] - means[1]) ** 2


def _middles(table: np.ndarray) -> np.ndarray:
    return (table[1:] + table[:-1]) / 2
