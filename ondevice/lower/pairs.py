"""How work-items share what kernels for a CPU's matrix unit compute: each makes pairs of bf16 of a part of the left
side, once, in scratch of its own (shaders/prelude/matrix.h).

Sizes suit every spelling of the unit's words, as a plan does not know which one its kernels are built with.
"""

from __future__ import annotations

from collections.abc import Mapping

from ondevice.lower.kernel_file import KernelFile
from ondevice.lower.lowering import Lowering
from ondevice.lower.program import DTYPES

BLOCKS = (12, 32)  # rows of a block of tiles, in each spelling
TERMS = 32  # of a sum at a time, at most
SLACK = 32  # rows of scratch past the last one, in the kernels too: no block of tiles has more
ROWS = 96  # whole blocks of every spelling
# Rows that share a block of the weight, which becomes pairs once for them: with fewer, that takes too large a part.
FEW, MANY = 192, 512
SIDE = 1 << 20  # bytes of the left side, about what the cache of a core holds
ACROSS, PIXELS = 128, 384  # pixels of a rectangle: of a row, and in all


def product(
    low: Lowering, node: str, kernel: KernelFile, tuning: Mapping[str, int], dims: Mapping[str, int]
) -> tuple[dict[str, int], str]:
    """(arguments beside `dims`, scratch) of a product: strips of rows, and how many panels of the weight a task has.
    ({}, "") for kernels that work in no scratch."""
    if "slot" not in kernel.arg_types:
        return {}, ""
    m, k, parts, wide = dims["m"], dims["k"], parts_of(low), tuning["V"] * tuning["NV"]
    row = (-(-k // 32) + 1) * 16
    most = max(ROWS, min(MANY, SIDE // (parts * row * DTYPES["f32"])) // ROWS * ROWS)
    strip = min(most, max(FEW, -(-m // _groups(low))))
    strip = -(-min(strip, m) // ROWS) * ROWS
    strips = dims["batch"] * -(-m // strip)
    slot = (strip + SLACK) * (wide + parts * row) + parts * tuning["DEPTH"] // 2 * wide
    return _shared(low, node, {"strip": strip}, slot, strips, dims["ldb"] // wide)


def convolution(
    low: Lowering, node: str, kernel: KernelFile, tuning: Mapping[str, int], dims: Mapping[str, int]
) -> tuple[dict[str, int], str]:
    """The same of a convolution: rectangles of the picture it makes."""
    if "slot" not in kernel.arg_types:
        return {}, ""
    parts, wide, depth = parts_of(low), tuning["V"] * tuning["NV"], tuning["DEPTH"]
    cols = -(-dims["ow"] // -(-dims["ow"] // ACROSS))

    def slot(rows: int) -> int:
        lines = dims["kw"] * min(dims["stride"], dims["kh"]) * (rows + (dims["kh"] - 1) // dims["stride"])
        pairs = dims["kh"] * dims["kw"] * wide + -(-dims["ic"] // depth) * (lines * cols + SLACK)
        return (rows * cols + SLACK) * wide + parts * depth // 2 * pairs

    rows = min(dims["oh"], max(1, PIXELS // cols))
    while rows > 1 and slot(rows) * DTYPES["f32"] * _groups(low) > low.target.scratch:
        rows -= 1
    rows = -(-dims["oh"] // -(-dims["oh"] // rows))
    tasks = dims["n"] * -(-dims["oh"] // rows) * -(-dims["ow"] // cols)
    return _shared(low, node, {"rows": rows, "cols": cols}, slot(rows), tasks, dims["ldb"] // wide)


def _shared(
    low: Lowering, node: str, sizes: dict[str, int], slot: int, tasks: int, panels: int
) -> tuple[dict[str, int], str]:
    """Tasks have all panels where there is one for each work-item, else some of them."""
    groups = _groups(low)
    share = panels if tasks >= groups else -(-panels * tasks // groups)
    groups = min(groups, tasks * -(-panels // share))
    slot = -(-slot // 16) * 16
    scratch = low.scratch(f"{node}:scratch", (groups, slot), "f32")
    return sizes | {"share": share, "groups": groups, "slot": slot}, scratch


def parts_of(low: Lowering) -> int:
    """Values of bf16 that one is kept as."""
    return 2 if low.math == "bf16x3" else 1


def _groups(low: Lowering) -> int:
    """Work-items that share an op."""
    return low.target.winograd.get("groups", 8)
