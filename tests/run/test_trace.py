"""Traces are what the trace event format asks for, hold every launch, and say when it ran."""

import json

import pytest
from null_device import NullDevice
from run.small_plans import FakeBundle, three_steps

from ondevice.run.profile import Profile
from ondevice.run.session import Session
from ondevice.run.timing import made_up
from ondevice.run.trace import to_trace


@pytest.fixture
def trace():
    """Two runs of three launches, the second later; a gap stands between the first run's launches."""
    profile = Profile({"name": "clock"}, launches=[])
    profile.add(three_steps(1000), [(5.0, 5.001), (5.0015, 5.002), (5.002, 5.003)])
    profile.add(three_steps(1000), [(6.0, 6.001), (6.001, 6.002), (6.002, 6.004)])
    return json.loads(json.dumps(to_trace(profile), allow_nan=False))


def slices(trace, run=False):
    return [event for event in trace["traceEvents"] if event["ph"] == "X" and (event["cat"] == "run") == run]


def test_every_launch_is_there_with_what_it_was(trace):
    assert [event["name"] for event in slices(trace)] == ["Affine affine", "Root root", "Affine affine"] * 2
    first = slices(trace)[0]
    assert (first["ts"], first["dur"]) == (0.0, 1000.0)
    assert (
        first["args"]
        | {"component": "net", "node": "/0/affine", "op": "Affine", "kernel": "affine", "sizes": "width=1000"}
        == first["args"]
    )
    assert first["args"]["GFLOP/s"] == pytest.approx(2000 / 1e-3 / 1e9, abs=0.01) and first["args"][
        "GB/s"
    ] == pytest.approx(0.01, abs=0.01)
    assert [event["ts"] for event in slices(trace)][1:4] == [1500.0, 2000.0, 1e6]


def test_it_is_what_viewers_take(trace):
    for event in trace["traceEvents"]:
        assert event["ph"] in "XM" and isinstance(event["pid"], int) and isinstance(event["name"], str)
        assert event["ph"] == "M" or (event["ts"] >= 0 and event["dur"] >= 0 and isinstance(event["tid"], int))
    assert {event["name"] for event in trace["traceEvents"] if event["ph"] == "M"} == {"process_name", "thread_name"}


def test_launches_lie_in_their_run_one_after_another(trace):
    runs, launches = slices(trace, run=True), slices(trace)
    assert [(run["name"], run["ts"], run["dur"]) for run in runs] == [
        ("net width=1000", 0.0, 3000.0),
        ("net width=1000", 1e6, 4000.0),
    ]
    for run, inside in zip(runs, (launches[:3], launches[3:]), strict=True):
        at = run["ts"]
        for launch in inside:
            assert at <= launch["ts"] and launch["ts"] + launch["dur"] <= run["ts"] + run["dur"]
            at = launch["ts"] + launch["dur"]


def test_a_session_keeps_launches_only_when_asked_and_warm_ups_never():
    plan = three_steps(8)
    kept, lean = (Session(FakeBundle(plan), NullDevice(), profile=True, trace=trace) for trace in (True, False))
    for session in (kept, lean):
        with session.profile.ignored():
            session.run("net", made_up(plan), width=8)
        session.run("net", made_up(plan), width=8)
    assert lean.profile.launches is None and len(kept.profile.launches) == 1 and len(kept.profile.launches[0]) == 3
    assert {row.runs for row in kept.profile.rows.values()} == {1}
    kept.profile.clear()
    assert to_trace(kept.profile)["traceEvents"][2:] == []
