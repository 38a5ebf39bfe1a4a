"""Pictures of a model that is trained, drawn by this package's own runtime: for validation, and of a class for
DreamBooth's prior."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ondevice.api import Pipeline, opened
from ondevice.compiler import Recipe, compile_bundle
from ondevice.diffusion.request import Picture


@dataclass(frozen=True, slots=True)
class Asked:
    """What is drawn: `count` pictures of a prompt, with seeds from `seed` on, of `side` pixels each way, by a sampler
    or the model's own."""

    prompt: str
    count: int
    side: int
    steps: int = 25
    guidance: float | None = None
    seed: int = 0
    sampler: str | None = None

    def by(self, pipeline: Pipeline) -> Iterator[Picture]:
        """The pictures, one after the other."""
        for number in range(self.count):
            yield pipeline(
                self.prompt,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                seed=self.seed + number,
                sampler=self.sampler,
                width=self.side,
                height=self.side,
            )


@contextmanager
def drawing(source: str, side: int, revision: str | None = None) -> Iterator[Pipeline]:
    """A model's pipeline on this machine's device, from a bundle that is gone when the block ends.
    Raises OnDeviceError where it cannot be converted, or there is nothing to run it on."""
    with tempfile.TemporaryDirectory(prefix="ondevice-train-") as folder:
        path = compile_bundle(
            opened(source, revision=revision), Path(folder) / "m.ondevice", Recipe(), sizes=[(side, side)]
        )
        yield Pipeline.from_bundle(path)
