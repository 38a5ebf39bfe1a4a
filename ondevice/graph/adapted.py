"""What adapters (LoRA and its kin) change of a model, in plain types: layers with a weight, and changes of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]
WEIGHT = ".weight"


@dataclass(frozen=True, slots=True)
class Module:
    """A layer with a weight of this `shape`. `original`: its name in the original layout, "" where that is its own;
    with `:1/3` behind it where it is the second of three equal parts of that layer's rows, and with `:1,0/2` where the
    two halves of its rows are the other way round there."""

    shape: Shape
    original: str = ""


Modules = Mapping[str, Mapping[str, Module]]
"""By part of the model ("unet", "text_encoder"), then by the layer's name in diffusers."""


def leaf(part: str, module: str) -> str:
    """What the weight of a module is called where weights of all parts meet."""
    return f"{part}/{module}{WEIGHT}"


def leaves(modules: Modules) -> Iterator[tuple[str, Shape]]:
    """Every weight with its shape."""
    for part, layers in modules.items():
        yield from ((leaf(part, name), module.shape) for name, module in layers.items())


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """A term of what is added to a weight: `scale` times up [out, r] @ down [r, rest], or times a whole difference.

    `read` gives (up, down), or (whole,), of these `shapes`, float16 ("f16") or float32 ("f32") as `dtype` says.
    """

    scale: float
    shapes: tuple[Shape, ...]
    dtype: str
    read: Callable[[], tuple[np.ndarray, ...]]


Changes = Mapping[str, "tuple[Change, ...]"]
"""By leaf: what is added up in this order."""
