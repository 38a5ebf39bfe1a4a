"""How a stored weight comes from weights of a checkpoint: an expression of a few ops, its shapes, its values, and back.

docs/adapters.md says what each op does. `pack.py` and `winograd.py` make the values of a bundle by the functions here;
a weight that an adapter changes gets new ones by the same (bundle/changed.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ondevice.graph.ranks import SHARE, share_of
from ondevice.lower.quantize import GROUP, SCHEMES, Scheme

Shape = tuple[int, ...]
CHUNK = 1 << 17  # pairs of channels that are transformed at once
_P, _Q = 0.5**0.5, 2**0.5
# Weights to the space of the points 0, +-1/sqrt 2, +-sqrt 2, infinity: G w G^T. The kernels' transforms are of
# the same points.
G = np.array(
    [
        [1, 0, 0],
        [-2 / 3, -2 / 3 * _P, -1 / 3],
        [-2 / 3, 2 / 3 * _P, -1 / 3],
        [1 / 6, _Q / 6, 1 / 3],
        [1 / 6, -_Q / 6, 1 / 3],
        [0, 0, 1],
    ]
)
NUMBERS: dict[str, Scheme] = {scheme.name: scheme for scheme in SCHEMES.values()}
SCALES: dict[str, Scheme] = {f"{scheme.name}_scales": scheme for scheme in SCHEMES.values()}


@dataclass(frozen=True, slots=True)
class Leaf:
    """A weight of the checkpoint, as float32: `unet/....to_q.weight`."""

    weight: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Step:
    """What an op makes of others, of the shape that `shape_of_step` gives. `told`: its settings, by name."""

    op: str
    of: tuple[Expression, ...]
    told: tuple[tuple[str, Any], ...]
    shape: Shape


Expression = Leaf | Step


def step(op: str, of: Sequence[Expression], **told: Any) -> Step:
    """An op of other expressions. Raises ValueError, which says why, where it cannot be had."""
    shape = shape_of_step(op, [part.shape for part in of], told)
    return Step(op, tuple(of), tuple(sorted(told.items())), shape)


def leaves_of(made: Expression) -> Iterator[Leaf]:
    """Every leaf, as often as it is there."""
    if isinstance(made, Leaf):
        yield made
    else:
        for part in made.of:
            yield from leaves_of(part)


def ops_of(made: Expression, until: Step | None = None) -> Iterator[str]:
    """The ops of an expression, or those down to a step."""
    if isinstance(made, Step) and made is not until:
        yield made.op
        for part in made.of:
            yield from ops_of(part, until)


def values_of(made: Expression, leaf: Callable[[Leaf], np.ndarray]) -> np.ndarray:
    """The values of an expression, float32 or what its numbers are in; `leaf` gives float32 of a leaf's shape."""
    return leaf(made) if isinstance(made, Leaf) else step_values(made, [values_of(part, leaf) for part in made.of])


def step_values(made: Step, of: Sequence[np.ndarray]) -> np.ndarray:
    """What a step makes of these arrays."""
    return (
        concatenated(*of, **dict(made.told)) if made.op == "concat" else OPS[made.op].values(of[0], **dict(made.told))
    )


def number_step(made: Expression) -> Step | None:
    """The step that makes numbers in few bits, or their scales; None where values are stored as they are. What it is
    made of, sums go through; what is done after it can be undone."""
    while isinstance(made, Step):
        if made.op in NUMBERS or made.op in SCALES:
            return made
        if made.op == "concat" or OPS[made.op].back is None:
            return None
        made = made.of[0]
    return None


def undone(made: Expression, stored: np.ndarray) -> np.ndarray:
    """The numbers, or scales, that `number_step` gave, out of those that are stored."""
    if not isinstance(made, Step) or made.op in NUMBERS or made.op in SCALES:
        return stored
    back = OPS[made.op].back
    assert back is not None, "a reader refuses other steps there"
    return undone(made.of[0], back(stored, made.of[0].shape, **dict(made.told)))


