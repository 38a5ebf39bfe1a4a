"""The timed ablation goes through the paper's steps; its plans are those of the rules; weights are read once."""

import json

import pytest
from null_device import NullDevice
from tiny_model import TINY

from ondevice.compiler import Recipe, report
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.measure import latency
from ondevice.measure.ablation import ADDED, PLAIN
from ondevice.measure.latency import STEPS

NAMES = [name for name, _ in STEPS]


@pytest.fixture(scope="module")
def checkpoint():
    return random_checkpoint_from_configs(**TINY, seed=1)


@pytest.fixture(scope="module")
def steps(checkpoint):
    return list(latency.timed_ablation(checkpoint, NullDevice(), Recipe(), size=(10, 6), component="unet", repeat=3))


def test_every_family_is_in_a_step_and_the_last_has_all():
    named = [family for _, families in STEPS[:-1] for family in families]
    assert len(set(named)) == len(named) and set(named) <= set(ADDED) and STEPS[-1] == ("all rules", ADDED)


def test_the_steps_are_the_plans_of_those_rules(checkpoint, steps):
    assert [timed.step.rules for timed in steps] == NAMES
    for count, timed in enumerate(steps):
        on = {family for _, families in STEPS[: count + 1] for family in families}
        off = [family for family in ADDED if family not in on]
        (planned,) = report.of_model(checkpoint, "plan", Recipe(without=off), size=(10, 6), component="unet")
        assert (timed.step.dispatches, timed.step.moved, timed.step.arena) == (
            len(planned.rows),
            planned.moved,
            planned.arena,
        )
        assert timed.timing.runs == 3


def test_weights_are_read_once_for_all_steps(checkpoint):
    reads = []
    part = checkpoint.components["unet"]

    class Counted(dict):
        def items(self):
            reads.append("items")
            return super().items()

    object.__setattr__(part, "weights", Counted(part.weights))
    held = latency.kept(checkpoint, "unet")
    assert reads == ["items"] and held.components["vae"] is checkpoint.components["vae"]
    name = next(iter(part.weights))
    assert held.components["unet"].weights[name].numpy() is held.components["unet"].weights[name].numpy()
    assert (held.components["unet"].weights[name].numpy() == part.weights[name].numpy()).all()


def test_tables(steps):
    text, page = latency.to_text(steps), latency.to_markdown(steps)
    assert text.splitlines()[0].split()[:3] == ["component", "optimizations", "ms"] and f"unet       {PLAIN}" in text
    assert [row.split(" | ")[1] for row in page.splitlines()[2:]] == [
        PLAIN,
        *(f"+ {name}" for name in NAMES[1:-1]),
        "all rules",
    ]
    assert page.splitlines()[2].split(" | ")[4] == "1.00"


def test_rows_are_plain_data_with_names_of_their_own(steps):
    rows = [json.loads(json.dumps(timed.row("tiny", "host"), allow_nan=False)) for timed in steps]
    assert len({row["name"] for row in rows}) == len(STEPS) and rows[0]["name"] == (
        "ablation: tiny unet batch=2 height=3 width=5 f16 for host, plain graph"
    )
    assert {"median_ms", "spread", "counts", "dispatches", "moved", "arena", "difference"} <= rows[0].keys()
