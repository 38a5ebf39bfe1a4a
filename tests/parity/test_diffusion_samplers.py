"""Tables against diffusers' schedulers with random configs, step counts and starts.

The schedulers' own tables are widened to float64 once they are made, so that what is compared is the formula and not
its rounding: UniPC's and DPM-Solver's third-order weights lose half their digits in float32.
"""

from __future__ import annotations

import inspect
import random
from typing import Any

import numpy as np
import pytest
from parity.schedulers import MODULES, SHAPE, module_of, reference, replay, rounded_roots, stand_in

from ondevice.converters.families import FAMILIES
from ondevice.diffusion.samplers import CLASSES, WITHOUT_BETAS, SamplerTable, make_table
from ondevice.diffusion.samplers.respacing import AYS
from ondevice.errors import UsageError

pytestmark = pytest.mark.parity


@pytest.fixture(autouse=True)
def same_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    rounded_roots(monkeypatch)


def random_config(name: str, pick: random.Random) -> dict[str, Any]:
    """A config that the class takes. Half of the keys are left to their defaults."""
    kinds = ("karras", "exponential", "beta")
    if name == "DPMSolverMultistepScheduler":
        kinds = (*kinds, "lu")
    sigmas = pick.choice([{}, {}, *({f"use_{kind}_{'lambdas' if kind == 'lu' else 'sigmas'}": True} for kind in kinds)])
    own: dict[str, dict[str, list[Any]]] = {
        "PNDMScheduler": {"skip_prk_steps": [True, False], "set_alpha_to_one": [True, False]},
        "DDIMScheduler": {"set_alpha_to_one": [True, False], "rescale_betas_zero_snr": [True, False]},
        "EulerDiscreteScheduler": {
            "interpolation_type": ["linear", "log_linear"],
            "final_sigmas_type": ["zero", "sigma_min"],
            "rescale_betas_zero_snr": [True, False],
            "timestep_type": ["discrete", "continuous"],
            "sigma_min": [None, 0.05],
            "sigma_max": [None, 30.0],
        },
        "EulerAncestralDiscreteScheduler": {"rescale_betas_zero_snr": [True, False]},
        "DPMSolverMultistepScheduler": {
            "solver_order": [1, 2, 3],
            "algorithm_type": ["dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver"],
            "solver_type": ["midpoint", "heun", "bh2"],
            "lower_order_final": [True, False],
            "euler_at_final": [True, False],
            "final_sigmas_type": ["zero", "sigma_min"],
            "lambda_min_clipped": [-5.1, -float("inf")],
            "rescale_betas_zero_snr": [True, False],
        },
        "HeunDiscreteScheduler": {"beta_schedule": ["linear", "exp"]},
        "UniPCMultistepScheduler": {
            "solver_order": [1, 2, 3],
            "solver_type": ["bh1", "bh2", "midpoint"],
            "lower_order_final": [True, False],
            "disable_corrector": [[], [0], [1, 3]],
            "predict_x0": [True, False],
            "final_sigmas_type": ["zero", "sigma_min"],
            "rescale_betas_zero_snr": [True, False],
        },
        "DEISMultistepScheduler": {
            "solver_order": [1, 2, 3],
            "lower_order_final": [True, False],
            "solver_type": ["logrho", "midpoint"],
        },
        "DPMSolverSinglestepScheduler": {
            "solver_order": [1, 2, 3],
            "algorithm_type": ["dpmsolver++", "sde-dpmsolver++", "dpmsolver"],
            "solver_type": ["midpoint", "heun"],
            "lower_order_final": [True, False],
            "final_sigmas_type": ["zero", "sigma_min", "sigma_min"],
            "lambda_min_clipped": [-5.1, -float("inf")],
        },
        "SASolverScheduler": {
            "predictor_order": [1, 2, 3],
            "corrector_order": [1, 2, 3],
            "algorithm_type": ["data_prediction", "noise_prediction"],
            "lower_order_final": [True, False],
        },
        "TCDScheduler": {"original_inference_steps": [50, 40], "rescale_betas_zero_snr": [True, False]},
        "LCMScheduler": {
            "original_inference_steps": [50, 40],
            "timestep_scaling": [10.0, 4.0],
            "rescale_betas_zero_snr": [True, False],
        },
        "DDPMScheduler": {
            "variance_type": ["fixed_small", "fixed_small_log", "fixed_large"],
            "beta_schedule": ["linear", "laplace", "sigmoid"],
            "rescale_betas_zero_snr": [True, False],
        },
    }
    choices = OTHER_KEYS.get(name) or {
        "num_train_timesteps": [1000, 500],
        "beta_start": [0.00085, 0.0015],
        "beta_end": [0.012, 0.0195],
        "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2"],
        "timestep_spacing": ["leading", "linspace", "trailing"],
        "steps_offset": [0, 1],
        "prediction_type": ["epsilon", "sample", "v_prediction"],
        **own.get(name.replace("Parallel", ""), {}),
    }
    config = {key: pick.choice(values) for key, values in choices.items() if pick.random() < 0.5}
    if name in WITH_FLOW and pick.random() < 0.15:
        config |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": pick.choice([1.0, 3.0])}
    elif name in WITH_CURVES:
        config |= sigmas
    return config | {"clip_sample": False}


