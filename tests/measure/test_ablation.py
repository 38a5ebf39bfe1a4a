"""The ablation's numbers are those of the plans; its tables show what changes."""

import pytest
from tiny_model import TINY

from ondevice.compiler import Recipe, report
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.measure import ablation
from ondevice.measure.ablation import HEAD, PLAIN, Step


@pytest.fixture(scope="module")
def checkpoint():
    return random_checkpoint_from_configs(**TINY, seed=1)


@pytest.fixture(scope="module")
def steps(checkpoint):
    return list(ablation.ablation(checkpoint, Recipe(), size=(10, 6)))


def test_every_family_is_added_in_order(checkpoint, steps):
    assert [(step.component, step.rules) for step in steps] == [
        (name, rules) for name in build(checkpoint).roles for rules in (PLAIN, *ablation.ADDED)
    ]


def test_the_ends_are_the_plain_graph_and_all_rules(checkpoint, steps):
    for without, rules in ((["all"], PLAIN), ([], ablation.ADDED[-1])):
        planned = report.of_model(checkpoint, "plan", Recipe(without=without), size=(10, 6))
        graphs = report.of_model(checkpoint, "rewrite", Recipe(without=without), size=(10, 6))
        expected = [
            (len(g.rows), len(p.rows), p.moved, p.total("flops"), p.arena) for g, p in zip(graphs, planned, strict=True)
        ]
        assert [step.numbers for step in steps if step.rules == rules] == expected


def test_a_family_that_is_left_out_alone_is_what_its_step_adds(checkpoint, steps):
    unet = {step.rules: step for step in steps if step.component == "unet"}
    (only_first,) = report.of_model(
        checkpoint, "plan", Recipe(without=ablation.ADDED[1:]), size=(10, 6), component="unet"
    )
    assert (len(only_first.rows), only_first.moved) == (
        unet[ablation.ADDED[0]].dispatches,
        unet[ablation.ADDED[0]].moved,
    )


def test_all_rules_make_every_component_smaller(steps):
    for first, last in zip(
        steps[:: len(ablation.ADDED) + 1], steps[len(ablation.ADDED) :: len(ablation.ADDED) + 1], strict=True
    ):
        assert first.rules == PLAIN and last.component == first.component
        if first.component == "keys_values":  # products alone
            assert first.numbers == last.numbers
            continue
        assert all(after < before for before, after in zip(first.numbers[:3], last.numbers[:3], strict=True))


def test_one_component(checkpoint):
    assert {step.component for step in ablation.ablation(checkpoint, Recipe(), size=(10, 6), component="unet")} == {
        "unet"
    }


def test_tables_leave_out_what_changes_nothing():
    steps = [
        Step("a", PLAIN, 1200, 9, 5_000_000, 2_000_000_000, 3_000_000),
        Step("a", "first", 1200, 9, 5_000_000, 2_000_000_000, 3_000_000),
        Step("a", "second", 1100, 9, 4_000_000, 2_000_000_000, 3_000_000),
        Step("b", PLAIN, 1100, 9, 4_000_000, 2_000_000_000, 3_000_000),
    ]
    assert ablation.to_markdown(steps).splitlines() == [
        "| component | rules | nodes | dispatches | MB moved | GFLOP | arena MB |",
        "|---|---|---:|---:|---:|---:|---:|",
        "| a | plain graph | 1,200 | 9 | 5.0 | 2.0 | 3.0 |",
        "| a | + second | 1,100 | 9 | 4.0 | 2.0 | 3.0 |",
        "| a | all rules | 1,100 | 9 | 4.0 | 2.0 | 3.0 |",
        "| b | plain graph | 1,100 | 9 | 4.0 | 2.0 | 3.0 |",
        "| b | all rules | 1,100 | 9 | 4.0 | 2.0 | 3.0 |",
    ]
    assert ablation.to_text(steps).splitlines()[0].split("  ")[0] == HEAD[0]
    assert len(ablation.to_json(steps)) == 4
