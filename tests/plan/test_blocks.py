"""Blocks of weights: which dispatches read them, where they lie, and when they may be loaded."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run.small_plans import make_plan

from ondevice.errors import PlanError
from ondevice.plan.arena import round_up
from ondevice.plan.blocks import BLOCK, Streaming, weights_read, window_of, windowed
from ondevice.plan.plan import ALIGN

KB = 1 << 10
reads = st.lists(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 64 * KB), max_size=3), max_size=30
)  # a weight may be read by many, whole or in part


def least_of(plan):
    return max((sum(round_up(size) for size in read.values()) for read in plan), default=0)


def sizes_in(plan, block):
    found = {}
    for read in plan[block.first : block.end]:
        for key, size in read.items():
            found[key] = max(found.get(key, 0), round_up(size))
    return found


@given(reads, st.integers(0, 300 * KB), st.booleans())
@settings(deadline=None)
def test_every_window_is_safe(plan, more, chosen):
    """Whenever blocks are loaded as soon as they may be, and whatever is done meanwhile."""
    nbytes = least_of(plan) + ALIGN + more if chosen else 0
    window = windowed(plan, nbytes, "net")
    assert not chosen or window.nbytes <= nbytes
    blocks, most = window.blocks, 0
    assert [block.first for block in blocks] == [0, *(block.end for block in blocks[:-1])][: len(blocks)]
    assert (blocks[-1].end if blocks else 0) == len(plan)
    for index, block in enumerate(blocks):
        sizes = sizes_in(plan, block)
        assert block.places.keys() == sizes.keys() and block.nbytes == sum(sizes.values())
        assert block.after <= index and (chosen or block.after == max(index - 1, 0))
        live = [
            (place, place + sizes_in(plan, one)[key])
            for one in blocks[block.after : index + 1]
            for key, place in one.places.items()
        ]
        assert all(place % ALIGN == 0 and 0 <= place <= end <= window.nbytes for place, end in live)
        ends = sorted(span for span in live if span[1] > span[0])
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(ends))
        most = max(most, sum(one.nbytes for one in blocks[block.after : index + 1]))
    assert most == window.most <= window.nbytes


@given(reads)
@settings(deadline=None)
def test_a_window_may_be_as_small_as_the_largest_dispatch(plan):
    least = least_of(plan)
    if least > ALIGN:
        assert windowed(plan, least, "net").most == least
        with pytest.raises(PlanError, match="net: a dispatch reads"):
            windowed(plan, least - ALIGN, "net")


def test_by_hand():
    """Two small weights, one that stands twice, one larger than half of the window, and one after it."""
    plan = [{"a": 1}, {"b": 512}, {}, {"a": 1, "c": 700}, {"d": 3000}, {}, {"e": 1}]
    window = windowed(plan, 4096, "net")
    assert [(one.first, one.end, one.nbytes, one.after) for one in window.blocks] == [
        (0, 4, 2048, 0),
        (4, 6, 3072, 1),  # alone: 2048 + 3072 do not fit
        (6, 7, 512, 1),
    ]
    assert [dict(one.places) for one in window.blocks] == [{"a": 0, "b": 512, "c": 1024}, {"d": 1024}, {"e": 0}]
    assert (window.nbytes, window.most) == (4096, 3584)
    wide = windowed(plan, 0, "net")
    assert len(wide.blocks) == 1 and wide.nbytes == 2048 + 3072 + 512
    assert windowed([{"a": BLOCK}, {"b": 2 * BLOCK}, {"c": 1}], 0, "net").nbytes == 3 * BLOCK


def test_too_small_a_window_says_what_is_enough():
    with pytest.raises(PlanError) as caught:
        windowed([{"a": 3_000_000}], 2_000_000, "unet")
    assert str(caught.value) == (
        "unet: a dispatch reads 3.0 MB of weights, and the window has 2.0 MB. Fix: stream weights through 4MB or more."
    )


def test_what_dispatches_read():
    """Of a mapped table no more than the dispatch reads; nothing of weights that have memory of their own."""
    plan = make_plan(8, [("affine", ("x", "bias"), "a", (2.0,)), ("affine", ("a", "mask"), "y", (1.0,))])
    assert weights_read(plan, False) == [{"bias": 16}, {"mask": 16}]
    rows = replace(plan, dispatches=(replace(plan.dispatches[0], reads=4), plan.dispatches[1]))
    assert weights_read(rows, True, ["mask"]) == [{"bias": 4}, {}]
    assert weights_read(rows, False) == [{"bias": 16}, {"mask": 16}]  # all of it is copied
    assert window_of(rows, Streaming(0, True)).nbytes == 2 * ALIGN