WITH_FLOW = {
    "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler", "SASolverScheduler",
    "DPMSolverSinglestepScheduler",
}  # fmt: skip
WITH_CURVES = WITH_FLOW | {
    "EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler", "FlowMatchEulerDiscreteScheduler",
}  # fmt: skip
EDM: dict[str, list[Any]] = {
    "sigma_min": [0.002, 0.03], "sigma_max": [80.0, 14.0], "sigma_data": [0.5, 1.0], "rho": [7.0, 5.0],
    "sigma_schedule": ["karras", "exponential"], "prediction_type": ["epsilon", "v_prediction"],
    "final_sigmas_type": ["zero", "sigma_min"],
}  # fmt: skip
SOLVER: dict[str, list[Any]] = {
    "solver_order": [1, 2, 3], "solver_type": ["midpoint", "heun", "bh1"], "lower_order_final": [True, False],
    "euler_at_final": [True, False],
}  # fmt: skip
OTHER_KEYS: dict[str, dict[str, list[Any]]] = {
    "EDMEulerScheduler": EDM,
    "EDMDPMSolverMultistepScheduler": EDM | SOLVER | {"algorithm_type": ["dpmsolver++", "sde-dpmsolver++"]},
    "CosineDPMSolverMultistepScheduler": EDM | SOLVER | {"solver_order": [1, 2]},
    "FlowMatchEulerDiscreteScheduler": {
        "num_train_timesteps": [1000, 500], "shift": [1.0, 3.0], "shift_terminal": [None, 0.1],
        "invert_sigmas": [False, False, True], "stochastic_sampling": [False, True],
        "time_shift_type": ["exponential", "linear"],
    },
    "FlowMatchHeunDiscreteScheduler": {"num_train_timesteps": [1000, 500], "shift": [1.0, 3.0]},
    "IPNDMScheduler": {"num_train_timesteps": [1000, 500]},
}  # fmt: skip


