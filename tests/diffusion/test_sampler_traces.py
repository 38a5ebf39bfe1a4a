"""Every table against trajectories recorded from diffusers 0.42.1 (tests/data/schedulers):
all samplers, step counts and points;
those that are younger (parity/record_traces.py) at fewer counts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from diffusion.sampler_helpers import CLIPPED, DATA, TRACES, linear_model, read_trace, replay_with_bound

from ondevice.diffusion.samplers import CLASSES, SAMPLERS, make_table, run_table
from ondevice.errors import UsageError

NOISE = np.array(json.loads((DATA / "schedulers" / "_inputs.json").read_text())["noise"], np.float32)

ATOL = {"dpm2": 1e-4, "dpm2_a": 1e-4}  # of timesteps, whose reference is torch's in float32 throughout


@pytest.mark.parametrize("name", [t for t in TRACES if t not in CLIPPED])
def test_table_follows_the_recorded_trajectory(name: str) -> None:
    trace = read_trace(name)
    assert [run["steps"] for run in trace["runs"]] in ([1, 4, 8, 20, 50], [1, 4, 20], [10])
    for run in trace["runs"]:
        table = make_table(CLASSES[trace["cls"]], run["steps"], trace["config_given"], **trace["step_kwargs"])
        # Between whole timesteps one is read off float32 logarithms of sigma, which move by about 0.1 per
        # timestep near zero.
        atol = ATOL.get(table.sampler, 5e-6)
        np.testing.assert_allclose([call.timestep for call in table.calls], run["timesteps"], rtol=2e-7, atol=atol)
        if table.sampler in ATOL:  # what follows is about samples
            calls = zip(table.calls, run["timesteps"], strict=True)
            table = replace(table, calls=tuple(replace(call, timestep=timestep) for call, timestep in calls))
        np.testing.assert_allclose(table.start_noise, run["init_noise_sigma"], rtol=2e-7)
        assert sum(call.draws_noise for call in table.calls) == run["noise_calls"]

        start = np.array(run["x_start"], np.float32)
        points: list[np.ndarray] = []
        run_table(table, linear_model, start, lambda i: NOISE[i % 8], lambda _, x, points=points: points.append(x))
        exact = replay_with_bound(table, start, NOISE)
        assert len(points) == len(run["trajectory"])
        for i, (got, want, (true, bound)) in enumerate(zip(points, run["trajectory"], exact, strict=True)):
            where = f"{name}, {run['steps']} steps, call {i}"
            want = np.array(want)
            largest = max(np.abs(start).max(), np.abs(want).max())
            assert (np.abs(want - true) <= bound + 1e-9).all(), (
                f"{where}: the reference is {np.abs(want - true).max():.2e} away"
            )
            assert (np.abs(got - true) <= bound).all(), f"{where}: the replay is {np.abs(got - true).max():.2e} away"
            assert np.abs(got - want).max() <= 3e-6 * largest, (
                f"{where}: {np.abs(got - want).max() / largest:.1e} of the largest value"
            )
            assert bound.max() <= 1e-4 * largest  # so the bound says something


@pytest.mark.parametrize("name", sorted(CLIPPED))
def test_clipping_is_refused_by_name(name: str) -> None:
    trace = read_trace(name)
    with pytest.raises(UsageError, match="clip_sample cannot be used"):
        make_table(CLASSES[trace["cls"]], 4, trace["config_given"])


def test_every_sampler_has_a_trace() -> None:
    assert {CLASSES[read_trace(name)["cls"]] for name in TRACES} == set(SAMPLERS)
