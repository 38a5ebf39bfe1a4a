"""Tables as such: linear, whole, small, readable only if sound; and the options and errors of make_table."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from diffusion.sampler_helpers import SD15, config_of, linear_model
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.diffusion.samplers import MODEL, NOISE, SAMPLERS, Call, Row, SamplerTable, make_table, run_table
from ondevice.diffusion.samplers.beta_quantile import beta_quantile
from ondevice.errors import UsageError

STEPS = st.integers(1, 30)
NAMES = st.sampled_from(sorted(SAMPLERS))
SPACINGS = st.sampled_from(["leading", "linspace", "trailing"])


@settings(deadline=None, max_examples=80)
@given(NAMES, STEPS, SPACINGS, st.integers(0, 2**32 - 1))
def test_a_run_is_linear_in_start_and_noise(name: str, steps: int, spacing: str, seed: int) -> None:
    """run(a + b) = run(a) + run(b) for a linear model without shift:
    what makes a table of coefficients possible at all."""
    table = make_table(name, steps, config_of(name, spacing))
    rng = np.random.default_rng(seed)
    starts = rng.normal(size=(2, 5)).astype(np.float32) * table.start_noise
    noises = rng.normal(size=(2, len(table.calls), 5)).astype(np.float32)

    def run(start: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return run_table(table, lambda x, t: np.float32(math.cos(t)) * x, start, lambda i: noise[i])

    apart = run(starts[0], noises[0]) + run(starts[1], noises[1])
    together = run(starts[0] + starts[1], noises[0] + noises[1])
    largest = max(np.abs(apart).max(), np.abs(starts).max(), 1.0)
    assert np.abs(together - apart).max() <= 2e-4 * largest


@settings(deadline=None, max_examples=80)
@given(NAMES, STEPS, SPACINGS, st.sampled_from([None, 0.3, 0.99, 1.0]))
def test_json_keeps_every_bit(name: str, steps: int, spacing: str, strength: float | None) -> None:
    options = {} if strength is None or int(steps * strength) < 1 else {"strength": strength}
    table = make_table(name, steps, config_of(name, spacing), **options)
    assert SamplerTable.from_json(json.loads(json.dumps(table.to_json()))) == table
    assert table.slots <= 6 and len(table.calls) <= 2 * steps + 1
    assert all(0 <= call.timestep <= 1000 for call in table.calls) or name.startswith("edm")


def test_slots_are_few() -> None:
    slots = {name: make_table(name, 20, config_of(name)).slots for name in SAMPLERS}
    assert slots == {
        "pndm": 5, "ddim": 1, "euler": 1, "euler_a": 1, "dpmpp_2m": 3, "heun": 3, "lms": 5, "unipc": 4, "lcm": 1,
        "ddpm": 1, "tcd": 1, "deis": 3, "dpm2": 2, "dpm2_a": 2, "dpmpp_2s": 3, "dpmpp_sde": 3, "sa_solver": 4,
        "edm_euler": 1, "edm_dpmpp_2m": 3, "cosine_dpmpp_2m": 3, "flow_euler": 1, "flow_heun": 3, "ipndm": 5,
    }  # fmt: skip


def test_ddim_by_hand() -> None:
    """Two alphas, one step each, written out from the paper's equation 12."""
    config = {
        **SD15,
        "num_train_timesteps": 2,
        "trained_betas": [0.5, 0.5],
        "steps_offset": 0,
        "set_alpha_to_one": True,
    }
    table = make_table("ddim", 2, config)
    # From alpha 0.25 to alpha 0.5: x0 = (x - sqrt(.75) e) / .5, then sqrt(.5) x0 + sqrt(.5) e.
    (row,) = table.calls[0].rows
    assert dict(row.terms) == pytest.approx({0: 2**0.5, MODEL: 0.5**0.5 - 1.5**0.5})
    (row,) = table.calls[1].rows
    assert dict(row.terms) == pytest.approx({0: 2**0.5, MODEL: -1.0})


def test_rows_read_before_they_write_and_follow_each_other() -> None:
    call = Call(1.0, 0.5, 0, True, (Row(1, ((0, 2.0), (NOISE, 1.0))), Row(0, ((1, 1.0), (0, 1.0), (MODEL, 10.0)))))
    table = SamplerTable("made", 1, 2, 0.0, 1.0, (call,), 0)
    result = run_table(table, lambda x, _: x, np.array([4.0], np.float32), lambda _: np.array([0.25], np.float32))
    assert result == [4 + 8.25 + 10 * 2]


