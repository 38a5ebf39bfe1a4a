"""What an adapter does to one weight: the tensors that a file has for a module, and the change that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.builder import Shape
from ondevice.converters.component import FLOATS, shape_of
from ondevice.errors import CheckpointError
from ondevice.graph.adapted import Change

LORA = frozenset({"down", "up"})
CP = LORA | {"mid"}  # a convolution whose kernel has factors of its own
LOHA = frozenset({"w1_a", "w1_b", "w2_a", "w2_b"})
LOHA_CP = LOHA | {"t1", "t2"}
DIFF = frozenset({"diff"})
_OTHER = "use an adapter that was trained for this model"


@dataclass(frozen=True, slots=True)
class Term:
    """One change of a weight. `slots`: its tensors by what they are; `factor`: what it is multiplied by."""

    where: str
    module: str
    slots: Mapping[str, ir.TensorProtocol]
    factor: float

    def values(self, shape: Shape) -> np.ndarray:
        """float32, of a weight's shape. Raises CheckpointError where a tensor cannot be read, or is not finite."""
        read = {slot: np.asarray(tensor.numpy(), np.float32) for slot, tensor in self.slots.items()}
        with np.errstate(all="ignore"):  # what is not finite is refused below
            change = np.float32(self.factor) * _product(read).reshape(shape)
        if not np.isfinite(change).all():
            raise CheckpointError(f"{self.module} holds NaN or infinity.", where=self.where, fix="use another adapter")
        return change

    def change(self, shape: Shape) -> Change:
        """The same as factors, where it has some that take less room than the whole: (up, down), else (whole,)."""
        kind, sizes = frozenset(self.slots), {slot: shape_of(tensor) for slot, tensor in self.slots.items()}
        halves = kind in (LORA, DIFF) and all(one.dtype == ir.DataType.FLOAT16 for one in self.slots.values())
        columns = int(np.prod(shape[1:], dtype=np.int64))
        if kind in (LORA, CP):
            rank = sizes["up"][1]
        elif kind == LOHA and sizes["w1_a"][1] ** 2 * (shape[0] + columns) <= shape[0] * columns:
            rank = sizes["w1_a"][1] ** 2
        else:
            return Change(self.factor, (shape,), "f16" if halves else "f32", lambda: self._read(shape))
        shapes = (shape[0], rank), (rank, columns)
        return Change(self.factor, shapes, "f16" if halves else "f32", lambda: self._read(*shapes))

    def _read(self, *shapes: Shape) -> tuple[np.ndarray, ...]:
        """Factors of two shapes, or the whole of one. Raises CheckpointError as `values`."""
        read = {slot: tensor.numpy() for slot, tensor in self.slots.items()}
        if any(array.dtype != np.float16 for array in read.values()):
            read = {slot: np.asarray(array, np.float32) for slot, array in read.items()}
        with np.errstate(all="ignore"):  # what is not finite is refused below
            found = _factors(read) if len(shapes) == 2 else (_product(read),)
        if not all(np.isfinite(array).all() for array in found):
            raise CheckpointError(f"{self.module} holds NaN or infinity.", where=self.where, fix="use another adapter")
        return tuple(array.reshape(shape) for array, shape in zip(found, shapes, strict=True))


