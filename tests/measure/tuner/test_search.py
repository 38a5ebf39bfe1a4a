"""The search on made-up clocks: it finds what is faster, is not fooled by luck, and stops."""

import itertools
from collections import Counter

import pytest

from ondevice.measure.tuner import search
from ondevice.measure.tuner.search import FAR, LOST, WON, Lessons, descend, duel, leasts

SPACE = {"V": [16, 4, 8], "NV": [4, 1, 2], "X": [1, 8]}
START = {"V": 16, "NV": 4, "X": 1}


class Made:
    """Choices cost what `cost` says; remembers which ran, and which results were looked at."""

    def __init__(self, cost, right=lambda choice: True, noise=(1.0,)):
        self.cost, self._right, self.noise = cost, right, itertools.cycle(noise)
        self.ran, self.looked = [], []

    def run(self, choice):
        seconds = self.cost(choice)
        if seconds is None:
            return None

        def once():
            self.ran.append(dict(choice))
            return seconds * next(self.noise)

        return once

    def known(self, choice):
        return self.cost(choice) if choice in self.ran else None

    def right(self, choice):
        self.looked.append(dict(choice))
        return self._right(choice)


def never():
    return False


def cost(choice):
    return 0.01 * (1 + abs(choice["V"] - 8) / 10 + abs(choice["NV"] - 2) / 5 + choice["X"] / 50)


def test_it_finds_the_best_one_tunable_at_a_time():
    trial = Made(cost)
    assert descend(SPACE, [START], trial, never) == {"V": 8, "NV": 2, "X": 1}
    assert len({tuple(choice.items()) for choice in trial.ran}) < 3 * 3 * 2, "not every combination"


def test_it_may_begin_at_another_winner_and_keeps_what_is_not_in_the_space():
    assert descend({"X": [1, 8]}, [START, {"V": 4, "NV": 2, "X": 8}], Made(cost), never) == {"V": 4, "NV": 2, "X": 1}
    assert descend({}, [START, {"V": 8, "NV": 2, "X": 1}], Made(cost), never) == {"V": 8, "NV": 2, "X": 1}


def test_less_than_the_margin_is_not_faster():
    assert descend(SPACE, [START], Made(lambda c: 0.01 * (0.985 if c["V"] == 8 else 1)), never) == START
    assert descend(SPACE, [START], Made(lambda c: 0.01 * (0.975 if c["V"] == 8 else 1)), never) == START | {"V": 8}


def test_two_tunables_make_up_for_each_other():
    """A tile of 4 by 4 is no better alone in either size: only 8 by 2 is."""
    space = {"MR": [4, 2, 8], "NV": [4, 2], "X": [1]}
    trial = Made(lambda c: {(4, 4): 0.010, (8, 2): 0.008}.get((c["MR"], c["NV"]), 0.012))
    assert descend(space, [{"MR": 4, "NV": 4, "X": 1}], trial, never) == {"MR": 8, "NV": 2, "X": 1}
    lessons = Lessons(Counter({("MR for NV", 8): search.GIVE_UP}))
    assert descend(space, [{"MR": 4, "NV": 4, "X": 1}], trial, never, lessons)["MR"] == 4, "it lost elsewhere"


def test_a_noisy_clock_makes_no_winner_of_an_equal():
    """Every fifth run takes half as long again, whoever runs then."""
    trial = Made(lambda choice: 0.01, noise=(1.0, 1.0, 1.0, 1.0, 1.5))
    assert descend(SPACE, [START], trial, never) == START


def test_a_noisy_clock_does_not_hide_a_winner():
    """Two runs of seven take two or three times as long, whoever runs then."""
    trial = Made(lambda choice: 0.0096 if choice["V"] == 8 else 0.01, noise=(1.0, 1.0, 3.0, 1.0, 1.0, 2.0, 1.0))
    assert descend({"V": [16, 8]}, [START], trial, never) == START | {"V": 8}


def test_a_slow_candidate_runs_twice_at_most():
    trial = Made(lambda choice: 0.01 if choice == START else 0.1)
    descend(SPACE, [START], trial, never)
    runs = [trial.ran.count(choice) for choice in (START | {"V": 4}, START | {"X": 8})]
    assert runs == [2, 2]
    trial = Made(lambda choice: 1.0 if choice == START else 1.25)
    descend(SPACE, [START], trial, never)
    assert trial.ran.count(START | {"V": 4}) == 1, "long runs tell more"


def test_wrong_results_and_what_does_not_run_lose():
    fast_and_wrong = Made(lambda c: 0.001 if c["V"] == 4 else 0.01, right=lambda c: c["V"] != 4)
    assert descend(SPACE, [START], fast_and_wrong, never) == START
    assert fast_and_wrong.looked == [START | {"V": 4}], "results are looked at where they would win, and only there"
    assert descend(SPACE, [START], Made(lambda c: None if c["V"] == 4 else cost(c)), never)["V"] == 8
    assert descend(SPACE, [START], Made(lambda c: None), never) == START, "not even the start runs"


def test_it_stops_when_time_is_up():
    trial, asked = Made(cost), itertools.count()
    assert descend(SPACE, [START], trial, lambda: next(asked) >= 1) == START | {"V": 4}
    assert descend(SPACE, [START], Made(cost), lambda: True) == START


def test_values_that_lose_everywhere_are_given_up():
    lessons = Lessons()
    for _ in range(2):
        descend(SPACE, [START], Made(lambda c: 0.1 if c["X"] == 8 else 0.01), never, lessons)
    assert lessons.hopeless("X", 8) and not lessons.hopeless("X", 1) and not lessons.hopeless("V", 4), (
        "equal values keep a chance"
    )
    again = Made(lambda c: 0.001 if c["X"] == 8 else 0.01)
    assert descend(SPACE, [START], again, never, lessons) == START and not any(c["X"] == 8 for c in again.ran)
    assert not Lessons(lessons.lost, {("X", 8)}).hopeless("X", 8), "what won once is tried on"


@pytest.mark.parametrize("ratio, want", [(0.5, WON), (0.97, WON), (0.99, LOST), (1.2, LOST), (2.0, FAR)])
def test_a_duel(ratio, want):
    assert duel(lambda: 0.01, lambda: 0.01 * ratio) == want


def test_a_duel_is_not_won_by_half_of_the_rounds():
    lucky = itertools.cycle([0.005, 0.011])
    assert duel(lambda: 0.01, lambda: next(lucky)) == LOST


def test_least_times_take_turns_and_spend_little():
    order = []
    fast, slow = leasts(lambda: order.append("a") or 0.001, lambda: order.append("b") or 0.002)
    assert (fast, slow) == (0.001, 0.002) and order[1:7] == ["a", "b"] * 3
    order.clear()
    leasts(lambda: order.append("a") or 5.0, lambda: order.append("b") or 5.0)
    assert len(order) == 1 + 2 * 3, "in_turns makes three rounds whatever they take"
