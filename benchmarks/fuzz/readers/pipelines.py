"""Pipelines of bundles, with the names that the rest of a manifest has: read, and what is read is replayed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from diffusion.fake_networks import HostSession
from diffusion.sampler_helpers import SD15

from benchmarks.fuzz.mutate.values import json_value
from benchmarks.fuzz.reader import Reader, holds
from ondevice.bundle.format import Checker, load_json
from ondevice.bundle.pipeline import LATENTS, RATES, TIMESTEP, InitialNoise, PipelineSpec, Sample, feed_rate
from ondevice.bundle.pipeline_file import parse_pipeline
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Request

_GOLDEN = Path(__file__).resolve().parents[3] / "tests" / "golden" / "pipeline"
_NAMES = ("components", "tokenizers", "samplers")
_STEPS = 4


def _seeds() -> list[bytes]:
    """Those of other families, and one of them in words that the Python player has."""
    found = {
        path.stem: json.loads(path.read_text()) for path in sorted(_GOLDEN.glob("*.json")) if path.stem != "refused"
    }
    here = json.loads(json.dumps(found["controlnet"]))
    here["pipeline"]["pictures"] = {"image": {"prepare": "fit"}}
    here["pipeline"]["denoise"][0]["roles"][0]["feed"]["control"] = {"picture": "image"}
    return [json.dumps(value).encode() for value in (*found.values(), here)]


def _read(data: bytes, _folder: Path) -> None:
    whole = load_json(data, "pipeline.json")
    if not isinstance(whole, dict):
        return
    names = [[str(name) for name in whole[key]] if isinstance(whole.get(key), list) else [] for key in _NAMES]
    spec = parse_pipeline(Checker("bundle.json"), whole.get("pipeline"), *names)
    values = {LATENTS, TIMESTEP}
    for role in spec.roles():
        holds(role.component in names[0], "a role runs what is not there")
        rates = {feed_rate(feed, spec.rates, spec.numbers) for feed in role.feed.values()}
        holds(rates <= {*RATES}, "a port changes at no known rate")
        values |= set(role.keep.values())
    values |= {step.keep for step in spec.before if isinstance(step, Sample)}
    holds(values == spec.rates.keys(), "what is made and what is known are not the same values")
    holds(sum(isinstance(step, InitialNoise) for step in spec.before) <= 1, "noise is drawn twice")
    _replay(spec)


def _replay(spec: PipelineSpec) -> None:
    """A pipeline in words that are here draws something, or says what it lacks."""
    side, tokens = (
        2 * spec.latents.scale,
        {feed.name for role in spec.roles() for feed in role.feed.values() if feed.kind == "tokens"},
    )
    session = _AnyNetwork(spec)
    plans = {role.component: [{"batch": 1, "height": 2, "width": 2}] for role in spec.roles()}
    pipeline = Pipeline(spec, session, dict.fromkeys(tokens, _Letters()), SD15, plans=plans, size=(side, side))
    image = np.zeros((side, side, 3), np.uint8) if "image" in spec.pictures else None
    with np.errstate(all="ignore"):  # numbers of up to 1e38 multiply
        picture = pipeline.draw(
            Request(prompt="x", num_inference_steps=_STEPS, sampler="ddim", image=image, strength=None)
        )
    holds(picture.pixels.shape == (side, side, 3), "a picture has another size")


class _Letters:
    """A tokenizer whose texts have one letter at most."""

    bos = eos = pad = 0
    comma, length = None, 3

    def piece(self, text: str) -> tuple[str, list[int], list[int]]:
        return text, [0] * len(text), [*range(len(text))]


class _AnyNetwork(HostSession):
    """Makes zeros of the shapes that docs/pipeline.md gives; refuses ports that no role of the pipeline has."""

    def __init__(self, spec: PipelineSpec) -> None:
        self.spec = spec

    def run(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> dict[str, np.ndarray]:
        role = next(
            role for role in self.spec.roles() if role.component == component and role.feed.keys() == inputs.keys()
        )
        holds(all(isinstance(value, np.ndarray) for value in inputs.values()), "a port is fed with nothing")
        roles = [
            other
            for other in self.spec.roles()
            if (other.component, other.feed.keys()) == (component, role.feed.keys())
        ]
        return {port: np.zeros(self._shape(name), np.float32) for other in roles for port, name in other.keep.items()}

    def _shape(self, value: str) -> tuple[int, ...]:
        base = self.spec.latents
        if value == self.spec.gives:
            return 1, 3, 2 * base.scale, 2 * base.scale
        moments = {step.moments for step in self.spec.before if isinstance(step, Sample)}
        return 1, base.channels * (2 if value in moments else 1), 2, 2


READERS = (Reader("pipeline", _seeds, json_value, _read),)
