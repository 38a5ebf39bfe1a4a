"""Records trajectories of diffusers' schedulers as tests/data/schedulers has them; needs diffusers and scipy.

python -m parity.record_traces [NAME ...]   (in tests/; all of TRACES without a name)

`_inputs.json` says what the model, the first sample and the draws are.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import schedulers

DATA = Path(__file__).resolve().parents[1] / "data" / "schedulers"
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SD15 = SD | {"steps_offset": 1, "timestep_spacing": "leading"}
STEPS = (1, 4, 20)
Trace = tuple[str, dict[str, Any], dict[str, Any]]
TRACES: dict[str, Trace] = {
    "flowmatch_heun_sd3": ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, {}),
    "flowmatch_euler_dynamic": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, {"mu": 0.9}),
    "flowmatch_euler_stochastic_karras": (
        "FlowMatchEulerDiscreteScheduler",
        {"shift": 3.0, "stochastic_sampling": True, "use_karras_sigmas": True},
        {},
    ),
    "edm_dpmpp_2m_default": ("EDMDPMSolverMultistepScheduler", {}, {}),
    "edm_dpmpp_2m_sde_exponential": (
        "EDMDPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "sigma_schedule": "exponential", "prediction_type": "v_prediction"},
        {},
    ),
    "cosine_dpmpp_2m_default": ("CosineDPMSolverMultistepScheduler", {}, {}),
    "dpm2_a_sd15": ("KDPM2AncestralDiscreteScheduler", SD15, {}),
    "dpmpp_sde_karras_sd15": ("DPMSolverSDEScheduler", SD15 | {"use_karras_sigmas": True}, {}),
    "dpmpp_3s_heun_sd15": ("DPMSolverSinglestepScheduler", SD | {"solver_order": 3, "solver_type": "heun"}, {}),
    "deis_sd15": ("DEISMultistepScheduler", SD15 | {"solver_order": 3}, {}),
    "tcd_sdxl": ("TCDScheduler", SD, {"eta": 0.3}),
    "sa_solver_sd15": ("SASolverScheduler", SD15, {}),
    "ipndm": ("IPNDMScheduler", {}, {}),
    "euler_beta_sd15": ("EulerDiscreteScheduler", SD15 | {"use_beta_sigmas": True}, {}),
    "dpmpp_2m_lu_sdxl": ("DPMSolverMultistepScheduler", SD15 | {"use_lu_lambdas": True}, {}),
    "unipc_flow": (
        "UniPCMultistepScheduler",
        {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"},
        {},
    ),
    "dpmpp_2m_ays_sd15": (
        "DPMSolverMultistepScheduler",
        SD,
        {"timesteps": [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]},
    ),
}
"""Name -> (class, config, what `set_timesteps` and `step` are given)."""


def rounded(values: Any) -> list[float]:
    return [float(f"{float(value):.9g}") for value in torch.as_tensor(values).flatten()]


def record(name: str, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """One trace: of each number of steps the timesteps and the sample after each call."""
    cls, config, options = TRACES[name]
    inputs = json.loads((DATA / "_inputs.json").read_text())
    noise = [torch.tensor(row).reshape(inputs["latent_shape"]) for row in inputs["noise"]]
    patch.setattr(schedulers, "NOISES", torch.stack(noise).repeat(4, 1, 1, 1, 1).reshape(32, 16).numpy())
    module = schedulers.module_of(name=cls, monkeypatch=patch, scipy=False)
    drawn, at = schedulers.Tree.drawn, schedulers.Tree.at

    def draw(*_: Any, **__: Any) -> torch.Tensor:
        drawn[0] += 1
        return noise[at[0] % 8]

    patch.setattr(module, "randn_tensor", draw, raising=False)
    runs = []
    for steps in [len(options["timesteps"])] if "timesteps" in options else STEPS:
        scheduler = getattr(module, cls).from_config(config)
        drawn[0] = 0
        given = {key: options[key] for key in ("timesteps", "mu") if key in options}
        scheduler.set_timesteps(**({} if "timesteps" in given else {"num_inference_steps": steps}), **given)
        first_noise = float(getattr(scheduler, "init_noise_sigma", 1.0))
        x = start = torch.tensor(inputs["x_init"]).reshape(inputs["latent_shape"]) * first_noise
        trajectory = []
        for i, t in enumerate(scheduler.timesteps):
            at[0] = i
            seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            output = 0.1 * seen + 0.05 * math.sin(float(t))
            x = scheduler.step(output, t, x, return_dict=False, **{k: options[k] for k in ("eta",) if k in options})[0]
            trajectory.append(rounded(x))
        runs.append(
            {
                "steps": steps,
                "timesteps": rounded(scheduler.timesteps),
                "init_noise_sigma": rounded(first_noise)[0],
                "x_start": rounded(start),
                "noise_calls": drawn[0],
                "trajectory": trajectory,
            }
        )
    return {"name": name, "cls": cls, "config_given": config, "step_kwargs": options, "runs": runs}


if __name__ == "__main__":
    for name in sys.argv[1:] or TRACES:
        with pytest.MonkeyPatch.context() as patch:
            (DATA / f"{name}.json").write_text(json.dumps(record(name, patch)) + "\n")
