"""Samplers, compiled to tables of coefficients that a player replays without knowing any sampler.

`make_table("pndm", 20, scheduler_config)` -> SamplerTable; `run_table` replays it in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ondevice.diffusion.samplers.alphas import ddim, ddpm, lcm, tcd
from ondevice.diffusion.samplers.deis import deis
from ondevice.diffusion.samplers.dpm2 import dpm2, dpm2_a, dpmpp_sde
from ondevice.diffusion.samplers.edm import cosine_dpmpp_2m, edm_dpmpp_2m, edm_euler
from ondevice.diffusion.samplers.flow import flow_euler, flow_heun
from ondevice.diffusion.samplers.multistep import dpmpp_2m
from ondevice.diffusion.samplers.pndm import ipndm, pndm
from ondevice.diffusion.samplers.sa_solver import sa_solver
from ondevice.diffusion.samplers.settings import Settings, shown
from ondevice.diffusion.samplers.sigmas import euler, euler_a, heun, lms
from ondevice.diffusion.samplers.singlestep import dpmpp_2s
from ondevice.diffusion.samplers.table import MODEL, NOISE, Call, Row, SamplerTable, run_table
from ondevice.diffusion.samplers.unipc import unipc
from ondevice.errors import UsageError

__all__ = ["MODEL", "NOISE", "SAMPLERS", "WITHOUT_BETAS", "Call", "Row", "SamplerTable", "make_table", "run_table"]

SAMPLERS: dict[str, Callable[[Settings, int], SamplerTable]] = {
    "pndm": pndm,
    "ddim": ddim,
    "euler": euler,
    "euler_a": euler_a,
    "dpmpp_2m": dpmpp_2m,
    "heun": heun,
    "lms": lms,
    "unipc": unipc,
    "lcm": lcm,
    "ddpm": ddpm,
    "tcd": tcd,
    "deis": deis,
    "dpm2": dpm2,
    "dpm2_a": dpm2_a,
    "dpmpp_2s": dpmpp_2s,
    "dpmpp_sde": dpmpp_sde,
    "sa_solver": sa_solver,
    "edm_euler": edm_euler,
    "edm_dpmpp_2m": edm_dpmpp_2m,
    "cosine_dpmpp_2m": cosine_dpmpp_2m,
    "flow_euler": flow_euler,
    "flow_heun": flow_heun,
    "ipndm": ipndm,
}
"""The samplers by the name that `--sampler` takes."""

WITHOUT_BETAS = ("flow_euler", "flow_heun", "edm_euler", "edm_dpmpp_2m", "cosine_dpmpp_2m", "ipndm")
"""Those for models that were not trained on a schedule of betas; they refuse a config that has one."""

FLOW = ("flow_euler", "flow_heun")
"""Those of models that say where a sample moves; no other sampler draws a picture with such a model."""

CLASSES = {
    "PNDMScheduler": "pndm",
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "HeunDiscreteScheduler": "heun",
    "LMSDiscreteScheduler": "lms",
    "UniPCMultistepScheduler": "unipc",
    "LCMScheduler": "lcm",
    "DDPMScheduler": "ddpm",
    "TCDScheduler": "tcd",
    "DEISMultistepScheduler": "deis",
    "KDPM2DiscreteScheduler": "dpm2",
    "KDPM2AncestralDiscreteScheduler": "dpm2_a",
    "DPMSolverSinglestepScheduler": "dpmpp_2s",
    "DPMSolverSDEScheduler": "dpmpp_sde",
    "SASolverScheduler": "sa_solver",
    "EDMEulerScheduler": "edm_euler",
    "EDMDPMSolverMultistepScheduler": "edm_dpmpp_2m",
    "CosineDPMSolverMultistepScheduler": "cosine_dpmpp_2m",
    "FlowMatchEulerDiscreteScheduler": "flow_euler",
    "FlowMatchHeunDiscreteScheduler": "flow_heun",
    "IPNDMScheduler": "ipndm",
    "DDIMParallelScheduler": "ddim",  # these two add what other pipelines use
    "DDPMParallelScheduler": "ddpm",
}
"""diffusers' class names, as scheduler_config.json's `_class_name` has them."""

MAX_STEPS = 1000


def make_table(name: str, steps: int, config: Mapping[str, Any], **options: Any) -> SamplerTable:
    """Compiles a sampler.

    `config`: a scheduler_config.json, written for whichever sampler. `options`: any of its keys, overriding it
    (`timestep_spacing`, `use_karras_sigmas`, `prediction_type`, ...), and what no config has (docs/samplers.md):
    `eta`, `strength`, `strength_rounds`, `denoising_start`, `denoising_end`, `sigmas`, `timesteps`, `ays`, `mu`,
    `image_seq_len`.

    Raises:
        UsageError: a name, a number of steps, a key or a value cannot be used.
    """
    if name not in SAMPLERS:
        raise UsageError(
            f"no such sampler (got {shown(name)!r}, expected one of {', '.join(SAMPLERS)})",
            where="sampler",
            fix="choose one",
        )
    if type(steps) is not int or not 1 <= steps <= MAX_STEPS:
        raise UsageError(
            f"steps out of range (got {shown(steps)}, expected 1 to {MAX_STEPS})",
            where=f"sampler {name}",
            fix="choose 1 to 100",
        )
    trained = config.get("_class_name")
    if isinstance(trained, str) and CLASSES.get(trained) in FLOW and name not in FLOW:
        raise UsageError(
            f"the model was trained for flow matching (its scheduler is a {trained})",
            where=f"sampler {name}",
            fix=f"use {' or '.join(FLOW)}",
        )
    settings = Settings(name, config, options)
    try:
        with np.errstate(all="ignore"):
            table = SAMPLERS[name](settings, steps)
    except (ArithmeticError, ValueError) as error:
        raise UsageError(
            f"these settings give a step that cannot be computed ({error})",
            where=f"sampler {name}",
            fix="use fewer steps or check the betas",
        ) from error
    settings.check_options()
    return table