def _factors(read: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What a LoRA, or a LoHa as one of all products of ranks, is the product of."""
    kind = read.keys()
    if kind == LORA:
        return _flat(read["up"]), _flat(read["down"])
    if kind == CP:
        return _flat(read["up"]), np.einsum("mnwh,nj->mjwh", read["mid"], _flat(read["down"]), dtype=np.float32)
    a, b, c, d = (read[slot].astype(np.float32) for slot in ("w1_a", "w1_b", "w2_a", "w2_b"))
    up, down = a[:, :, None] * c[:, None, :], b[:, None, :] * d[None, :, :]
    return _flat(up), down.reshape(-1, down.shape[-1])


def _product(read: Mapping[str, np.ndarray]) -> np.ndarray:
    """The change by a kind's formula."""
    kind = read.keys()
    if kind == LORA:
        return _flat(read["up"]) @ _flat(read["down"])
    if kind == CP:
        return np.einsum("mnwh,im,nj->ijwh", read["mid"], _flat(read["up"]), _flat(read["down"]), optimize=True)
    if kind == LOHA:
        return (read["w1_a"] @ read["w1_b"]) * (read["w2_a"] @ read["w2_b"])
    if kind == LOHA_CP:
        first, second = (
            np.einsum("ijkl,jr,ip->prkl", read[f"t{n}"], read[f"w{n}_b"], read[f"w{n}_a"], optimize=True)
            for n in (1, 2)
        )
        return first * second
    return read["diff"]


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


def term_of(where: str, module: str, slots: Mapping[str, ir.TensorProtocol], alpha: float | None, shape: Shape) -> Term:
    """The change that a module's tensors make of a weight of this shape.

    Args:
        alpha: the file's, or None: the rank (peft and diffusers divide nothing).

    Raises:
        CheckpointError: tensors are missing, or do not fit each other or the weight.
    """
    kind = frozenset(slots)
    if kind not in (LORA, CP, LOHA, LOHA_CP, DIFF):
        raise CheckpointError(
            f"{module} has {', '.join(sorted(kind))} (expected down and up).", where=where, fix="download it again"
        )
    shapes = {slot: shape_of(tensor) for slot, tensor in slots.items()}
    rank, made = _rank_and_shape(shapes, kind)
    if any(tensor.dtype not in FLOATS for tensor in slots.values()) or rank < 1 or not _fits(made, shape):
        got = ", ".join(f"{slot} {list(shapes[slot])}" for slot in sorted(shapes))
        what = f"{module} does not fit the weight (got {got}, expected a change of {list(shape)})."
        raise CheckpointError(what, where=where, fix=_OTHER)
    return Term(where, module, slots, 1.0 if kind == DIFF or alpha is None else alpha / rank)


def _rank_and_shape(shapes: Mapping[str, Shape], kind: frozenset[str]) -> tuple[int, Shape]:
    """The rank, and the shape of the change; (0, ()) where factors do not fit each other."""
    if kind == DIFF:
        return 1, shapes["diff"]
    if kind in (LORA, CP):
        up, down = shapes["up"], shapes["down"]
        if len(up) < 2 or len(down) < 2 or any(size != 1 for size in up[2:]):
            return 0, ()
        if kind == LORA:
            return (down[0], (up[0], *down[1:])) if up[1] == down[0] else (0, ())
        mid = shapes["mid"]
        fit = len(mid) == 4 and mid[0] == up[1] and mid[1] == down[0] and all(size == 1 for size in down[2:])
        return (down[0], (up[0], down[1], *mid[2:])) if fit else (0, ())
    a, b, other_a, other_b = (shapes[slot] for slot in ("w1_a", "w1_b", "w2_a", "w2_b"))
    if any(len(one) != 2 for one in (a, b, other_a, other_b)) or (a, b) != (other_a, other_b):
        return 0, ()
    if kind == LOHA:
        return (b[0], (a[0], b[1])) if a[1] == b[0] else (0, ())
    t = shapes["t1"]
    fit = len(t) == 4 and t == shapes["t2"] and t[0] == a[0] and t[1] == b[0]
    return (b[0], (a[1], b[1], *t[2:])) if fit else (0, ())


def _fits(made: Shape, shape: Shape) -> bool:
    """Whether a change is of a weight's shape, or the same numbers: [out, in * k * k], or a 1x1 kernel as a matrix."""
    if not made or not shape or made[0] != shape[0]:
        return False
    sizes = np.prod(made, dtype=np.int64), np.prod(shape, dtype=np.int64)
    return bool(sizes[0] == sizes[1]) and (made == shape or len(made) == 2 or {*made[2:], *shape[2:]} <= {1})
