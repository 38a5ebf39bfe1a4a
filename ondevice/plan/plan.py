"""A plan as data: what a player replays. It needs no model knowledge: load, bind, dispatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ondevice.lower.program import DTYPES, TEXEL

# bytes; the strictest sub-buffer alignment seen (CL_DEVICE_MEM_BASE_ADDR_ALIGN: NVIDIA 4096 bits, phones 1024)
ALIGN = 512


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor with a place: in the arena at `offset`, or in the weights under the key `weight`.

    With `view` it is an image instead: the first bytes of operand number `view`, of its dtype, as [height, width, 4].
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int | None = None
    weight: str | None = None
    view: int | None = None


def home(operands: Sequence[Operand], number: int) -> int:
    """The number of the operand whose place operand `number` has: of an image it is what it views."""
    view = operands[number].view
    return number if view is None else view


def image_of(number: int, viewed: Operand, width: int, height: int) -> Operand:
    """An image of `width` texels by `height` rows over the bytes of operand `number`, which is `viewed`."""
    return Operand(
        name=f"{viewed.name}:image {width}x{height}",
        dtype=viewed.dtype,
        shape=(height, width, TEXEL),
        nbytes=width * height * TEXEL * DTYPES[viewed.dtype],
        view=number,
    )


@dataclass(frozen=True, slots=True)
class Kernel:
    """A program to build: a file under kernels/ and the defines it is compiled with."""

    file: str
    defines: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One launch. `operands` index Plan.operands (inputs, then outputs); `scalars` follow them."""

    kernel: int
    operands: tuple[int, ...]
    outputs: int  # how many of the last operands are written
    scalars: tuple[int | float, ...]
    grid: tuple[int, int, int]
    group: tuple[int, int, int]
    node: str
    op: str
    flops: int
    reads: int
    writes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One component at one size."""

    component: str
    sizes: dict[str, int]
    dtype: str
    arena: int  # bytes
    operands: tuple[Operand, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernels: tuple[Kernel, ...]
    dispatches: tuple[Dispatch, ...] = field(default_factory=tuple)
    needs: tuple[str, ...] = ()  # capabilities (`ondevice.target.CAPABILITIES`) without which it does not run
