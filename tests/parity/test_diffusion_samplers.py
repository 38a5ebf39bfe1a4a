"""Tables against diffusers' schedulers with random configs, step counts and starts.

The schedulers' own tables are widened to float64 once they are made, so that what is compared is the formula and not
its rounding: UniPC's and DPM-Solver's third-order weights lose half their digits in float32.
"""

from __future__ import annotations

import importlib
import inspect
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parity.gauss_legendre import GaussLegendre

from ondevice.converters.families import FAMILIES
from ondevice.diffusion.samplers import CLASSES, MODEL, NOISE, SamplerTable, make_table
from ondevice.errors import UsageError

pytestmark = pytest.mark.parity

MODULES = {
    "PNDMScheduler": "pndm",
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler_discrete",
    "EulerAncestralDiscreteScheduler": "euler_ancestral_discrete",
    "DPMSolverMultistepScheduler": "dpmsolver_multistep",
    "HeunDiscreteScheduler": "heun_discrete",
    "LMSDiscreteScheduler": "lms_discrete",
    "UniPCMultistepScheduler": "unipc_multistep",
    "LCMScheduler": "lcm",
    "DDPMScheduler": "ddpm",
    "DDIMParallelScheduler": "ddim_parallel",
    "DDPMParallelScheduler": "ddpm_parallel",
}
NOISES = np.random.default_rng(7).normal(size=(32, 16))
SHAPE = (1, 4, 2, 2)