def test_orders_fall_at_the_end_of_few_steps_only() -> None:
    """A third-order solver's last row has x and one clean image, the row before it two;
    with 15 steps only the last falls."""
    for steps, last_rows in ((14, [4, 3, 2]), (15, [4, 4, 2])):
        table = make_table("dpmpp_2m", steps, SD15, solver_order=3, final_sigmas_type="sigma_min", euler_at_final=True)
        assert [len(call.rows[-1].terms) for call in table.calls[-3:]] == last_rows
    assert [len(call.rows[-1].terms) for call in table.calls[:3]] == [2, 3, 4]


def test_start_mixes_image_and_noise() -> None:
    table = make_table("ddim", 10, SD15, strength=0.5)
    noise, image = np.array([2.0]), np.array([3.0])
    assert table.start_image**2 + table.start_noise**2 == pytest.approx(1)
    assert table.start(noise, image) == pytest.approx(table.start_image * image + table.start_noise * noise)
    assert len(table.calls) == 5
    assert make_table("ddim", 10, SD15).start(noise) == noise


def test_the_first_noise_by_spacing() -> None:
    """Where the schedule's top is visited it is that sigma; with leading it also holds an image of unit variance."""
    first = {
        spacing: make_table("euler", 4, SD15, timestep_spacing=spacing).start_noise
        for spacing in ("leading", "linspace", "trailing")
    }
    assert first["linspace"] == first["trailing"] == pytest.approx(14.6146, rel=1e-5)
    top = make_table("euler", 4, SD15, timestep_spacing="leading", strength=1.0).start_noise
    assert first["leading"] == pytest.approx((top**2 + 1) ** 0.5) != top


def test_a_flag_of_null_is_off_and_an_option_wins_over_the_config() -> None:
    for value in (None, False):
        assert make_table("ddim", 4, SD15 | {"set_alpha_to_one": value}) == make_table("ddim", 4, SD15)
        assert make_table("ddim", 4, SD15, set_alpha_to_one=True) != make_table(
            "ddim", 4, SD15 | {"set_alpha_to_one": value}
        )


@pytest.mark.parametrize(
    ("name", "calls"), [("pndm", 21), ("heun", 39), ("euler", 20), ("unipc", 20)], ids=lambda value: str(value)
)
def test_calls_of_the_network(name: str, calls: int) -> None:
    assert len(make_table(name, 20, SD15).calls) == calls


def test_another_class_s_defaults_do_not_carry_over() -> None:
    """SD 1.5's file names no spacing: PNDM then uses leading and Euler linspace, as diffusers does on a swap."""
    assert make_table("pndm", 4, SD15).calls[0].timestep == 751
    assert make_table("euler", 4, SD15).calls[0].timestep == 999


