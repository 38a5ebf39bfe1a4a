"""Operands that are read as images: inputs of types `tex` and `wtex`, where a target's devices have images and take
this size.

An image is a view of a tensor's own bytes, four elements to a texel; nothing is copied. Where a row of the operand (the
last of its dims in the kernel's header) is too short for the device's pitch, or its rows are too many for an image,
FOLD_<operand> of them, a power of two, stand side by side in one row of the image: `LOADT` finds them there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ondevice.lower.expression import evaluate, names
from ondevice.lower.kernel_file import KernelFile
from ondevice.lower.program import TEXEL, Tensor
from ondevice.target import Limits, Target


@dataclass(frozen=True, slots=True)
class Image:
    """`width` texels by `height` rows, each of `fold` rows of the operand."""

    width: int
    height: int
    fold: int


def fitted(row: int, elements: int, limits: Limits) -> Image | str:
    """The image over a tensor of so many elements in rows of `row`, as few of them side by side as fit within the
    limits; or why there is none."""
    if row % TEXEL or elements % row:
        return f"rows of {row} values are no whole texels of {TEXEL}"
    texels, rows, pitch = row // TEXEL, elements // row, limits.pitch_alignment or 1
    width, height = limits.image_width or texels * rows, limits.image_height or rows
    if texels > width:
        return f"image too wide ({texels} texels, the target's limit is {width})"
    folds = [1]
    while rows % (2 * folds[-1]) == 0 and 2 * folds[-1] * texels <= width:
        folds.append(2 * folds[-1])
    aligned = [fold for fold in folds if fold * texels % pitch == 0]
    if not aligned:
        return f"its rows ({rows} of {texels} texels) cannot be joined to a multiple of {pitch}"
    fold = next((fold for fold in aligned if rows // fold <= height), None)
    if fold is None:
        return f"image too tall ({rows // aligned[-1]} rows, the target's limit is {height})"
    return Image(fold * texels, rows // fold, fold)


@dataclass(frozen=True, slots=True)
class Imaged:
    """How a call reads its operands of type `tex`: defines, (input, width, height) of those that are images, and for
    each other that might have been one, why it is a buffer."""

    defines: Mapping[str, int]
    images: tuple[tuple[int, int, int], ...]
    fallbacks: tuple[str, ...]


def imaged(kernel: KernelFile, inputs: Sequence[Tensor], values: Mapping[str, int | float], target: Target) -> Imaged:
    """Decide for each operand of a call.

    Args:
        values: the call's arguments, tunables and defines by name; a define that is not set may be left out.
    """
    defines: dict[str, int] = {}
    images: list[tuple[int, int, int]] = []
    fallbacks: list[str] = []
    for name, (row, reach) in kernel.textures.items():
        defines[f"IMAGE_{name}"] = 0
        said = {**dict.fromkeys(names(row) | names(reach), 0), **values}
        if "image2d" not in target.caps or evaluate(reach, said) <= 0:  # the latter: a stand-in
            continue
        number = kernel.inputs.index(name)
        if inputs[number].dtype not in ("f16", "f32"):  # a quantized weight
            continue
        found = fitted(evaluate(row, said), inputs[number].size, target.limits)
        if isinstance(found, str):
            fallbacks.append(f"reads {name} as a buffer: {found}")
        else:
            defines |= {f"IMAGE_{name}": 1, f"FOLD_{name}": found.fold}
            images.append((number, found.width, found.height))
    return Imaged(defines, tuple(images), tuple(fallbacks))