def test_hyper_sds_one_step_is_lcms_at_800() -> None:
    """Its card draws by LCMScheduler at timesteps=[800]; here the leading schedule of one step begins there."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.LCMScheduler.from_config(FAMILIES["sdxl"].scheduler())
    scheduler.set_timesteps(timesteps=[800], device="cpu")
    start = np.random.default_rng(3).normal(size=SHAPE)
    predicted = stand_in(start, 800)
    expected = scheduler.step(torch.tensor(predicted), 800, torch.tensor(start)).prev_sample.numpy()
    table = make_table("euler", 1, FAMILIES["hyper-sd"].scheduler())
    assert [call.timestep for call in table.calls] == [800]
    assert np.abs(replay(table, start * table.start_noise)[-1] - expected).max() <= 1e-5 * np.abs(expected).max()


def assert_same(table: SamplerTable, start: np.ndarray, want: Any, where: str) -> None:
    timesteps, states, levels = want
    np.testing.assert_allclose(table.noised[: len(levels)], levels, rtol=2e-6, atol=1e-7, err_msg=where)
    # Middle timesteps are read off float32 logarithms of sigma, which tell little near zero.
    atol = 5e-3 if table.sampler.startswith("dpm2") else 1e-4
    np.testing.assert_allclose([call.timestep for call in table.calls], timesteps, rtol=2e-7, atol=atol, err_msg=where)
    largest = np.abs(start).max() * table.start_noise
    for got, state in zip(replay(table, start * table.start_noise), states, strict=True):
        largest = max(largest, np.abs(state).max())
        # The classes cast the sample to float32 at each step.
        assert np.abs(got - state).max() <= 5e-6 * largest, f"{np.abs(got - state).max() / largest:.1e} {where}"


@pytest.mark.parametrize("name", MODULES)
def test_random_configs_follow_diffusers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pick = random.Random(name)
    followed = refused = 0
    for _ in range(18):
        config, steps = random_config(name, pick), pick.choice([1, 2, 3, 4, 5, 7, 10, 14, 15, 16, 25, 37])
        options: dict[str, Any] = {}
        if name in ("DDIMScheduler", "TCDScheduler") and pick.random() < 0.6:
            options = {"eta": pick.choice([0.4, 1.0])}
        if not config.get("invert_sigmas"):
            options |= pick.choice([{}, {}, {"denoising_start": 0.7}, {"denoising_start": 0.3, "denoising_end": 0.85}])
        start = np.random.default_rng(steps).normal(size=16)
        want = reference(monkeypatch, name, config, steps, options, start)
        where = f"{name} {steps} steps, {options}, {config}"
        try:
            table = make_table(CLASSES[name], steps, config, **options)
        except UsageError as error:
            assert want is None, f"refused ({error}) what diffusers does: {where}"
            refused += 1
            continue
        if want is None:
            refused += 1
            continue
        assert_same(table, start, want, where)
        followed += 1
    assert followed >= 8, f"{followed} followed, {refused} refused"


OTHERS: dict[str, list[Any]] = {
    "num_train_timesteps": [400, 1001],
    "beta_start": [0.001, 0],
    "beta_end": [0.5, 0.999],
    "beta_schedule": ["scaled_linear", "squaredcos_cap_v2", "exp", "laplace", "sigmoid"],
    "trained_betas": [[i / 60000 for i in range(1, 1001)]],
    "prediction_type": ["sample", "v_prediction", "original_sample", "flow_prediction"],
    "timestep_spacing": ["leading", "linspace", "trailing"],
    "steps_offset": [1, 3],
    "rescale_betas_zero_snr": [True, None],
    "skip_prk_steps": [True, None],
    "set_alpha_to_one": [True, False, None],
    "clip_sample": [True, None],
    "thresholding": [True, None],
    "clip_sample_range": [0.5],
    "dynamic_thresholding_ratio": [0.5],
    "sample_max_value": [0.5],
    "interpolation_type": ["log_linear"],
    "use_karras_sigmas": [True, None],
    "use_exponential_sigmas": [True, None],
    "use_beta_sigmas": [True, None],
    "use_lu_lambdas": [True, None],
    "use_flow_sigmas": [True, None],
    "use_dynamic_shifting": [True, None],
    "flow_shift": [3.0],
    "shift_terminal": [0.1],
    "time_shift_type": ["linear"],
    "sigma_min": [0.05],
    "sigma_max": [10.0],
    "timestep_type": ["continuous"],
    "final_sigmas_type": ["sigma_min"],
    "solver_order": [1, 2, 3],
    "algorithm_type": ["dpmsolver", "sde-dpmsolver", "sde-dpmsolver++", "deis", "noise_prediction"],
    "solver_type": ["midpoint", "heun", "logrho", "bh1", "bh2"],
    "lower_order_final": [False, None],
    "euler_at_final": [True, None],
    "lambda_min_clipped": [-5.1, 0],
    "variance_type": [
        "learned",
        "learned_range",
        "fixed_small",
        "fixed_small_log",
        "fixed_large",
        "fixed_large_log",
        None,
    ],
    "predict_x0": [False],
    "disable_corrector": [[0, 2]],
    "solver_p": ["DDIM"],
    "original_inference_steps": [20],
    "timestep_scaling": [3.0],
    "shift": [3.0],
    "base_shift": [0.7],
    "max_shift": [1.3],
    "base_image_seq_len": [300],
    "max_image_seq_len": [5000],
    "invert_sigmas": [True],
    "stochastic_sampling": [True],
    "sigma_data": [1.0],
    "sigma_schedule": ["exponential", "karras"],
    "rho": [5.0],
    "predictor_order": [1, 3],
    "corrector_order": [1, 3],
    "tau_func": [],
    "noise_sampler_seed": [3],
}


REFUSED = {  # though diffusers draws with it
    "clip_sample True",
    "thresholding True",
    "prediction_type flow_prediction",  # without flow sigmas
}


@pytest.mark.parametrize("name", MODULES)
def test_every_key_of_every_class_is_followed_or_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One value other than the default at a time, of each key that the class has;
    no key of a later diffusers goes unnoticed."""
    pytest.importorskip("torch")
    kind = getattr(module_of(name, monkeypatch), name)
    keys = set(inspect.signature(kind.__init__).parameters) - {"self"}
    start = np.random.default_rng(4).normal(size=16)
    refused = set()
    for key, value in [(k, v) for k in sorted(keys) for v in OTHERS[k]]:
        for more in (
            {"timestep_spacing": "leading"},
            {"use_karras_sigmas": True} if "use_karras_sigmas" in keys else {},
        ):
            if CLASSES[name] in WITHOUT_BETAS and "timestep_spacing" in more:
                more = {}
            if (name, key) == ("IPNDMScheduler", "trained_betas"):
                continue  # refused: no model is known that has them
            config = {"clip_sample": False} | more | {key: value}
            where = f"{name} {config}"
            want = reference(monkeypatch, name, config, 8, {}, start)
            try:
                table = make_table(CLASSES[name], 8, config)
            except UsageError:
                refused |= {f"{key} {value}"} if want is not None else set()
                continue
            if want is not None:
                assert_same(table, start, want, where)
    assert refused <= REFUSED


