"""Networks that run in the host's memory: what a pipeline needs of a session, and the pipeline of Stable Diffusion 1.x around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ondevice.bundle.format import Checker
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.bundle.pipeline_file import parse_pipeline
from ondevice.converters.families import FAMILIES

COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


class HostSession:
    """Values stay where they are. A subclass has `run`."""

    def run(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def run_on(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> dict[str, np.ndarray]:
        return self.run(component, inputs, **sizes)

    def read(self, value: np.ndarray) -> np.ndarray:
        return value

    def put(self, array: np.ndarray) -> np.ndarray:
        return array

    def release(self, component: str) -> None: ...


def spec_of(scale: int = 8, scaling: float = 0.18215, sampler: str = "pndm", steps: int = 20) -> PipelineSpec:
    """The pipeline of Stable Diffusion 1.x."""
    vae = {"latent_channels": 4, "block_out_channels": [1] * scale.bit_length(), "scaling_factor": scaling}
    family = FAMILIES["sd14"]
    value = family.pipeline(family, {"vae": vae}) | {"sampler": {"name": sampler, "steps": steps}}
    return parse_pipeline(Checker("test"), value, COMPONENTS, ["tokenizer"], [f"{sampler}_{steps}"])


def plans_at(height: int, width: int, batches: Sequence[int] = (1, 2)) -> dict[str, list[dict[str, int]]]:
    """Plans of one size in latents."""
    place = {"height": height, "width": width}
    found = {component: [{"batch": 1} | place] for component in ("vae_decoder", "vae_encoder")}
    return found | {"text_encoder": [{"batch": 1}], "unet": [{"batch": batch} | place for batch in batches]}