@pytest.fixture(autouse=True)
def rounded_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square roots as IEEE 754 has them. On some processors torch's are one bit off for a fifth of all numbers, which a
    sigma near zero or near infinity magnifies: a reference must not depend on the machine."""
    torch = pytest.importorskip("torch")
    plain = torch.Tensor.__pow__

    def root(x: Any) -> Any:
        return torch.from_numpy(np.sqrt(x.numpy(), out=np.empty(tuple(x.shape), x.numpy().dtype)))

    monkeypatch.setattr(torch.Tensor, "sqrt", root)
    monkeypatch.setattr(torch, "sqrt", root)
    monkeypatch.setattr(
        torch.Tensor,
        "__pow__",
        lambda x, power: root(x) if isinstance(power, float) and power == 0.5 else plain(x, power),
    )


def random_config(name: str, pick: random.Random) -> dict[str, Any]:
    """A config that the class takes. Half of the keys are left to their defaults."""
    sigmas = pick.choice([{}, {}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}])
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
            "algorithm_type": ["dpmsolver++", "sde-dpmsolver++"],
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
            "final_sigmas_type": ["zero", "sigma_min"],
            "rescale_betas_zero_snr": [True, False],
        },
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
    choices = {
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
    if name in (
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
        "UniPCMultistepScheduler",
        "DPMSolverMultistepScheduler",
    ):
        config |= sigmas
    return config | {"clip_sample": False}


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


def stand_in(x: Any, timestep: float) -> Any:
    return 0.3 * x + 0.2 * np.cos(timestep / 50)


def replay(table: SamplerTable, start: np.ndarray) -> list[np.ndarray]:
    """`run_table` in float64, the timesteps being what they are."""
    slots, states = {0: start}, []
    for i, call in enumerate(table.calls):
        sources = {MODEL: stand_in(slots[call.sample] * call.input_scale, call.timestep), NOISE: NOISES[i % 32]}
        for row in call.rows:
            slots[row.slot] = sum((w * (sources | slots)[s] for s, w in row.terms), np.zeros_like(start))
        states.append(slots[table.result if i + 1 == len(table.calls) else table.calls[i + 1].sample])
    return states


def reference(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    config: dict[str, Any],
    steps: int,
    options: dict[str, float],
    start: np.ndarray,
) -> Any:
    """(timesteps, samples, factors of `add_noise` where each call leads) of the diffusers class, or None where it fails
    or gives NaN."""
    import torch

    diffusers = pytest.importorskip("diffusers")
    module = importlib.import_module(f"diffusers.schedulers.scheduling_{MODULES[name]}")
    at = [0]
    monkeypatch.setattr(
        module, "randn_tensor", lambda *_, **__: torch.from_numpy(NOISES[at[0] % 32].reshape(SHAPE)), raising=False
    )
    if name == "LMSDiscreteScheduler":
        monkeypatch.setattr(module, "integrate", GaussLegendre, raising=False)
    states, levels = [], []
    cut = [options.get(f"denoising_{end}") for end in ("start", "end")]
    try:
        scheduler = getattr(module, name).from_config(config)
        scheduler.set_timesteps(steps)
        for key in ("sigmas", "alphas_cumprod", "final_alpha_cumprod"):
            if hasattr(scheduler, key):
                setattr(scheduler, key, getattr(scheduler, key).double())
        x = torch.from_numpy(start.reshape(SHAPE)) * (scheduler.init_noise_sigma if cut[0] is None else 1.0)
        timesteps = scheduler.timesteps
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        if cut[0] is not None:
            get_timesteps = diffusers.StableDiffusionXLImg2ImgPipeline.get_timesteps
            timesteps, _ = get_timesteps(SimpleNamespace(scheduler=scheduler), steps, None, "cpu", cut[0])
        if cut[1] is not None:
            timesteps = timesteps[timesteps >= round(len(scheduler.betas) * (1 - cut[1]))]
        one, zero = torch.ones(1).double(), torch.zeros(1).double()
        for i, t in enumerate(timesteps):
            at[0] = i
            output = stand_in(scheduler.scale_model_input(x, t), float(t))
            x = scheduler.step(output, t, x, return_dict=False, **{k: v for k, v in options.items() if k == "eta"})[0]
            states.append(x.double().numpy().ravel())
            if i + 1 < len(timesteps):
                to = timesteps[i + 1 : i + 2]
                levels.append([float(scheduler.add_noise(*of, to)) for of in ((one, zero), (zero, one))])
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        ImportError,
        NameError,
        RuntimeError,
        TypeError,
        ValueError,
    ):
        return None
    if not all(np.isfinite(state).all() for state in states):
        return None
    return ([float(t) for t in timesteps], states, levels) if states else None


def assert_same(table: SamplerTable, start: np.ndarray, want: Any, where: str) -> None:
    timesteps, states, levels = want
    np.testing.assert_allclose(table.noised[: len(levels)], levels, rtol=2e-6, atol=1e-7, err_msg=where)
    np.testing.assert_allclose([call.timestep for call in table.calls], timesteps, rtol=2e-7, atol=1e-4, err_msg=where)
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
    for _ in range(40):
        config, steps = random_config(name, pick), pick.choice([1, 2, 3, 4, 5, 7, 10, 14, 15, 16, 25, 37])
        options = {"eta": pick.choice([0.4, 1.0])} if name == "DDIMScheduler" and pick.random() < 0.6 else {}
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
    assert followed >= 20, f"{followed} followed, {refused} refused"


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
    "algorithm_type": ["dpmsolver", "sde-dpmsolver", "sde-dpmsolver++", "deis"],
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
}


REFUSED = {  # though diffusers draws with it
    *(
        "clip_sample True",
        "thresholding True",
        "prediction_type flow_prediction",
        "use_lu_lambdas True",
        "use_flow_sigmas True",
    ),
    *("predict_x0 False", "use_beta_sigmas True"),
}


@pytest.mark.parametrize("name", MODULES)
def test_every_key_of_every_class_is_followed_or_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One value other than the default at a time, of each key that the class has;
    no key of a later diffusers goes unnoticed."""
    pytest.importorskip("torch")
    kind = getattr(importlib.import_module(f"diffusers.schedulers.scheduling_{MODULES[name]}"), name)
    keys = set(inspect.signature(kind.__init__).parameters) - {"self"}
    start = np.random.default_rng(4).normal(size=16)
    refused = set()
    for key, value in [(k, v) for k in sorted(keys) for v in OTHERS[k]]:
        for more in (
            {"timestep_spacing": "leading"},
            {"use_karras_sigmas": True} if "use_karras_sigmas" in keys else {},
        ):
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
