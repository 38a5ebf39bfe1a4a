"""How the passes of a call become one prediction:
classifier-free guidance and its kin, as a pipeline's `combine` says them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ondevice.bundle.pipeline import Combine, Loop, Pass, PipelineSpec


def with_ramps(spec: PipelineSpec, numbers: Mapping[str, Any], frames: int) -> dict[str, Any]:
    """The numbers, and the ramps between them as float32 [frames, 1, 1, 1]."""
    found = dict(numbers)
    for name, number in spec.numbers.items():
        if number.ramp is not None:
            first, last = (numbers[edge] for edge in number.ramp)
            step = (last - first) / (frames - 1) if frames > 1 else 0.0
            found[name] = (first + np.arange(frames) * step).astype(np.float32).reshape(-1, 1, 1, 1)
    return found


def passes_in_use(loop: Loop, numbers: Mapping[str, Any]) -> tuple[Pass, ...]:
    """All passes, or the one that runs alone where there is no guidance. Of a ramp, the largest counts."""
    guided = loop.guided
    if guided is None or np.max(numbers[guided.number]) > guided.above:
        return loop.passes
    return (loop.passes[guided.alone],)


def texts_in_use(spec: PipelineSpec, numbers: Mapping[str, Any]) -> list[str]:
    """The texts of all passes that run, in their order."""
    passes = (one for loop in spec.denoise for one in passes_in_use(loop, numbers))
    return list(dict.fromkeys(one.text for one in passes if one.text is not None))


def is_guided(spec: PipelineSpec, numbers: Mapping[str, Any]) -> bool:
    """Whether a call takes more than one pass, anywhere on the schedule."""
    return any(len(passes_in_use(loop, numbers)) > 1 for loop in spec.denoise)


Parts = Sequence[tuple[float, np.ndarray]]
"""The outputs of a pass, one per part of its text, each with that part's weight. Most texts have one part, of 1."""


def combined(loop: Loop, outputs: Sequence[Parts], numbers: Mapping[str, Any]) -> np.ndarray:
    """float32: one prediction of the outputs of all passes; of one pass that runs alone, it is the output."""
    if len(outputs) != len(loop.passes):
        return outputs[0][0][1]
    prediction = _sum(loop.combine, outputs, numbers)
    phi = np.float32(numbers[loop.rescale]) if loop.rescale is not None else np.float32(0)
    if phi == 0:
        return prediction
    _, plus, minus = loop.combine.add[-1]
    text = outputs[plus][0][1]
    if len(outputs[plus]) > 1:
        text = _added(outputs[minus][0][1], np.float32(1), outputs[plus], outputs[minus])
    return _rescaled(prediction, text, phi)


def _sum(combine: Combine, outputs: Sequence[Parts], numbers: Mapping[str, Any]) -> np.ndarray:
    total = outputs[combine.first][0][1]
    for number, plus, minus in combine.add:
        total = _added(total, np.float32(numbers[number]), outputs[plus], outputs[minus])
    return total


def _added(total: np.ndarray, factor: np.float32, plus: Parts, minus: Parts) -> np.ndarray:
    for weight, output in plus:
        total = total + factor * np.float32(weight) * (output - minus[0][1])
    return total


def _rescaled(prediction: np.ndarray, text: np.ndarray, phi: np.float32) -> np.ndarray:
    """Guidance makes a prediction's deviation larger than the model was trained for; this takes part `phi` of it back.

    Reference: "Common Diffusion Noise Schedules and Sample Steps are Flawed" (arXiv 2305.08891), section 3.4, as
    diffusers' `rescale_noise_cfg`.
    """
    # so that the order of a sum changes nothing
    scale = text.std(ddof=1, dtype=np.float64) / prediction.std(ddof=1, dtype=np.float64)
    return phi * (prediction * np.float32(scale)) + (np.float32(1) - phi) * prediction
