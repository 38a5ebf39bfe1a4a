"""Collapsed walks touch the same elements in the same order as the walks they came from."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.lower.strides import RANK, arguments, broadcast, collapse, contiguous

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=6)


def offsets(sizes, steps):
    """Element offsets in walk order; sizes and steps innermost first."""
    outer = [range(n) for n in reversed(sizes)]
    return [sum(i * s for i, s in zip(reversed(index), steps, strict=True)) for index in itertools.product(*outer)]


@settings(max_examples=200, deadline=None)
@given(shapes, st.data())
def test_collapse_keeps_the_walk(shape, data):
    perm = data.draw(st.permutations(range(len(shape))))
    small = [n if data.draw(st.booleans()) else 1 for n in shape]
    walk, repeat = [contiguous(shape)[p] for p in perm], broadcast([small[p] for p in perm], [shape[p] for p in perm])
    dims = [shape[p] for p in perm]
    sizes, (a, b) = collapse(dims, walk, repeat)
    assert offsets(sizes, a) == offsets(dims[::-1], list(walk)[::-1])
    assert offsets(sizes, b) == offsets(dims[::-1], list(repeat)[::-1])
    assert len(sizes) <= max(1, sum(n > 1 for n in shape))


def test_broadcast_reads_as_numpy_does():
    x = np.arange(6.0).reshape(2, 1, 3)
    steps = broadcast(x.shape, (4, 2, 5, 3))
    assert steps == (0, 3, 0, 1)
    assert [x.ravel()[o] for o in offsets((3, 5, 2, 4), steps[::-1])] == np.broadcast_to(
        x, (4, 2, 5, 3)
    ).ravel().tolist()


def test_walks_of_these_models_fit_and_worse_ones_are_refused():
    per_channel = arguments(
        (2, 320, 64, 64), a=contiguous((2, 320, 64, 64)), b=broadcast((320, 1, 1), (2, 320, 64, 64))
    )
    assert per_channel is not None and [per_channel[k] for k in ("n0", "n1", "n2", "b0", "b1", "b2")] == [
        4096,
        320,
        2,
        0,
        1,
        0,
    ]
    shape = (2, 3, 2, 3, 2)
    assert arguments(shape, s=contiguous(shape)[::-1], d=contiguous(shape)) is None, f"needs more than {RANK}"
