"""Which weights: what convert's flags say of a model, as one value that can be written down,
sent to another process and opened there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ondevice.converters.component import Checkpoint
from ondevice.converters.families import FAMILIES
from ondevice.converters.random_weights import random_checkpoint
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.errors import UsageError


@dataclass(frozen=True, slots=True)
class Source:
    """A family and where its weights come from.
    The fields are `open_checkpoint`'s arguments; `random_weights`: a seed, instead of any."""

    model: str
    checkpoint: str | None = None
    random_weights: int | None = None
    variant: str | None = None
    revision: str | None = None
    ema: bool = False
    unet: str | None = None
    vae: str | None = None
    text_encoder: str | None = None

    def open(self) -> Checkpoint:
        """The checkpoint, its weights lazy.

        Raises:
            UsageError: a part is given beside made-up weights, which have every part.
            OnDeviceError: the checkpoint cannot be read.
        """
        family = FAMILIES[self.model]
        if self.random_weights is not None:
            given_parts = ("--unet", self.unet), ("--vae", self.vae), ("--text-encoder", self.text_encoder)
            for flag, given in given_parts:
                if given is not None:
                    raise UsageError("made-up weights have every part.", where=flag, fix=f"leave {flag} out")
            return random_checkpoint(family, self.random_weights)
        return open_checkpoint(
            self.checkpoint,
            family=family,
            variant=self.variant,
            revision=self.revision,
            ema=self.ema,
            unet=self.unet,
            vae=self.vae,
            text_encoder=self.text_encoder,
        )

    def resolved(self) -> Source:
        """The same with absolute paths, for a process with another working directory. Hub ids stay as they are."""
        return replace(
            self,
            checkpoint=_absolute(self.checkpoint),
            unet=_absolute(self.unet),
            vae=_absolute(self.vae),
            text_encoder=_absolute(self.text_encoder),
        )


def _absolute(path: str | None) -> str | None:
    return str(Path(path).resolve()) if path and Path(path).exists() else path