@pytest.mark.parametrize(
    ("name", "steps", "options", "message"),
    [
        ("plms", 4, {}, "no such sampler"),
        ("ddim", 0, {}, "steps out of range"),
        ("ddim", 10**9, {}, "steps out of range"),
        ("ddim", 1.5, {}, "steps out of range"),
        ("ddim", True, {}, "steps out of range"),
        ("ddim", 4, {"use_karras_sigmas": True}, "no such option"),
        ("euler", 4, {"eta": 0.5}, "no such option"),
        ("ddim", 4, {"eta": 2.0}, "eta cannot be used"),
        ("ddim", 4, {"eta": float("nan")}, "eta cannot be used"),
        ("ddim", 4, {"clip_sample": True}, "clip_sample cannot be used"),
        ("lcm", 4, {"thresholding": True}, "thresholding cannot be used"),
        ("unipc", 4, {"thresholding": True}, "thresholding cannot be used"),
        ("dpmpp_2m", 4, {"thresholding": True}, "thresholding cannot be used"),
        ("heun", 4, {"clip_sample": True}, "clip_sample cannot be used"),
        ("pndm", 4, {"prediction_type": "sample"}, "prediction_type cannot be used"),
        ("pndm", 3, {"skip_prk_steps": False}, "skip_prk_steps cannot be used"),
        ("euler_a", 4, {"prediction_type": "sample"}, "prediction_type cannot be used"),
        ("euler", 4, {"timestep_spacing": "even"}, "timestep_spacing cannot be used"),
        ("euler", 4, {"beta_schedule": "sigmoid"}, "beta_schedule cannot be used"),
        ("euler", 4, {"beta_start": "0.1"}, "beta_start cannot be used"),
        ("euler", 4, {"beta_end": 2}, "beta_end cannot be used"),
        ("euler", 4, {"beta_end": -0.5}, "beta_end cannot be used"),
        ("euler", 4, {"num_train_timesteps": 10**9}, "num_train_timesteps cannot be used"),
        ("euler", 4, {"num_train_timesteps": 0}, "num_train_timesteps cannot be used"),
        ("euler", 4, {"trained_betas": [0.1]}, "trained_betas cannot be used"),
        ("euler", 4, {"num_train_timesteps": 2, "trained_betas": [0.1, "x"]}, "trained_betas cannot be used"),
        ("euler", 4, {"steps_offset": -1}, "steps_offset cannot be used"),
        (
            "euler",
            4,
            {"use_karras_sigmas": True, "use_exponential_sigmas": True},
            "use_exponential_sigmas cannot be used",
        ),
        ("euler", 4, {"use_karras_sigmas": 1}, "use_karras_sigmas cannot be used"),
        ("euler", 40, {"num_train_timesteps": 30}, "too many steps"),
        ("ddim", 40, {"num_train_timesteps": 30}, "too many steps"),
        ("unipc", 30, {"num_train_timesteps": 30, "timestep_spacing": "leading"}, "too many steps"),
        ("lcm", 51, {}, "too many steps"),
        ("ddim", 1000, {}, "the steps reach past the schedule"),
        ("ddim", 4, {"strength": 0.2}, "strength cannot be used"),
        ("ddim", 4, {"strength": 1.2}, "strength cannot be used"),
        ("ddim", 4, {"denoising_end": 0.1}, "denoising_end cannot be used .got 0.1, expected parts between which"),
        ("dpmpp_2m", 4, {"denoising_start": 1}, "denoising_start cannot be used .got 1, expected parts between which"),
        ("heun", 4, {"denoising_start": 0.6, "denoising_end": 0.3}, "denoising_start cannot be used"),
        ("ddim", 4, {"denoising_start": 0.6, "strength": 0.3}, "denoising_start cannot .* nothing beside strength"),
        ("ddim", 4, {"denoising_end": "0.8"}, "denoising_end cannot be used .got '0.8', expected a number from 0 to 1"),
        ("unipc", 4, {"solver_p": "ddim"}, "solver_p cannot be used"),
        ("unipc", 4, {"predict_x0": False}, "predict_x0 cannot be used .got False, expected true, unless"),
        ("unipc", 4, {"disable_corrector": 0}, "disable_corrector cannot be used"),
        ("unipc", 4, {"disable_corrector": [0, 1.5]}, "disable_corrector cannot be used"),
        ("dpmpp_2m", 4, {"algorithm_type": "dpmsolver"}, "algorithm_type cannot be used"),
        ("dpmpp_2m", 4, {"prediction_type": "flow_prediction"}, "prediction_type cannot be used"),
        (
            "dpmpp_2m",
            4,
            {"use_karras_sigmas": True, "sigmas": [9.0, 4.0, 2.0, 1.0]},
            "use_karras_sigmas cannot be used .* not sigmas too",
        ),
        (
            "euler",
            4,
            {"sigmas": [9.0, 4.0, 2.0]},
            "sigmas cannot be used .got a list of 3, expected 4 numbers, one per",
        ),
        ("euler", 3, {"sigmas": [9.0, 4.0, 4.0]}, "sigmas cannot be used .* falling numbers"),
        ("euler", 3, {"sigmas": [9.0, 0.0, 0.0]}, "sigmas cannot be used .* falling numbers"),
        ("euler", 2, {"timesteps": [1000, 4]}, "timesteps cannot be used .* falling numbers from 999 to 0"),
        ("euler", 2, {"timesteps": [900, 4], "ays": "sd"}, "ays cannot be used"),
        ("euler", 2, {"ays": "sd3"}, "ays cannot be used"),
        ("lcm", 2, {"timesteps": [900, 4.5]}, "timesteps cannot be used .* whole numbers"),
        ("tcd", 4, {"ays": "sd"}, "ays cannot be used .got 'sd', expected 10 steps"),
        ("ddim", 2, {"timesteps": [900, 4]}, "no such option"),
        ("dpmpp_2s", 4, {"timestep_spacing": "leading"}, "no such option"),
        ("dpmpp_2s", 4, {"algorithm_type": "sde-dpmsolver"}, "algorithm_type cannot be used"),
        ("deis", 4, {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type cannot be used"),
        ("flow_euler", 4, {}, "beta_start cannot be used .got 0.00085, expected none: this sampler is for models"),
        ("edm_euler", 4, {}, "beta_start cannot be used"),
        ("ddpm", 4, {"variance_type": "learned"}, "variance_type cannot be used"),
        ("dpmpp_2m", 4, {"variance_type": "learned"}, "variance_type cannot be used"),
        (
            "dpmpp_2m",
            4,
            {"lambda_min_clipped": 10**400},
            "lambda_min_clipped cannot be used .got a whole number of 1329 bits",
        ),
        (
            "dpmpp_2m",
            4,
            {"lambda_min_clipped": 1e300},
            "lambda_min_clipped cannot be used .got 1e.300, expected less than",
        ),
        ("unipc", 4, {"shift_terminal": 0.1}, "shift_terminal cannot be used"),
        ("unipc", 4, {"use_dynamic_shifting": True}, "use_dynamic_shifting cannot be used"),
        ("pndm", 4, {"y" * 5000: 1}, "no such option .got y{60}, expected beta_end"),
        ("ddim", 4, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, "divides by zero"),
    ],
)
def test_what_cannot_be_compiled_is_refused_by_name(
    name: str, steps: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make_table(name, steps, SD15, **options)
    assert len(str(caught.value)) <= 500


def test_alpha_after_the_last_step() -> None:
    """PNDM ends at the first alpha where `set_alpha_to_one` is absent, DDIM at one."""
    absent = {key: value for key, value in SD15.items() if key != "set_alpha_to_one"}
    for name, default in (("pndm", False), ("ddim", True)):
        rows = {value: make_table(name, 4, SD15, set_alpha_to_one=value).calls[-1].rows for value in (False, True)}
        assert make_table(name, 4, absent).calls[-1].rows == rows[default] != rows[not default]


def test_ddpm_draws_no_noise_at_timestep_0() -> None:
    for offset in (0, 1):
        last = make_table("ddpm", 4, SD15, steps_offset=offset).calls[-1]
        assert (last.timestep, last.draws_noise) == (offset, offset > 0)


def test_a_variance_type_of_null_is_ddpm_s_smallest() -> None:
    """As a config saved by DPMSolverMultistepScheduler has it; that class in turn does not mind DDPM's."""
    assert make_table("ddpm", 4, SD15 | {"variance_type": None}) == make_table("ddpm", 4, SD15)
    assert make_table("dpmpp_2m", 4, SD15 | {"variance_type": "fixed_small"}) == make_table("dpmpp_2m", 4, SD15)


def test_every_option_is_known_even_where_another_makes_it_idle() -> None:
    make_table("dpmpp_2m", 4, SD15, euler_at_final=True, final_sigmas_type="zero")
    make_table("euler", 4, SD15, sigma_min=0.1, sigma_max=9.0, final_sigmas_type="zero", timestep_type="continuous")
    make_table("unipc", 4, SD15, sigma_min=0.1, disable_corrector=[0], solver_p=None)


def test_trailing_steps_end_at_zero_or_above() -> None:
    """61 steps of 1000 round to 62, the last at -1, in diffusers."""
    for name, steps in (("ddim", 61), ("euler", 103), ("dpmpp_2m", 61)):
        timesteps = [call.timestep for call in make_table(name, steps, SD15, timestep_spacing="trailing").calls]
        assert len(timesteps) == steps and timesteps[-1] >= 0


NUMBERS = [0, 1, 2, 3, -1, 0.0, 0.5, 1e-9, 0.999, 30.0, 1e300, float("inf"), float("nan"), 10**40, 10**400]
WORDS = ("", "linear", "flow_prediction", "dpmsolver", "sd", "exponential", "sigma_min")
VALUES = st.sampled_from([*NUMBERS, None, True, False, *WORDS, [], {}, [0.1] * 20, [3, 2.0, 1e-9], [0.9, 0.0]])
KEYS = st.sampled_from(
    [
        *(
            "num_train_timesteps",
            "beta_start",
            "beta_end",
            "beta_schedule",
            "trained_betas",
            "prediction_type",
            "timestep_spacing",
        ),
        *(
            "steps_offset",
            "set_alpha_to_one",
            "skip_prk_steps",
            "clip_sample",
            "thresholding",
            "rescale_betas_zero_snr",
            "eta",
        ),
        *(
            "strength",
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "sigma_min",
            "sigma_max",
            "solver_order",
        ),
        *(
            "final_sigmas_type",
            "solver_type",
            "algorithm_type",
            "lower_order_final",
            "euler_at_final",
            "lambda_min_clipped",
        ),
        *(
            "disable_corrector",
            "solver_p",
            "original_inference_steps",
            "timestep_scaling",
            "variance_type",
            "interpolation_type",
        ),
        *(
            "timestep_type",
            "predict_x0",
            "use_flow_sigmas",
            "flow_shift",
            "use_dynamic_shifting",
            "mu",
            "image_seq_len",
        ),
        *("shift", "shift_terminal", "rho", "sigma_data", "sigma_schedule", "invert_sigmas", "time_shift_type"),
        *("predictor_order", "corrector_order", "sigmas", "timesteps", "ays", "denoising_start", "denoising_end"),
    ]
)


@settings(deadline=None, max_examples=400)
@given(NAMES, st.integers(1, 25), st.dictionaries(KEYS, VALUES, max_size=4), st.booleans())
def test_any_config_compiles_to_a_sound_table_or_is_refused(
    name: str, steps: int, changes: dict[str, Any], tiny: bool
) -> None:
    config = {**config_of(name), "num_train_timesteps": 20 if tiny else 1000, **changes}
    try:
        table = make_table(name, steps, config)
    except UsageError:
        return
    assert SamplerTable.from_json(json.loads(json.dumps(table.to_json()))) == table


def test_noise_is_asked_for_when_the_table_draws_it() -> None:
    with pytest.raises(ValueError, match="noise_fn"):
        run_table(make_table("ddim", 2, SD15, eta=1.0), linear_model, np.zeros(1, np.float32))


# scipy.stats.beta.ppf(p, 0.6, 0.6), of scipy 1.16
QUANTILES = {0.1: 0.03958440558878085, 0.25: 0.17568037865269498, 0.4: 0.3627009907532143, 0.75: 0.824319621347305}


def test_quantiles_of_the_beta_distribution() -> None:
    assert [beta_quantile(p, 0.6) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 0.5, 1.0], abs=1e-15)
    for p, x in QUANTILES.items():
        assert beta_quantile(p, 0.6) == pytest.approx(x, rel=1e-14)


def test_levels_as_a_list() -> None:
    """A 0 at the end may be written; the published ten steps are timesteps, other counts levels between them."""
    table = make_table("euler", 3, SD15, sigmas=[9.0, 2.5, 0.5])
    assert table == make_table("euler", 3, SD15, sigmas=[9.0, 2.5, 0.5, 0])
    assert [noise for _, noise in table.noised] == pytest.approx([2.5, 0.5, 0.0]) and table.start_noise == 9.0
    assert [call.timestep for call in make_table("dpmpp_2m", 10, SD15, ays="sdxl").calls] == [
        999, 845, 730, 587, 443, 310, 193, 116, 53, 13,
    ]  # fmt: skip
    levels = [noise for _, noise in make_table("euler", 20, SD15, ays="sd").begins]
    assert levels[::2] == pytest.approx([14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152])
    assert levels[1] == pytest.approx((14.615 * 6.475) ** 0.5)


def test_a_picture_s_size_moves_the_levels_of_flow_matching() -> None:
    """diffusers' `calculate_shift`, with the config's keys."""
    config = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    for length, mu in ((256, 0.5), (4096, 1.15), (1024, 0.63)):
        by_length = [call.timestep for call in make_table("flow_euler", 8, config, image_seq_len=length).calls]
        assert by_length == pytest.approx([call.timestep for call in make_table("flow_euler", 8, config, mu=mu).calls])
    with pytest.raises(UsageError, match=r"use_dynamic_shifting cannot be used .* the option mu or image_seq_len"):
        make_table("flow_euler", 8, config)
    with pytest.raises(UsageError, match="mu cannot be used"):
        make_table("flow_euler", 8, {}, mu=1.0)
