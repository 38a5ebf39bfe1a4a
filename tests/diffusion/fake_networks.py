"""Networks that run in the host's memory: what a pipeline needs of a session,
and the pipeline of Stable Diffusion 1.x around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ondevice.bundle.format import Checker
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.bundle.pipeline_file import parse_pipeline
from ondevice.converters.families import FAMILIES
from ondevice.diffusion.text.chunks import cut, padded
from ondevice.diffusion.text.emphasis import plain

COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


class Letters:
    """A tokenizer whose ids are a text's bytes; a comma is one."""

    bos, eos, pad, comma = 1, 2, 3, 44

    def __init__(self, length: int) -> None:
        self.length = length

    def piece(self, text: str) -> tuple[str, list[int], list[int]]:
        ids = list(text.encode())
        return text, ids, list(range(len(ids)))

    def __call__(self, text: str) -> np.ndarray:
        return padded(cut(plain(text), self).chunks[0], self)


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


@dataclass(frozen=True)
class Kept:
    """A value on a device that only `OtherDevice` reads."""

    array: np.ndarray


class OtherDevice(HostSession):
    """Values have a kind of their own, as those of `ondevice.run.session.Session`:
    what takes one for an array, or joins both, fails.

    Every run is in `runs`: component, batch, its inputs as arrays, and as they were given.
    """

    def __init__(self, network: Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
        self.network = network
        self.runs: list[tuple[str, int, dict[str, np.ndarray], Mapping[str, Any]]] = []
        self.reads = 0
        self.released: list[str] = []

    def run(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> dict[str, np.ndarray]:
        arrays = {name: self._array(value) for name, value in inputs.items()}
        self.runs.append((component, sizes.get("batch", 1), arrays, inputs))
        return self.network(component, arrays)

    def run_on(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> dict[str, Any]:
        return {name: Kept(array) for name, array in self.run(component, inputs, **sizes).items()}

    def read(self, value: Any) -> np.ndarray:
        assert isinstance(value, Kept)
        self.reads += 1
        return value.array

    def put(self, array: np.ndarray) -> Any:
        return Kept(array)

    def release(self, component: str) -> None:
        self.released.append(component)

    @staticmethod
    def _array(value: Any) -> np.ndarray:
        if isinstance(value, np.ndarray):
            return value
        values = [value] if isinstance(value, Kept) else value
        assert all(isinstance(one, Kept) for one in values)
        return np.concatenate([one.array for one in values])

    def of(self, component: str) -> list[dict[str, np.ndarray]]:
        """The inputs of a component's runs."""
        return [arrays for name, _, arrays, _ in self.runs if name == component]