def redone(made: Expression, total: np.ndarray) -> np.ndarray:
    """What is stored of an expression with numbers in few bits, or scales, once these are made of `total`."""
    assert isinstance(made, Step)
    whole = made.op in NUMBERS or made.op in SCALES
    return step_values(made, [total if whole else redone(made.of[0], total)])


# Shapes ---------------------------------------------------------------------------------------------------------------


def shape_of_step(op: str, of: Sequence[Shape], told: Mapping[str, Any]) -> Shape:
    """The shape of what an op makes of others of these. Raises ValueError, which says what does not fit."""
    if op == "concat":
        return _concatenated(of, **told)
    if op not in OPS:
        raise ValueError(f"{op} is no op")
    if len(of) != 1:
        raise ValueError(f"{op} is of one (got {len(of)})")
    return OPS[op].shape(of[0], **told)


def _fits(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(what)


def _concatenated(of: Sequence[Shape], axis: int) -> Shape:
    first, ranks = of[0], {len(shape) for shape in of}
    _fits(len(ranks) == 1 and 0 <= axis < len(first), f"axis {axis} of {[list(shape) for shape in of[:3]]}")
    rest = {shape[:axis] + shape[axis + 1 :] for shape in of}
    _fits(len(rest) == 1, f"{[list(shape) for shape in of[:3]]} do not fit each other along axis {axis}")
    return *first[:axis], sum(shape[axis] for shape in of), *first[axis + 1 :]


def _transposed(shape: Shape, perm: Sequence[int]) -> Shape:
    _fits(sorted(perm) == list(range(len(shape))), f"{list(perm)} is no order of the axes of {list(shape)}")
    return tuple(shape[axis] for axis in perm)


def _reshaped(given: Shape, shape: Sequence[int]) -> Shape:
    _fits(math.prod(given) == math.prod(shape), f"{list(given)} cannot become {list(shape)}")
    return tuple(shape)


def _scaled(shape: Shape, by: float) -> Shape:
    return shape


def _padded(shape: Shape, columns: int) -> Shape:
    _fits(bool(shape) and shape[-1] <= columns, f"{list(shape)} has more columns than {columns}")
    return *shape[:-1], columns


def _panels(shape: Shape, width: int, halves: int, fill: int = 0) -> Shape:
    _fits(len(shape) >= 2 and width % halves == 0 and shape[-1] % halves == 0, f"{list(shape)} in panels of {width}")
    *batch, k, n = shape
    return *batch, -(-(n // halves) // (width // halves)), k, width


def _pairs(shape: Shape) -> Shape:
    _fits(bool(shape) and shape[-1] % 2 == 0, f"{list(shape)} has no pairs")
    return *shape[:-1], shape[-1] // 2


def _winograd(shape: Shape) -> Shape:
    _fits(len(shape) == 4 and shape[:2] == (3, 3), f"{list(shape)} are not the taps of 3x3 kernels")
    return 36, *shape[2:]


def _shared(shape: Shape, axis: int, parts: int, number: int, ranks: int) -> Shape:
    fits = axis < len(shape) and number < ranks and shape[axis] % (parts * ranks) == 0
    _fits(fits, f"{list(shape)} has no share {number} of {ranks} of {parts} parts along axis {axis}")
    return *shape[:axis], shape[axis] // ranks, *shape[axis + 1 :]


def _numbers(shape: Shape) -> Shape:
    _fits(len(shape) == 2, f"{list(shape)} is no matrix")
    return shape


# Values ---------------------------------------------------------------------------------------------------------------


def concatenated(*of: np.ndarray, axis: int) -> np.ndarray:
    """Side by side along an axis."""
    return np.concatenate(of, axis)


def padded(values: np.ndarray, columns: int) -> np.ndarray:
    """With zeros at the end of the last axis."""
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, columns - values.shape[-1])])


