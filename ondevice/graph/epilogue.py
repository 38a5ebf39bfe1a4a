"""What is done to a result before it is stored: one ordered list of steps, which the op's name spells.

A Linear with bias, SiLU and residual is LinearBiasSiluAdd. ONNX finds an op's meaning by its name alone, so the steps
are in it; names are put together and read here, and listed nowhere. shaders/prelude/epilogue.h has the same steps in
the same order.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Step:
    """`order`: steps of an op ascend in it. `define`: what a kernel is built with.
    `operand`: the input that it reads, if one, and `joins` how. `after`: the step that it follows at once, if only
    that."""

    order: int
    define: str
    operand: str = ""
    after: str = ""
    joins: str = "Add"


# Geglu halves the width: the second half gates the first
ACTIVATIONS = ("Silu", "Gelu", "GeluTanh", "QuickGelu", "Geglu", "Relu")
STEPS: dict[str, Step] = {
    "Bias": Step(0, "HAS_BIAS", "bias"),  # one number per channel
    "Shift": Step(1, "HAS_SHIFT", "shift"),  # one number per channel and picture: the time embedding
    **{activation: Step(2, f"ACT_{activation}") for activation in ACTIVATIONS},
    "Gate": Step(3, "HAS_GATE", "gate", joins="Mul"),  # one number per channel and item of [n, rows, c]
    "Add": Step(4, "HAS_ADD", "residual"),  # shaped as the result
    "ThenRelu": Step(5, "ACT_ThenRelu", after="Add"),  # of the sum: a block of a tiny autoencoder ends so
}
_OF_LINEAR, _OF_TWO_PARTS = ("Bias", *ACTIVATIONS, "Gate", "Add"), ("Bias", *ACTIVATIONS, "Add")
_OF_CONV, _OF_NORM = ("Bias", "Shift", "Silu", "Relu", "Add", "ThenRelu"), ("Silu",)
# op -> its inputs; x may come in two parts, side by side
LINEAR = {"Linear": ("x", "weight"), "ConcatLinear": ("x", "x2", "weight")}
CONV = {"ConvNhwc": ("x", "weight"), "UpConvNhwc": ("x", "weight")}  # Up: x is first repeated to a larger picture
NORMS = {
    "GroupNorm": ("x", "scale", "bias"),
    "GroupNormNhwc": ("x", "scale", "bias"),
    "ConcatGroupNormNhwc": ("x", "x2", "scale", "bias"),
    "NormalizeNhwc": ("x", "mean", "variance", "scale", "bias"),  # a GroupNorm whose mean and variance are given
}
# op -> steps that it may have
TAKES = {"Linear": _OF_LINEAR, "ConcatLinear": _OF_TWO_PARTS}
TAKES |= dict.fromkeys(CONV, _OF_CONV) | dict.fromkeys(NORMS, _OF_NORM)
_INPUTS = LINEAR | CONV | NORMS
_BASE = re.compile("|".join(sorted(TAKES, key=len, reverse=True)))
_STEP = re.compile("|".join(sorted(STEPS, key=len, reverse=True)))


@dataclass(frozen=True, slots=True)
class Stepped:
    """An op that takes steps, with those that it has."""

    base: str  # a key of TAKES
    steps: tuple[str, ...] = ()  # keys of STEPS, in their order

    @property
    def name(self) -> str:
        return self.base + "".join(self.steps)

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return (*_INPUTS[self.base], *(STEPS[step].operand for step in self.steps if STEPS[step].operand))

    @property
    def activation(self) -> str:
        """One of ACTIVATIONS; "" where there is none."""
        return next((step for step in self.steps if step in ACTIVATIONS), "")

    @property
    def defines(self) -> dict[str, int]:
        """What a kernel is built with to finish its result so."""
        return {STEPS[step].define: 1 for step in self.steps}

    @property
    def exists(self) -> bool:
        """Whether the op takes these steps, in this order."""
        order = [STEPS[step].order for step in self.steps]
        before = ("", *self.steps)
        follows = all(STEPS[step].after in ("", before[at]) for at, step in enumerate(self.steps))
        return set(self.steps) <= set(TAKES[self.base]) and order == sorted(set(order)) and follows

    def then(self, step: str) -> Stepped:
        """With one step more, whether that exists or not."""
        return replace(self, steps=(*self.steps, step))


@functools.cache
def read(name: str) -> Stepped | None:
    """The op of that name and its steps; None where the name is none of such an op."""
    if (base := _BASE.match(name)) is None:
        return None
    rest = name[base.end() :]
    stepped = Stepped(base[0], tuple(_STEP.findall(rest)))
    return stepped if stepped.name == name and stepped.exists else None


def of(name: str) -> Stepped:
    """`read` for a name that is known to be one."""
    stepped = read(name)
    assert stepped is not None, f"{name} takes no steps"
    return stepped


def is_one(name: str, bases: Collection[str]) -> bool:
    """Whether it is one of these ops, with whatever steps."""
    stepped = read(name)
    return stepped is not None and stepped.base in bases
