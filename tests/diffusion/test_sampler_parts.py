"""Parts of a schedule: a run that begins at a picture, one that is left to a refiner, and what is noised on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from diffusion.sampler_helpers import SD15, config_of, linear_model
from diffusion.test_sampler_tables import NAMES, SPACINGS, STEPS
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.diffusion.samplers import WITHOUT_BETAS, SamplerTable, make_table, run_table

MEMORYLESS = ("ddim", "euler", "euler_a", "lcm", "ddpm", "tcd", "edm_euler", "flow_euler")
TWO_CALLS = ("heun", "dpm2", "dpm2_a", "dpmpp_sde", "flow_heun")


@settings(deadline=None, max_examples=150)
@given(NAMES, STEPS, SPACINGS, st.floats(0.0, 1.0), st.sampled_from(["epsilon", "v_prediction"]))
def test_a_run_begins_at_a_call_as_with_that_strength(
    name: str, steps: int, spacing: str, strength: float, prediction: str
) -> None:
    """What a player without Python does with `begins` is what `strength` gives, to the last bit."""
    config = config_of(name, spacing) | ({} if name in WITHOUT_BETAS else {"prediction_type": prediction})
    table = make_table(name, steps, config)
    assert len(table.begins) == (len(table.calls) if name in MEMORYLESS else 0)
    left = int(steps * strength)
    if left >= 1 and table.begins:
        image, noise = table.begins[steps - left]
        rest = replace(
            table,
            start_image=image,
            start_noise=noise,
            calls=table.calls[steps - left :],
            begins=table.begins[steps - left :],
            noised=table.noised[steps - left :],
        )
        assert rest == make_table(name, steps, config, strength=strength)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddim", {"eta": 0.7}),
        ("ddim", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
        ("euler", {"use_karras_sigmas": True}),
        ("euler", {"interpolation_type": "log_linear", "final_sigmas_type": "sigma_min"}),
        ("euler_a", {"rescale_betas_zero_snr": True}),
        ("ddpm", {"variance_type": "fixed_large"}),
    ],
)
def test_a_run_begins_at_every_call_whatever_the_options(name: str, options: dict[str, Any]) -> None:
    table = make_table(name, 10, SD15, **options)
    assert len(table.begins) == len(table.calls) == 10
    for call in range(10):
        begun = make_table(name, 10, SD15, strength=(10 - call) / 10, **options)
        assert (begun.calls, (begun.start_image, begun.start_noise)) == (table.calls[call:], table.begins[call])


def test_tables_of_older_bundles_are_read() -> None:
    data = make_table("ddim", 3, SD15).to_json()
    old = {key: value for key, value in data.items() if key not in ("begins", "noised", "train_steps")}
    table = SamplerTable.from_json(old)
    assert (table.begins, table.noised, table.train_steps) == ((), (), None)
    assert table.to_json() == old | {"begins": [], "noised": []}


@settings(deadline=None, max_examples=80)
@given(NAMES, STEPS, SPACINGS, st.floats(0.0, 1.0))
def test_a_schedule_in_two_parts(name: str, steps: int, spacing: str, part: float) -> None:
    """What a base model leaves to a refiner, as players cut it: by timesteps, and to the last bit."""
    table = make_table(name, steps, config_of(name, spacing))
    assert len(table.noised) == len(table.calls) and table.noised[-1] == (1.0, 0.0) and table.train_steps == 1000
    if table.begins:
        assert table.noised[:-1] == table.begins[1:]
    timesteps = [call.timestep for call in table.calls]
    cutoff = round(1000 - part * 1000)
    made = sum(t >= cutoff for t in timesteps) if part else len(timesteps)
    if made:
        upper = make_table(name, steps, config_of(name, spacing), denoising_end=part)
        assert [call.timestep for call in upper.calls] == timesteps[:made] and upper.noised == table.noised[:made]
        assert (upper.start_image, upper.start_noise) == (table.start_image, table.start_noise)
        start = np.ones(3, np.float32)
        samples: list[np.ndarray] = []

        def run(table: SamplerTable) -> np.ndarray:
            keep = lambda _, x: samples.append(x.copy())  # noqa: E731
            return run_table(table, linear_model, start, lambda i: np.full(3, i, np.float32), keep)

        run(table)
        assert np.array_equal(run(upper), samples[made - 1])
    left = sum(t < cutoff for t in timesteps)
    left += name in TWO_CALLS and left % 2 == 0
    if left:
        lower = make_table(name, steps, config_of(name, spacing), denoising_start=part)
        assert [call.timestep for call in lower.calls] == timesteps[len(timesteps) - left :]
        assert (lower.start_image, lower.start_noise) == (0.0, 1.0) and lower.noised == table.noised[-left:]
        if table.begins:
            assert lower.calls == table.calls[-left:]


@pytest.mark.parametrize("strength", [0.05, 0.3, 0.51, 0.55, 0.7, 0.8, 0.999, 1.0])
def test_or_up_where_a_pipeline_says_so(strength: float) -> None:
    """As diffusers' pipeline of Stable Diffusion 3: `t_start = int(max(steps - min(steps * strength, steps), 0))`."""
    whole, start = make_table("ddim", 20, SD15), int(max(20 - min(20 * strength, 20), 0))
    found = make_table("ddim", 20, SD15, strength=strength, strength_rounds="up")
    assert [call.timestep for call in found.calls] == [call.timestep for call in whole.calls[start:]]


@pytest.mark.parametrize(
    ("name", "strength", "calls"), [("ddim", 0.55, 5), ("ddim", 0.59, 5), ("ddim", 1.0, 10), ("heun", 0.5, 9)]
)
def test_a_strength_is_rounded_down_to_steps(name: str, strength: float, calls: int) -> None:
    whole = make_table(name, 10, SD15)
    assert [call.timestep for call in make_table(name, 10, SD15, strength=strength).calls] == [
        c.timestep for c in whole.calls[-calls:]
    ]
