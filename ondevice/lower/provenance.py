"""Where a weight comes from, as a bundle says it: weights of the checkpoint, and ops of how weights are stored."""

from __future__ import annotations

from ondevice.graph.origin import InFile, Made, Origin, Weight
from ondevice.lower.stored import Expression, Leaf, step

_SAID = {"Transpose": ("transpose", "perm"), "Reshape": ("reshape", "shape"), "Mul": ("scale", "by")}


def expression_of(origin: Origin | None) -> Expression | None:
    """The origin down to weights of the checkpoint; None where it does not come from these alone. Types are left out:
    values are float32 until they are stored."""
    if origin is None or isinstance(origin, InFile):
        return None
    if isinstance(origin, Weight):
        return Leaf(origin.name, origin.shape)
    of = [expression_of(part) for part in origin.of]
    known = [part for part in of if part is not None]
    if len(known) < len(of):
        return None
    if origin.op == "Cast":
        return known[0]
    if origin.op == "Concat":
        return step("concat", known, axis=origin.value)
    return _of_one(origin, known[0])


def _of_one(origin: Made, of: Expression) -> Expression:
    if origin.op not in _SAID:
        return step(origin.op, [of], **dict(origin.value))
    op, told = _SAID[origin.op]
    if op == "reshape" and origin.shape == of.shape:
        return of
    return step(op, [of], **{told: origin.value})
