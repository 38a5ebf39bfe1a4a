"""Model families: where their weights come from by default, and the configs that a single weight file does not carry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.base.paths import MODELS
from ondevice.converters.configs import normalize
from ondevice.converters.read.json_text import read_bytes, read_object
from ondevice.errors import UsageError

TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
_REINSTALL = "reinstall ondevice; its own data is damaged"


@dataclass(frozen=True, slots=True)
class Family:
    """What one family is made of.

    `hub_id` is None for a family whose weights are inside the package. `folder` is laid out as a diffusers folder and holds at
    least <component>/config.json and scheduler/scheduler_config.json. `guidance_scale` is what its pictures look best at by default.
    """

    name: str
    hub_id: str | None
    folder: Path
    guidance_scale: float = 7.5

    @property
    def source(self) -> str:
        """What `open_checkpoint` reads when the user names no checkpoint."""
        return self.hub_id or str(self.folder)

    def config(self, component: str) -> dict[str, Any]:
        """The normalized config of "text_encoder", "unet" or "vae"."""
        path = self.folder / component / "config.json"
        return normalize(component, read_object(path, _REINSTALL), str(path))

    def scheduler(self) -> dict[str, Any]:
        """The scheduler_config.json, as it is."""
        return read_object(self.folder / "scheduler" / "scheduler_config.json", _REINSTALL)

    def tokenizer(self) -> dict[str, bytes]:
        """The tokenizer's files by name. Vocabulary and merges of OpenAI's CLIP are stored once for every family that uses them."""
        own, shared = self.folder / "tokenizer", MODELS / "clip_tokenizer"
        return {name: read_bytes(own / name if (own / name).exists() else shared / name, _REINSTALL) for name in TOKENIZER_FILES}


FAMILIES = {
    family.name: family
    for family in (
        Family("demo", None, MODELS / "demo", guidance_scale=3.0),
        Family("sd14", "CompVis/stable-diffusion-v1-4", MODELS / "sd14"),
        Family("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", MODELS / "sd15"),
    )
}


def family_of(family: Family | str) -> Family:
    """`family` itself, or the one of that name. Raises UsageError for a name that we do not have."""
    if isinstance(family, Family):
        return family
    if family not in FAMILIES:
        raise UsageError(f"no model family is called {family!r}.", where="family", fix=f"use one of {', '.join(sorted(FAMILIES))}")
    return FAMILIES[family]
