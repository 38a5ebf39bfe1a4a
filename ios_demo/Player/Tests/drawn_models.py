"""Bundles for an iPhone, of the demo model and of tiny ones of other families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.component import Checkpoint
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.source import Source
from ondevice.target import load_target

DEMO = (64, 64)


def _tiny(name: str) -> Callable[[Path], Checkpoint]:
    def made(folder: Path) -> Checkpoint:
        from family_files import TINY

        return random_checkpoint_from_configs(**TINY[name], seed=5, family=name)

    return made


def _with_adapters(folder: Path) -> Checkpoint:
    """The demo model, with two adapters of all its layers beside its weights."""
    from adapter_files import adapter
    from checkpoint_files import write_safetensors

    given = []
    for seed, name in enumerate(("ink", "clay")):
        path = folder / f"{name}.safetensors"
        arrays = adapter(Source("demo").open().components, "peft", convolutions=True, seed=seed, gain=0.1)
        write_safetensors(path, arrays)
        given.append(f"{path}:{name}")
    return Source("demo", carry_lora=given).open()


def _with_nets(folder: Path) -> Checkpoint:
    from control_files import with_nets

    return with_nets("sd15", 2)


@dataclass(frozen=True, slots=True)
class Model:
    """What a bundle is made of; `size` in pixels; `weights` and `bands` as in a Recipe."""

    source: Callable[[Path], Checkpoint]
    size: tuple[int, int] = DEMO
    weights: str = ""
    bands: int = 0

    def write(self, path: Path) -> Path:
        """The bundle at `path`."""
        recipe = Recipe(target=load_target("apple_a16"), tile_vae=self.bands, weights=self.weights)
        checkpoint = self.source(path.parent)
        return compile_bundle(checkpoint, path, recipe, sizes=[self.size], sampler="ddim", force=True)


MODELS = {
    "demo": Model(lambda folder: Source("demo").open(), bands=32),
    "sd21": Model(_tiny("sd21"), (24, 16)),
    "sdxl": Model(_tiny("sdxl"), (16, 24)),
    "adapted": Model(_with_adapters),
    "adapted_i8": Model(_with_adapters, weights="i8"),
    "adapted_i4": Model(_with_adapters, weights="i4"),
    "fast": Model(lambda folder: Source("demo", random_weights=0, taesd="").open()),
    "control": Model(_with_nets, (24, 16)),
}
