"""Shared by the sampler tests: a linear stand-in for the network, and the replay with its rounding bound."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.diffusion.samplers import MODEL, NOISE, WITHOUT_BETAS, SamplerTable

DATA = Path(__file__).resolve().parents[1] / "data"
TRACES = sorted(p.stem for p in (DATA / "schedulers").glob("*.json") if not p.stem.startswith("_"))
CLIPPED = {"ddpm_default_clip"}
SD15 = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def config_of(name: str, spacing: str | None = None) -> dict[str, Any]:
    """A config that a sampler takes: Stable Diffusion 1.5's where it has betas. `spacing` of timesteps, where it has
    one."""
    if name in WITHOUT_BETAS:
        return {}
    return SD15 if spacing is None else SD15 | {"timestep_spacing": spacing}


def read_trace(name: str) -> dict[str, Any]:
    return json.loads((DATA / "schedulers" / f"{name}.json").read_text())


def linear_model(x: np.ndarray, timestep: float) -> np.ndarray:
    """The stand-in that the stored traces were made with."""
    return np.float32(0.1) * x + np.float32(0.05 * math.sin(timestep))


# Roundings that the reference may make where a table has one row: it writes each step as several float32 operations,
# and takes the weight of fresh noise from differences of nearly equal numbers.
ROUNDINGS = 12
UNIT = 2.0**-24


def replay_with_bound(table: SamplerTable, start: np.ndarray, noise: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(sample, bound) after each call, in float64: how far a float32 run may be from exact arithmetic.

    Each row rounds ROUNDINGS times, by half a unit in the last place of its terms and of the sample it moves.
    Everything being linear, each such error reaches later samples by a known factor; the bound is the sum of |factor| *
    error over all rows.
    """
    rows = 2 * len(table.calls) + sum(len(call.rows) for call in table.calls)
    errors = np.zeros((1 + rows, start.size))
    errors[0] = UNIT * np.abs(start)
    count = 1
    slots = {0: (start.astype(np.float64), np.eye(1, 1 + rows)[0])}
    states = []
    for i, call in enumerate(table.calls):
        x, reach = slots[call.sample]
        slope, shift = 0.1 * call.input_scale, 0.05 * math.sin(call.timestep)
        output_reach = slope * reach
        output_reach[count] = 1.0
        errors[count] = UNIT * (4 * np.abs(slope * x) + 2 * abs(shift))
        count += 1
        sources = {
            MODEL: (slope * x + shift, output_reach),
            NOISE: (noise[i % len(noise)].astype(np.float64), np.zeros(1 + rows)),
        }
        for row in call.rows:
            terms = [(weight, *(sources | slots)[source]) for source, weight in row.terms]
            row_reach = sum((weight * r for weight, _, r in terms), np.zeros(1 + rows))
            row_reach[count] = 1.0
            errors[count] = ROUNDINGS * UNIT * (np.abs(x) + sum(abs(weight) * np.abs(v) for weight, v, _ in terms))
            count += 1
            slots[row.slot] = (sum((weight * v for weight, v, _ in terms), np.zeros(start.size)), row_reach)
        value, reach = slots[table.result if i + 1 == len(table.calls) else table.calls[i + 1].sample]
        states.append((value, np.abs(reach) @ errors))
    return states
