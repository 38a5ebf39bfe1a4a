"""Weights of a bundle with adapters in them, as they are stored: docs/adapters.md, section "What a switch does"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ondevice.bundle.adapters_file import AdapterEntry, TermEntry, matrix_of
from ondevice.bundle.reader import Bundle
from ondevice.bundle.weights import STORED
from ondevice.errors import NumericError
from ondevice.graph.adapted import Change, Shape
from ondevice.lower.stored import (
    NUMBERS,
    Expression,
    Leaf,
    Step,
    from_few_bits,
    leaves_of,
    number_step,
    redone,
    undone,
    values_of,
)

CHUNK = 1 << 16  # elements of a change that are summed in float64 at once: they stay in a cache
Terms = Mapping[str, Sequence[tuple[float, Change]]]


def changes_of(bundle: Bundle, entry: AdapterEntry) -> dict[str, tuple[Change, ...]]:
    """What an adapter of a bundle adds, by weight of the checkpoint; its factors are read when they are asked for."""

    def change(term: TermEntry) -> Change:
        weights = [bundle.manifest.weights[key] for key in term.keys]
        shapes, keys = tuple(weight.shape for weight in weights), term.keys
        return Change(term.scale, shapes, weights[0].dtype, lambda: tuple(bundle.array(key) for key in keys))

    return {leaf: tuple(map(change, terms)) for leaf, terms in entry.changes.items()}


def change_of(shape: Shape, terms: Sequence[tuple[float, Change]]) -> np.ndarray:
    """What is added to a weight of the checkpoint: float32 of its shape, summed in float64 in the order of the terms,
    each times its own scale and the given one, and rounded once."""
    rows, columns = matrix_of(shape)
    read = [(scale * term.scale, [array.astype(np.float64) for array in term.read()]) for scale, term in terms]
    total, height = np.empty((rows, columns), np.float32), max(1, CHUNK // columns)
    for first in range(0, rows, height):
        part = slice(first, first + height)
        summed = np.zeros((len(total[part]), columns), np.float64)
        for scale, (left, *right) in read:
            summed += scale * (left[part] @ right[0] if right else left.reshape(rows, columns)[part])
        with np.errstate(over="ignore"):  # what is not finite is refused once it is in the weight
            total[part] = summed
    return total.reshape(shape)


class ChangedWeights:
    """New values of the stored weights that terms change, as `ondevice.run.session.Session` takes them.

    Args:
        terms: by weight of the checkpoint; each with the scale that it has for now.
    """

    def __init__(self, bundle: Bundle, terms: Terms) -> None:
        self._bundle, self._terms = bundle, terms
        made = {key: entry.made for key, entry in bundle.manifest.weights.items() if entry.made is not None}
        self._made = {key: one for key, one in made.items() if any(leaf.weight in terms for leaf in leaves_of(one))}
        # the numbers in few bits of what is summed, and their scales
        self._halves: dict[tuple[str, Expression], str] = {}
        for key, one in self._made.items():
            if (numbers := number_step(one)) is not None:
                self._halves.setdefault((numbers.op, numbers.of[0]), key)
        # of a weight in few bits whose other half, the scales, comes next
        self._summed: tuple[tuple[str, Expression], np.ndarray] | None = None

    def __eq__(self, other: object) -> bool:
        """Whether it changes the same weights by the same terms."""
        return isinstance(other, ChangedWeights) and self._bundle is other._bundle and self._terms == other._terms

    __hash__ = None  # type: ignore[assignment]

    @property
    def keys(self) -> frozenset[str]:
        """The weights that have new values."""
        return frozenset(self._made)

    def values(self, key: str) -> np.ndarray:
        """A weight's new values, in the dtype and the shape in which it is stored.

        Raises:
            NumericError: they are not finite, or too large for that.
            BundleError: the bundle's file was cut or changed.
        """
        made, entry = self._made[key], self._bundle.manifest.weights[key]
        numbers = number_step(made)
        if numbers is None:
            total = self._bundle.array(key).astype(np.float32)
            total += values_of(made, self._change)
        else:
            total = redone(made, self._sum(numbers))
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.ascontiguousarray(total, STORED[entry.dtype])
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            what = f"with its adapters it holds NaN, infinity, or what is too large for {entry.dtype}."
            raise NumericError(what, where=key, fix="use another adapter, or a smaller scale")
        return values

    def _sum(self, numbers: Step) -> np.ndarray:
        """float32 [k, n]: what is stored in few bits, and what is added to that."""
        scheme, of = NUMBERS[numbers.op.removesuffix("_scales")], numbers.of[0]
        kept, self._summed = self._summed, None
        if kept is not None and kept[0] == (scheme.name, of):
            return kept[1]
        keys = [self._halves[op, of] for op in (scheme.name, f"{scheme.name}_scales")]
        stored = [undone(self._made[key], self._bundle.array(key)) for key in keys]
        total = from_few_bits(scheme, *stored)
        total += values_of(of, self._change)
        self._summed = (scheme.name, of), total
        return total

    def _change(self, leaf: Leaf) -> np.ndarray:
        terms = self._terms.get(leaf.weight)
        return change_of(leaf.shape, terms) if terms else np.zeros(leaf.shape, np.float32)