GIVEN: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("EulerDiscreteScheduler", {}, {"sigmas": [14.6, 7.5, 2.0, 0.4, 0.0]}),
    ("EulerDiscreteScheduler", {}, {"timesteps": [999, 500, 20]}),
    ("HeunDiscreteScheduler", {}, {"timesteps": [999, 500, 20]}),
    ("DPMSolverMultistepScheduler", {"prediction_type": "v_prediction"}, {"timesteps": [999, 700, 500, 20]}),
    ("DPMSolverSinglestepScheduler", {}, {"timesteps": [999, 700, 500, 20]}),
    ("LCMScheduler", {}, {"timesteps": [999, 700, 500, 20]}),
    ("TCDScheduler", {}, {"timesteps": [999, 700, 500, 20]}),
    ("DDPMScheduler", {"clip_sample": False}, {"timesteps": [999, 700, 500, 20]}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {"sigmas": [1.0, 0.7, 0.2]}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, {"mu": 0.8}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "time_shift_type": "linear"}, {"mu": 3.0}),
    (
        "UniPCMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_dynamic_shifting": True},
        {"mu": 0.8},
    ),
    (
        "UniPCMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "shift_terminal": 0.1},
        {"sigmas": [0.9, 0.7, 0.2]},
    ),
    (
        "UniPCMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_karras_sigmas": True},
        {},
    ),
    (
        "DPMSolverMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_dynamic_shifting": True},
        {"mu": 0.8},
    ),
]


@pytest.mark.parametrize(("name", "config", "given"), GIVEN)
def test_what_set_timesteps_is_given(
    name: str, config: dict[str, Any], given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists of levels, and how far levels of flow matching are shifted."""
    pytest.importorskip("torch")
    listed = given.get("sigmas") or given.get("timesteps")
    steps = 6 if listed is None else len(listed) - (listed[-1] == 0)
    start = np.random.default_rng(steps).normal(size=16)
    want = reference(monkeypatch, name, config, steps, given, start)
    assert want is not None
    assert_same(make_table(CLASSES[name], steps, config, **given), start, want, f"{name} {config} {given}")


def test_the_published_levels_are_diffusers() -> None:
    from diffusers.schedulers import AysSchedules

    kinds = {"sd": "StableDiffusion", "sdxl": "StableDiffusionXL", "video": "StableDiffusionVideo"}
    for kind, (timesteps, sigmas) in AYS.items():
        assert [*sigmas[:-1], 0.0] == AysSchedules[f"{kinds[kind]}Sigmas"]
        assert list(timesteps) == AysSchedules.get(f"{kinds[kind]}Timesteps", [])