def panels(values: np.ndarray, width: int, halves: int, fill: int = 0) -> np.ndarray:
    """[..., k, n] as [..., panels, k, width]: columns in panels, filled up with `fill`. With two `halves`, a panel has
    as many columns of the one as of the other."""
    *batch, count, k, _ = _panels(values.shape, width, halves)
    n, own = values.shape[-1] // halves, width // halves
    parts = values.reshape(-1, k, halves, n)
    if more := count * own - n:
        parts = np.pad(parts, [(0, 0), (0, 0), (0, 0), (0, more)], constant_values=fill)
    parts = parts.reshape(-1, k, halves, count, own)
    return parts.transpose(0, 3, 1, 2, 4).reshape(*batch, count, k, width)


def _out_of_panels(stored: np.ndarray, shape: Shape, width: int, halves: int, fill: int = 0) -> np.ndarray:
    *_, count, k, _ = stored.shape
    parts = stored.reshape(-1, count, k, halves, width // halves).transpose(0, 2, 3, 1, 4)
    return parts.reshape(-1, k, halves, count * width // halves)[..., : shape[-1] // halves].reshape(shape)


def pairs(numbers: np.ndarray) -> np.ndarray:
    """Numbers of 0..15, uint8 [..., 2 n], as [..., n]: of two neighbours the first one in a byte's low bits."""
    return numbers[..., ::2] | numbers[..., 1::2] << 4


def _out_of_pairs(stored: np.ndarray, shape: Shape) -> np.ndarray:
    return np.stack([stored & 15, stored >> 4], axis=-1).reshape(shape)


def winograd(taps: np.ndarray) -> np.ndarray:
    """[3, 3, ic, oc] -> float32 [36, ic, oc], G w G^T in float64."""
    given, both = taps.reshape(9, -1), np.kron(G, G)
    transformed = np.empty((36, given.shape[1]), np.float32)
    # a part at a time: the whole of a large weight would take a gigabyte
    for start in range(0, given.shape[1], CHUNK):
        transformed[:, start : start + CHUNK] = both @ given[:, start : start + CHUNK].astype(np.float64)
    return transformed.reshape(36, *taps.shape[2:])


@dataclass(frozen=True, slots=True)
class Op:
    """What an op of one makes: its shape, its values; and what it was made of, where that can be had back from these
    and the shape."""

    shape: Callable[..., Shape]
    values: Callable[..., np.ndarray]
    back: Callable[..., np.ndarray] | None = None


def _numbers_op(scheme: Scheme) -> Op:
    return Op(_numbers, lambda values: scheme.values(values.astype(np.float32, copy=False)))


def _scales_op(scheme: Scheme) -> Op:
    def shape(given: Shape) -> Shape:
        k, n = _numbers(given)
        return scheme.groups(k), n

    return Op(shape, lambda values: scheme.scales(values.astype(np.float32, copy=False)))


OPS: Mapping[str, Op] = {
    "transpose": Op(_transposed, lambda values, perm: values.transpose(perm)),
    "reshape": Op(_reshaped, lambda values, shape: values.reshape(shape)),
    "scale": Op(_scaled, lambda values, by: values * np.float32(by)),
    "winograd": Op(_winograd, winograd),
    SHARE: Op(_shared, share_of),
    "pad": Op(_padded, padded, lambda stored, shape, columns: stored[..., : shape[-1]]),
    "panels": Op(_panels, panels, _out_of_panels),
    "pairs": Op(_pairs, pairs, _out_of_pairs),
    **{name: _numbers_op(scheme) for name, scheme in NUMBERS.items()},
    **{name: _scales_op(scheme) for name, scheme in SCALES.items()},
}


def from_few_bits(scheme: Scheme, numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float32 [k, n] that numbers [k, n] and scales [groups, n] stand for."""
    k = len(numbers)
    rows = np.repeat(scales.astype(np.float32), GROUP if len(scales) > 1 else k, axis=0)[:k]
    return (numbers.astype(np.float32) - np.float32(scheme.zero)) * rows
