"""Tables as JSON: what cannot be replayed is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from diffusion.sampler_helpers import SD15
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.diffusion.samplers import NOISE, SamplerTable, make_table, run_table
from ondevice.errors import BundleError

# Changes of a table of unipc at 3 steps, after which it cannot be replayed; `()` is all of it.
CHANGES: list[tuple[tuple[str | int, ...], Any, str]] = [
    ((), [], "wrong fields"),
    (("slots",), 0, "slots: out of range"),
    (("slots",), 17, "slots: out of range"),
    (("slots",), True, "slots: out of range"),
    (("slots",), 2, "out of range"),
    (("sampler",), "../x", "not a sampler's name"),
    (("sampler",), "é", "not a sampler's name"),
    (("steps",), -1, "steps: out of range"),
    (("result",), 4, "result: out of range"),
    (("calls",), [], "calls: wrong list"),
    (("calls",), {}, "calls: wrong list"),
    (("calls", 0), 3, r"calls\[0\]: wrong fields"),
    (("calls", 0, "timestep"), float("nan"), "timestep: not a number"),
    (("calls", 0, "timestep"), "1", "timestep: not a number"),
    (("calls", 0, "input_scale"), 1e39, "input_scale: not a number"),
    (
        ("start_noise",),
        10**400,
        "start_noise: not a number a player can hold .got a whole number of 1329 bits, expected",
    ),
    (("start_image",), -(10**4299), "start_image: not a number"),
    (("slots",), 10**400, "slots: out of range .got a whole number of 1329 bits"),
    (("steps",), {"a": 10**400}, "steps: out of range .got an object of 1"),
    (("sampler",), "x" * 5000, "sampler: not a sampler's name .got 'x{60}', expected"),
    (("calls", 0, "sample"), 1, "slot 1 is read before it is written"),
    (("calls", 0, "draws_noise"), 1, "draws_noise: wrong type"),
    (("calls", 0, "rows"), [], "rows: wrong list"),
    (("calls", 0, "rows", 0, "slot"), -1, "slot: out of range"),
    (("calls", 0, "rows", 0, "terms"), [[0, 1.0]] * 21, "terms: wrong list"),
    (("calls", 0, "rows", 0, "terms", 0), [0], "term: wrong list"),
    (("calls", 0, "rows", 0, "terms", 0, 0), -3, "source: out of range"),
    (("calls", 0, "rows", 0, "terms", 0, 0), NOISE, "noise is used but not drawn"),
    (("calls", 0, "rows", 0, "terms", 0, 0), 2, "slot 2 is read before it is written"),
    (("calls", 0, "rows", 1, "terms", 0, 0), 2, "slot 2 is read before it is written"),
    (("calls", 0, "rows", 0, "terms", 0, 1), None, "coefficient: not a number"),
    (("calls", 0, "rows", 0, "terms", 0, 1), float("inf"), "coefficient: not a number"),
    (("begins",), [[1.0, 0.0]] * 3, "begins: wrong list .got 3 items for 3 calls and 3 slots, expected"),
    (("begins",), None, "begins: wrong list"),
    (("noised",), [[1.0, 0.0]] * 2, "noised: wrong list .got 2 items, expected one for each call"),
    (("noised",), [[1.0, 0.0]] * 4, "noised: wrong list .got 4 items, expected 0 to 3"),
    (("noised",), None, "noised: wrong list"),
    (("noised", 1), [1.0, 0.0, 0.0], r"noised\[1\]: wrong list"),
    (("noised", 2, 0), "1", r"noised\[2\]: not a number"),
    (("noised", 2, 1), -1e39, r"noised\[2\]: not a number"),
    (("train_steps",), 0, "train_steps: out of range"),
    (("train_steps",), 100_001, "train_steps: out of range .got 100001, expected an integer from 1 to 100000"),
    (("train_steps",), 1000.0, "train_steps: out of range"),
    (("train_steps",), None, "train_steps: out of range"),
    (("ends",), [], "wrong fields"),
]
BEGIN_CHANGES: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("begins",), [[1.0, 0.0]], "begins: wrong list .got 1 items for 3 calls and 1 slots, expected"),
    (("begins",), [[1.0, 0.0]] * 4, "begins: wrong list .got 4 items, expected 0 to 3"),
    (("begins", 1), [1.0], r"begins\[1\]: wrong list"),
    (("begins", 2, 0), "1", r"begins\[2\]: not a number"),
    (("begins", 2, 1), 1e39, r"begins\[2\]: not a number"),
]
"""The same of a table of ddim at 3 steps, which may begin at any call."""


def changed(data: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """`data` with one value exchanged."""
    if not path:
        return value
    at = data = copy.deepcopy(data)
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [*(("unipc", *row) for row in CHANGES), *(("ddim", *row) for row in BEGIN_CHANGES)],
)
def test_json_that_cannot_be_replayed_is_refused(
    name: str, path: tuple[str | int, ...], value: Any, message: str
) -> None:
    data = changed(make_table(name, 3, SD15).to_json(), path, value)
    with pytest.raises(BundleError, match=message) as caught:
        SamplerTable.from_json(data)
    assert len(str(caught.value)) <= 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**330), 10**330) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_json_is_a_table_that_runs_or_our_error(data: st.DataObject) -> None:
    """Replaces one value anywhere. What `from_json` lets through must replay without an exception."""
    value: Any = make_table(data.draw(st.sampled_from(["unipc", "ddim"])), 3, SD15).to_json()
    at, key = {"top": value}, "top"
    while isinstance(at[key], dict | list) and at[key] and data.draw(st.booleans()):
        at = at[key]
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else list(range(len(at)))))
    at[key] = data.draw(JSON | st.integers(-3, 20) | st.floats(-10, 10))
    try:
        table = SamplerTable.from_json(value if key != "top" else at["top"])
    except BundleError:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        run_table(table, lambda x, _: x, np.ones(2, np.float32), lambda _: np.ones(2, np.float32))
