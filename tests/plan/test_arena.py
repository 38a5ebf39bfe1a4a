"""The arena planner: safe, aligned and within bounds for any set of lives; its check catches unsafe plans."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import PlanError
from ondevice.plan.arena import Life, arena_size, check, place, round_up
from ondevice.plan.plan import ALIGN

STEPS = 12


@st.composite
def life_sets(draw):
    count = draw(st.integers(1, 40))
    spans = st.tuples(st.integers(0, STEPS), st.integers(0, STEPS)).map(sorted)
    sizes = st.one_of(st.integers(1, 5000), st.sampled_from([1, ALIGN - 1, ALIGN, ALIGN + 1, 65536]))
    return [Life(f"t{i}", draw(sizes), *draw(spans)) for i in range(count)]


@settings(max_examples=300, deadline=None)
@given(life_sets())
def test_every_plan_is_safe_aligned_and_within_bounds(lives):
    at = place(lives)
    check(lives, at)
    assert all(offset % ALIGN == 0 for offset in at.values())
    floor = max(sum(t.size for t in lives if t.first <= step <= t.last) for step in range(STEPS + 1))
    assert floor <= arena_size(lives, at) <= sum(round_up(t.size) for t in lives)


@settings(max_examples=200, deadline=None)
@given(life_sets(), st.data())
def test_check_refuses_exactly_what_a_slow_reading_finds_unsafe(lives, data):
    at = {t.name: ALIGN * data.draw(st.integers(0, 8)) for t in lives}
    unsafe = any(
        a is not b
        and a.first <= b.last
        and b.first <= a.last
        and at[a.name] < at[b.name] + b.size
        and at[b.name] < at[a.name] + a.size
        for a in lives
        for b in lives
    )
    if unsafe:
        with pytest.raises(PlanError, match="overlap in the arena while both are alive"):
            check(lives, at)
    else:
        check(lives, at)


def test_disjoint_lives_share_bytes():
    lives = [Life("a", 4096, 0, 1), Life("b", 4096, 2, 3), Life("c", 4096, 4, 5)]
    assert arena_size(lives, place(lives)) == 4096


@pytest.mark.parametrize("offset", [-ALIGN, 1, ALIGN - 1])
def test_check_refuses_negative_and_misaligned_offsets(offset):
    with pytest.raises(PlanError, match=f"a: offset {offset} is negative or not a multiple of {ALIGN}"):
        check([Life("a", 4, 0, 1)], {"a": offset})


def test_no_lives_need_no_arena():
    check([], {})
    assert arena_size([], {}) == 0
