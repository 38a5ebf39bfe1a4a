"""diffusers' schedulers as a reference: widened to float64, with recorded noise, and without scipy or torchsde."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parity.gauss_legendre import GaussLegendre

from ondevice.diffusion.samplers import MODEL, NOISE, SamplerTable
from ondevice.diffusion.samplers.beta_quantile import beta_quantile

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
    "TCDScheduler": "tcd",
    "DEISMultistepScheduler": "deis_multistep",
    "KDPM2DiscreteScheduler": "k_dpm_2_discrete",
    "KDPM2AncestralDiscreteScheduler": "k_dpm_2_ancestral_discrete",
    "DPMSolverSinglestepScheduler": "dpmsolver_singlestep",
    "DPMSolverSDEScheduler": "dpmsolver_sde",
    "SASolverScheduler": "sasolver",
    "EDMEulerScheduler": "edm_euler",
    "EDMDPMSolverMultistepScheduler": "edm_dpmsolver_multistep",
    "CosineDPMSolverMultistepScheduler": "cosine_dpmsolver_multistep",
    "FlowMatchEulerDiscreteScheduler": "flow_match_euler_discrete",
    "FlowMatchHeunDiscreteScheduler": "flow_match_heun_discrete",
    "IPNDMScheduler": "ipndm",
}
WIDENED = (
    "sigmas", "alphas_cumprod", "final_alpha_cumprod", "sigmas_interpol", "sigmas_up", "sigmas_down", "alphas", "betas",
)  # fmt: skip
NOISES = np.random.default_rng(7).normal(size=(32, 16))
SHAPE = (1, 4, 2, 2)


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


class Tree:
    """Stands for a Brownian tree: independent parts of it are the draws, and a way to a step's end leads through its
    middle."""

    at = [0]
    drawn = [0]

    def __init__(self, *_: Any, **__: Any) -> None:
        self.middle = (0.0, 0.0)

    def __call__(self, sigma: Any, to: Any) -> Any:
        import torch

        self.drawn[0] += 1
        now, end = float(sigma), float(to)
        i = self.at[0]
        draw, (from_sigma, middle) = NOISES[i % 32], self.middle
        self.middle = (now, end)
        if now == from_sigma and i:
            first = (now - middle) ** 0.5 * NOISES[(i - 1) % 32]
            draw = (first + (middle - end) ** 0.5 * draw) / (now - end) ** 0.5
        return torch.from_numpy(draw.reshape(SHAPE))


def module_of(name: str, monkeypatch: pytest.MonkeyPatch, scipy: bool = True) -> ModuleType:
    """The module of a class. torchsde need not be there, nor scipy where `scipy` says that ours stands for it."""
    importlib.import_module("diffusers")  # which looks for what there is
    monkeypatch.setitem(sys.modules, "torchsde", sys.modules.get("torchsde") or ModuleType("torchsde"))
    module = importlib.import_module(f"diffusers.schedulers.scheduling_{MODULES[name]}")
    monkeypatch.setattr(module, "BrownianTreeNoiseSampler", Tree, raising=False)
    if not scipy:
        return module
    stats = SimpleNamespace(beta=SimpleNamespace(ppf=lambda p, a, b: beta_quantile(float(p), a)))
    monkeypatch.setattr(module, "scipy", SimpleNamespace(stats=stats), raising=False)
    monkeypatch.setattr(module, "is_scipy_available", lambda: True, raising=False)
    return module


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


def made(kind: Any, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A scheduler. Some prepare as many steps as the model was trained with, one sigma after another, for nothing."""
    import torch

    plain = kind.set_timesteps
    if kind.__name__ in ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"):
        monkeypatch.setattr(kind, "set_timesteps", lambda self, *_, **__: setattr(self, "sigmas", torch.zeros(1)))
    scheduler = kind.from_config(config)
    monkeypatch.setattr(kind, "set_timesteps", plain)
    return scheduler


def reference(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    config: dict[str, Any],
    steps: int,
    options: dict[str, Any],
    start: np.ndarray,
) -> Any:
    """(timesteps, samples, factors of `add_noise` where each call leads) of the diffusers class, or None where it fails
    or gives NaN."""
    import torch

    diffusers = pytest.importorskip("diffusers")
    module = module_of(name, monkeypatch)
    at = Tree.at
    at[0] = 0
    monkeypatch.setattr(
        module, "randn_tensor", lambda *_, **__: torch.from_numpy(NOISES[at[0] % 32].reshape(SHAPE)), raising=False
    )
    if name == "LMSDiscreteScheduler":
        monkeypatch.setattr(module, "integrate", GaussLegendre, raising=False)
    states, levels = [], []
    cut = [options.get(f"denoising_{end}") for end in ("start", "end")]
    try:
        scheduler = made(getattr(module, name), config, monkeypatch)
        given = {key: options[key] for key in ("timesteps", "mu") if key in options}
        given |= {"sigmas": np.array(options["sigmas"])} if "sigmas" in options else {}
        scheduler.set_timesteps(
            **({} if set(given) & {"sigmas", "timesteps"} else {"num_inference_steps": steps}), **given
        )
        for key in WIDENED:
            if hasattr(scheduler, key):
                setattr(scheduler, key, getattr(scheduler, key).double())
        first_noise = getattr(scheduler, "init_noise_sigma", 1.0) if cut[0] is None else 1.0
        x = torch.from_numpy(start.reshape(SHAPE)) * first_noise
        timesteps = scheduler.timesteps
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        if cut[0] is not None:
            get_timesteps = diffusers.StableDiffusionXLImg2ImgPipeline.get_timesteps
            timesteps, _ = get_timesteps(SimpleNamespace(scheduler=scheduler), steps, None, "cpu", cut[0])
        if cut[1] is not None:
            cutoff = round(scheduler.config.num_train_timesteps * (1 - cut[1]))
            timesteps = timesteps[: int((timesteps >= cutoff).sum())]
        one, zero = torch.ones(1).double(), torch.zeros(1).double()
        for i, t in enumerate(timesteps):
            at[0] = i
            seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            output = stand_in(seen, float(t))
            x = scheduler.step(output, t, x, return_dict=False, **{k: v for k, v in options.items() if k == "eta"})[0]
            states.append(x.double().numpy().ravel())
            to = timesteps[i + 1 : i + 2]
            if len(to) and hasattr(scheduler, "add_noise"):
                levels.append([float(scheduler.add_noise(*of, to)) for of in ((one, zero), (zero, one))])
            elif len(to) and hasattr(scheduler, "scale_noise"):
                levels.append([float(scheduler.scale_noise(of[0], to, of[1])) for of in ((one, zero), (zero, one))])
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
