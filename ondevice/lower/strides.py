"""Index arithmetic on shapes: which dimensions of a strided walk can be merged, so that kernels need at most four."""

from __future__ import annotations

from collections.abc import Sequence

RANK = 4  # dimensions a strided kernel walks


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements, one per dimension."""
    strides, step = [], 1
    for dim in reversed(shape):
        strides.append(step)
        step *= dim
    return tuple(reversed(strides))


def broadcast(shape: Sequence[int], to: Sequence[int]) -> tuple[int, ...]:
    """Strides with which `shape`, stored row-major, is read as `to`: 0 where a dimension is repeated (NumPy's rule)."""
    padded = (1,) * (len(to) - len(shape)) + tuple(shape)
    return tuple(0 if dim == 1 else step for dim, step in zip(padded, contiguous(padded), strict=True))


def collapse(dims: Sequence[int], *walks: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Drop dimensions of size 1 and merge neighbours that every walk steps through evenly.

    Args:
        dims: sizes, outermost first.
        walks: strides in elements of each operand, outermost first.

    Returns:
        (sizes, strides of each walk), innermost first; as few dimensions as the walks allow, at least one.
    """
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in walks]
    for axis in reversed(range(len(dims))):
        if dims[axis] == 1:
            continue
        here = [walk[axis] for walk in walks]
        if sizes and all(step == inner[-1] * sizes[-1] for step, inner in zip(here, steps, strict=True)):
            sizes[-1] *= dims[axis]
            continue
        sizes.append(dims[axis])
        for inner, step in zip(steps, here, strict=True):
            inner.append(step)
    if not sizes:
        return [1], [[0] for _ in walks]
    return sizes, steps


def arguments(dims: Sequence[int], **walks: Sequence[int]) -> dict[str, int] | None:
    """Kernel arguments n0.. and, for each walk named `x`, x0..; innermost first, padded to RANK.
    None if more dimensions remain."""
    sizes, steps = collapse(dims, *walks.values())
    if len(sizes) > RANK:
        return None
    named = {f"n{i}": size for i, size in enumerate(sizes + [1] * (RANK - len(sizes)))}
    for name, strides in zip(walks, steps, strict=True):
        named |= {f"{name}{i}": step for i, step in enumerate(strides + [0] * (RANK - len(strides)))}
    return named
