"""What a key means that is in no config: the default of diffusers' class, one by one.
A config that names them all draws the same."""

from __future__ import annotations

from typing import Any

import pytest

from ondevice.diffusion.samplers import SAMPLERS, SamplerTable, make_table
from ondevice.errors import UsageError

# Key -> (diffusers' default, another value that gives another table or is refused, what else is set so that the
# key is not idle).
Row = tuple[Any, Any, dict[str, Any]]
LEADING, KARRAS = {"timestep_spacing": "leading"}, {"use_karras_sigmas": True}
COMMON: dict[str, Row] = {
    "num_train_timesteps": (1000, 500, {}),
    "beta_start": (0.0001, 0.001, {}),
    "beta_end": (0.02, 0.01, {}),
    "beta_schedule": ("linear", "scaled_linear", {}),
    "trained_betas": (None, [0.01] * 1000, {}),
    "prediction_type": ("epsilon", "v_prediction", {}),
    "timestep_spacing": ("linspace", "leading", {}),
    "steps_offset": (0, 1, LEADING),
}
WARM: dict[str, Row] = COMMON | {"timestep_spacing": ("leading", "trailing", {})}
STABLE: dict[str, Row] = {"beta_start": (0.00085, 0.001, {}), "beta_end": (0.012, 0.01, {})}
ZERO_SNR: dict[str, Row] = {"rescale_betas_zero_snr": (False, True, {})}
RESPACED: dict[str, Row] = {
    key: (False, True, {}) for key in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
}
LIMITS: dict[str, Row] = {"sigma_min": (None, 0.1, KARRAS), "sigma_max": (None, 9.0, KARRAS)}
LAST: dict[str, Row] = {"final_sigmas_type": ("zero", "sigma_min", {})}
CLIPPED: dict[str, Row] = {"thresholding": (False, True, {})}
FLOW: dict[str, Row] = {
    "use_flow_sigmas": (False, True, {}),
    "flow_shift": (1.0, 3.0, {"use_flow_sigmas": True}),
}
UNSPACED: dict[str, Row] = {key: row for key, row in COMMON.items() if key not in ("timestep_spacing", "steps_offset")}
EDM: dict[str, Row] = {
    "num_train_timesteps": (1000, 500, {}),
    "sigma_min": (0.002, 0.1, {}),
    "sigma_max": (80.0, 14.0, {}),
    "sigma_data": (0.5, 1.0, {}),
    "sigma_schedule": ("karras", "exponential", {}),
    "prediction_type": ("epsilon", "v_prediction", {}),
    "rho": (7.0, 5.0, {}),
    **LAST,
}
SOLVER: dict[str, Row] = {
    "solver_order": (2, 1, {}),
    "solver_type": ("midpoint", "heun", {}),
}
DYNAMIC = {"use_dynamic_shifting": True, "image_seq_len": 1000}
DEFAULTS: dict[str, dict[str, Row]] = {
    "pndm": WARM | {"set_alpha_to_one": (False, True, {}), "skip_prk_steps": (False, True, {})},
    "ddim": WARM | ZERO_SNR | CLIPPED | {"set_alpha_to_one": (True, False, {}), "eta": (0.0, 1.0, {})},
    "ddpm": WARM | ZERO_SNR | CLIPPED | {"variance_type": ("fixed_small", "fixed_large", {})},
    "lcm": {key: row for key, row in WARM.items() if key not in ("timestep_spacing", "steps_offset")}
    | {**STABLE, **ZERO_SNR, **CLIPPED}
    | {"beta_schedule": ("scaled_linear", "linear", {}), "clip_sample": (False, True, {})}
    | {"original_inference_steps": (50, 60, {}), "timestep_scaling": (10.0, 1.0, {})},
    "euler": COMMON | ZERO_SNR | RESPACED | LIMITS | LAST
    | {
        "interpolation_type": ("linear", "log_linear", {}),
        "timestep_type": ("discrete", "continuous", {"prediction_type": "v_prediction"}),
    },
    "euler_a": COMMON | ZERO_SNR,
    "heun": COMMON | STABLE | RESPACED | {"clip_sample": (False, True, {})},
    "lms": COMMON | RESPACED,
    "dpmpp_2m": COMMON | ZERO_SNR | RESPACED | LAST | CLIPPED
    | {key: (False, True, {}) for key in ("use_lu_lambdas", "use_flow_sigmas")}
    | {
        "solver_order": (2, 3, {}),
        "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", {}),
        "solver_type": ("midpoint", "heun", {}),
        "lower_order_final": (True, False, {"solver_order": 3}),
        "euler_at_final": (False, True, {"final_sigmas_type": "sigma_min", "lower_order_final": False}),
        "lambda_min_clipped": (float("-inf"), -3.0, {}),
    },
    "unipc": COMMON | ZERO_SNR | RESPACED | LIMITS | LAST | CLIPPED
    | {key: (False, True, {}) for key in ("use_flow_sigmas", "use_dynamic_shifting")}
    | {key: (None, 0.5, {}) for key in ("shift_terminal", "solver_p")}
    | {
        "solver_order": (2, 3, {}),
        "solver_type": ("bh2", "bh1", {}),
        "lower_order_final": (True, False, {}),
        "disable_corrector": ([], [2], {}),
        "predict_x0": (True, False, {}),
    },
    "tcd": {key: row for key, row in WARM.items() if key not in ("timestep_spacing", "steps_offset")}
    | {**STABLE, **ZERO_SNR, **CLIPPED}
    | {"beta_schedule": ("scaled_linear", "linear", {}), "clip_sample": (False, True, {})}
    | {"original_inference_steps": (50, 60, {}), "eta": (0.3, 0.0, {})},
    "deis": COMMON | RESPACED | CLIPPED | FLOW
    | {
        "solver_order": (2, 3, {}),
        "algorithm_type": ("deis", "sde-dpmsolver++", {}),
        "solver_type": ("logrho", "bh3", {}),
        "lower_order_final": (True, False, {}),
    },
    "dpm2": COMMON | STABLE | RESPACED,
    "dpm2_a": COMMON | STABLE | RESPACED,
    "dpmpp_sde": COMMON | STABLE | RESPACED,
    "dpmpp_2s": UNSPACED | RESPACED | LAST | CLIPPED | FLOW
    | {
        "solver_order": (2, 3, {}),
        "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", {}),
        "solver_type": ("midpoint", "heun", {}),
        "lower_order_final": (False, True, {"final_sigmas_type": "sigma_min"}),
        "lambda_min_clipped": (float("-inf"), -3.0, {}),
    },
    "sa_solver": COMMON | RESPACED | CLIPPED | FLOW
    | {
        "predictor_order": (2, 3, {}),
        "corrector_order": (2, 3, {}),
        "algorithm_type": ("data_prediction", "noise_prediction", {}),
        "lower_order_final": (True, False, {}),
        "lambda_min_clipped": (float("-inf"), -3.0, {}),
    },
    "edm_euler": EDM,
    "edm_dpmpp_2m": EDM | SOLVER | CLIPPED
    | {
        "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", {}),
        "lower_order_final": (True, False, {"solver_order": 3}),
    },
    "cosine_dpmpp_2m": EDM | SOLVER
    | {
        "sigma_min": (0.3, 0.1, {}),
        "sigma_max": (500, 100, {}),
        "sigma_data": (1.0, 0.5, {}),
        "sigma_schedule": ("exponential", "karras", {}),
        "prediction_type": ("v_prediction", "epsilon", {}),
        "rho": (7.0, 5.0, {"sigma_schedule": "karras"}),
    },
    "flow_euler": RESPACED
    | {
        "num_train_timesteps": (1000, 500, {}),
        "shift": (1.0, 3.0, {}),
        "shift_terminal": (None, 0.1, {}),
        "invert_sigmas": (False, True, {}),
        "stochastic_sampling": (False, True, {}),
        "use_dynamic_shifting": (False, True, {}),
        "time_shift_type": ("exponential", "linear", DYNAMIC),
        "base_shift": (0.5, 0.6, DYNAMIC),
        "max_shift": (1.15, 1.2, DYNAMIC),
        "base_image_seq_len": (256, 300, DYNAMIC),
        "max_image_seq_len": (4096, 5000, DYNAMIC),
    },
    "flow_heun": {"num_train_timesteps": (1000, 500, {}), "shift": (1.0, 3.0, {})},
    "ipndm": {"num_train_timesteps": (1000, 500, {})},
}  # fmt: skip


def made(name: str, config: dict[str, Any]) -> SamplerTable | str:
    try:
        return make_table(name, 10, config | ({"clip_sample": False} if name in ("ddim", "ddpm") else {}))
    except UsageError as error:
        return str(error)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_key_that_is_absent_has_its_default_and_no_other_value(name: str) -> None:
    rows = DEFAULTS[name]
    plain = made(name, {key: default for key, (default, _, _) in rows.items()})
    assert isinstance(plain, SamplerTable) and made(name, {}) == plain
    for key, (default, other, context) in rows.items():
        absent = made(name, context)
        assert isinstance(absent, SamplerTable) and made(name, context | {key: default}) == absent, key
        assert made(name, context | {key: other}) != absent, f"{key} is idle"


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_classes_that_clip_where_nothing_is_said_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"clip_sample cannot be used \(got nothing, expected false or none\)"):
        make_table(name, 4, {})
