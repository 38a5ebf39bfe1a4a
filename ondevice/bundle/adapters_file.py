"""Adapters that a bundle carries, as `bundle.json` says them. The specification is docs/adapters.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from ondevice.bundle import format as f
from ondevice.bundle.made_file import FLOATS, At, number
from ondevice.bundle.weight_entry import WeightEntry
from ondevice.graph.adapted import Shape
from ondevice.lower.stored import leaves_of

MAX_ADAPTERS, MAX_NAME, MAX_TERMS = 256, 64, 16
PRODUCT, WHOLE = ("up", "down"), ("full",)


@dataclass(frozen=True, slots=True)
class TermEntry:
    """`scale` times the product of two weights of the bundle, up and down, or times one; by their keys."""

    keys: tuple[str, ...]
    scale: float


@dataclass(frozen=True, slots=True)
class AdapterEntry:
    """What an adapter adds to weights of the checkpoint, and how much of it where nobody says."""

    scale: float
    changes: Mapping[str, tuple[TermEntry, ...]]


def parse_adapters(check: f.Checker, value: Any, weights: Mapping[str, WeightEntry]) -> dict[str, AdapterEntry]:
    """The adapters by name. Raises BundleError for one that does not fit the weights.

    Args:
        weights: all of the bundle, whose `made` says which weights of the checkpoint there are.
    """
    shapes = {leaf.weight: leaf.shape for entry in weights.values() if entry.made for leaf in leaves_of(entry.made)}
    found = {}
    for name, row in check.table(value, MAX_ADAPTERS, "adapters").items():
        check.name(name, "adapters")
        if len(name) > MAX_NAME:
            check.fail(f"is {f.shown(name)} (expected at most {MAX_NAME} letters)", "adapters")
        at: At = ("adapters", (name,))
        scale, changes = check.record(row, ("scale", "changes"), *at)
        number(check, scale, (*at, "scale"))
        terms = {}
        for leaf, listed in check.table(changes, f.MAX_WEIGHTS, *at, "changes").items():
            place: At = (*at, "changes", (leaf,))
            if leaf not in shapes:
                check.fail("is of no weight that the plans read", *place)
            rows = check.array(listed, (1, MAX_TERMS), *place)
            terms[leaf] = tuple(_term(check, one, shapes[leaf], weights, (*place, i)) for i, one in enumerate(rows))
        found[name] = AdapterEntry(scale, terms)
    check.distinct(tuple(found), "adapters")
    return found


def _term(check: f.Checker, row: Any, shape: Shape, weights: Mapping[str, WeightEntry], at: At) -> TermEntry:
    words = WHOLE if type(row) is dict and "full" in row else PRODUCT
    *keys, scale = check.record(row, (*words, "scale"), *at)
    shapes = []
    for word, key in zip(words, keys, strict=True):
        entry = weights[check.one_of(key, weights, *at, word)]
        if entry.dtype not in FLOATS or entry.made is not None:
            check.fail(f"is {f.shown(key)} (expected a weight of f16 or f32 that no plan needs)", *at, word)
        shapes.append(entry.shape)
    if words is WHOLE:
        fits = shapes[0] == shape
    else:
        up, down = shapes
        fits = len(up) == len(down) == 2 and up[1] == down[0] and (up[0], down[1]) == matrix_of(shape)
    if not fits:
        got = " and ".join(str(list(one)) for one in shapes)
        check.fail(f"does not fit the weight (got {got}, expected a change of {list(shape)})", *at)
    return TermEntry(tuple(keys), number(check, scale, (*at, "scale")))


def matrix_of(shape: Shape) -> tuple[int, int]:
    """A weight's rows and columns where it is a matrix: its first axis, and all others as one."""
    return (shape[0], prod(shape[1:])) if shape else (1, 1)
