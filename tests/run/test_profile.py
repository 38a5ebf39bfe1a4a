from __future__ import annotations

import json

import pytest
from run.small_plans import three_steps

from ondevice.run.profile import Profile


@pytest.fixture
def profile() -> Profile:
    """Two runs of a plan whose dispatches take 1, 2 and 3 ms, then 3, 2 and 1; each does 2000 FLOPs on 8000 bytes."""
    filled = Profile({"name": "clock"})
    for took in ([1e-3, 2e-3, 3e-3], [3e-3, 2e-3, 1e-3]):
        filled.add(three_steps(1000), [(1.0, 1.0 + seconds) for seconds in took])
    return filled


def test_sums_by_kernel(profile: Profile) -> None:
    affine, root = profile.by("kernel")
    assert (affine["kernel"], affine["launches"], affine["seconds"]) == ("affine", 4, pytest.approx(8e-3))
    assert (root["kernel"], root["launches"], root["seconds"]) == ("root", 2, pytest.approx(4e-3))
    assert affine["share"] == pytest.approx(2 / 3)
    assert affine["gflops"] == pytest.approx(4 * 2000 / 8e-3 / 1e9)
    assert root["gbytes"] == pytest.approx(2 * 8000 / 4e-3 / 1e9)


def test_rows_are_of_one_run_on_average(profile: Profile) -> None:
    listed = json.loads(json.dumps(profile.to_json()))
    assert listed["device"] == {"name": "clock"}
    assert [(row["number"], row["sizes"], row["runs"]) for row in listed["dispatches"]] == [
        (n, "width=1000", 2) for n in range(3)
    ]
    assert [row["us"] for row in listed["dispatches"]] == pytest.approx([2000.0, 2000.0, 2000.0])
    assert listed["dispatches"][0]["gflops"] == pytest.approx(2000 / 2e-3 / 1e9)


def test_table(profile: Profile) -> None:
    lines = profile.to_table().splitlines()
    assert lines[0].split() == ["component", "kernel", "launches", "ms", "share", "GFLOP/s", "GB/s"]
    assert lines[1].split() == ["net", "affine", "4", "8.0", "66.7%", "0.0", "0.0"]
    assert len({len(line) for line in lines}) == 1
    assert len(profile.to_table("node", "op", top=1).splitlines()) == 2


def test_a_clock_that_saw_no_time_pass() -> None:
    profile = Profile({})
    profile.add(three_steps(4), [(1.0, 1.0)] * 3)
    assert profile.by("op")[0]["gflops"] == 0.0
    profile.clear()
    assert profile.to_json()["dispatches"] == []
