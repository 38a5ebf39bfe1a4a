"""Which weights: what convert's flags say of a model, as one value that can be written down,
sent to another process and opened there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ondevice.converters.architectures.clip_text import CLIP_SKIP
from ondevice.converters.component import Checkpoint
from ondevice.converters.families import FAMILIES, family_of
from ondevice.converters.families.tiny import FLAG
from ondevice.converters.random_weights import random_checkpoint
from ondevice.converters.read import adapters, embeddings
from ondevice.converters.read.adapters import with_adapters, with_carried
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.controlnets import MADE_UP, with_controlnets
from ondevice.converters.read.embeddings import with_embeddings
from ondevice.converters.read.parts import text_encoders_in
from ondevice.converters.read.tiny_files import with_random_taesd, with_taesd
from ondevice.errors import UsageError


@dataclass(frozen=True, slots=True)
class Source:
    """A family and where its weights come from.
    The fields are `open_checkpoint`'s arguments; `random_weights`: a seed, instead of any; `clip_skip`: how many last
    layers of the text encoders are left out; `embedding`: files of textual inversion, each FILE or FILE:TRIGGER;
    `lora`: files of adapters, each FILE or FILE:SCALE; `carry_lora`: of those that a bundle carries, each FILE or
    FILE:NAME; `controlnet`: of each a folder, a file or a hub id, or MADE_UP beside made-up weights; `taesd`: a tiny
    autoencoder whose decoder stands beside the model's own, "" for the one that is published for it."""

    model: str
    checkpoint: str | None = None
    random_weights: int | None = None
    variant: str | None = None
    revision: str | None = None
    ema: bool = False
    unet: str | None = None
    vae: str | None = None
    text_encoder: str | None = None
    text_encoders: str | None = None
    taesd: str | None = None
    clip_skip: int = 0
    embedding: Sequence[str] = ()
    lora: Sequence[str] = ()
    carry_lora: Sequence[str] = ()
    controlnet: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("embedding", "lora", "carry_lora", "controlnet"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a flag gives a list, and so does JSON

    def open(self) -> Checkpoint:
        """The checkpoint, its weights lazy.

        Raises:
            UsageError: a part is given beside made-up weights, which have every part; layers or tokens cannot be had.
            OnDeviceError: the checkpoint cannot be read.
        """
        whole = with_carried(with_adapters(self._opened(), self.lora), self.carry_lora)
        whole = with_embeddings(with_clip_skip(whole, self.clip_skip), self.embedding)
        whole = with_controlnets(whole, self.controlnet, self.random_weights)
        if self.taesd is None:
            return whole
        return with_taesd(whole, self.taesd) if self.random_weights is None else self._with_random_taesd(whole)

    def _with_random_taesd(self, checkpoint: Checkpoint) -> Checkpoint:
        if self.taesd:
            raise UsageError("made-up weights have every part.", where=FLAG, fix=f"give {FLAG} without a path")
        assert self.random_weights is not None
        return with_random_taesd(checkpoint, self.random_weights)

    def _opened(self) -> Checkpoint:
        family = FAMILIES[self.model]
        if self.random_weights is not None:
            given_parts = ("--unet", self.unet), ("--vae", self.vae), ("--text-encoder", self.text_encoder)
            for flag, given in (*given_parts, ("--text-encoders", self.text_encoders)):
                if given is not None:
                    raise UsageError("made-up weights have every part.", where=flag, fix=f"leave {flag} out")
            return random_checkpoint(family, self.random_weights)
        texts: str | dict[str, str | Path] | None = self.text_encoder
        if self.text_encoders is not None:
            texts = {**text_encoders_in(Path(self.text_encoders).expanduser(), family)}
            texts |= {} if self.text_encoder is None else {"text_encoder": self.text_encoder}
        return open_checkpoint(
            self.checkpoint,
            family=family,
            variant=self.variant,
            revision=self.revision,
            ema=self.ema,
            unet=self.unet,
            vae=self.vae,
            text_encoder=texts,
        )

    def resolved(self) -> Source:
        """The same with absolute paths, for a process with another working directory. Hub ids stay as they are."""
        return replace(
            self,
            checkpoint=_absolute(self.checkpoint),
            unet=_absolute(self.unet),
            vae=_absolute(self.vae),
            taesd=_absolute(self.taesd),
            text_encoder=_absolute(self.text_encoder),
            text_encoders=_absolute(self.text_encoders),
            embedding=tuple(embeddings.absolute(one) for one in self.embedding),
            lora=tuple(adapters.absolute(one) for one in self.lora),
            carry_lora=tuple(adapters.absolute_named(one) for one in self.carry_lora),
            controlnet=tuple(one if self._made_up(one) else _absolute(one) or one for one in self.controlnet),
        )

    def _made_up(self, net: str) -> bool:
        return net == MADE_UP and self.random_weights is not None


def with_clip_skip(checkpoint: Checkpoint, skipped: int) -> Checkpoint:
    """The checkpoint with text encoders whose states do not go through so many of their last layers. What is pooled of
    a text goes through all, as in diffusers.

    Raises:
        UsageError: there are not so many layers, or the checkpoint is a folder of graphs.
    """
    if skipped and checkpoint.graphs:
        what = "an exported graph is not cut."
        raise UsageError(what, where="--clip-skip", fix="convert from weights, or leave --clip-skip out")
    if skipped and not family_of(checkpoint.family).clip_skip:
        what = f"{checkpoint.family} leaves no layers out: diffusers does of a prompt, and not of a negative one."
        raise UsageError(what, where="--clip-skip", fix="leave --clip-skip out")
    components = dict(checkpoint.components)
    for name in family_of(checkpoint.family).tokenizers.values() if skipped else ():
        layers = components[name].config["num_hidden_layers"]
        if not 0 <= skipped < layers:
            what = f"the {name} has {layers} layers (got {skipped}, expected 0 to {layers - 1})."
            raise UsageError(what, where="--clip-skip", fix="use 1")
        components[name] = replace(components[name], config=components[name].config | {CLIP_SKIP: skipped})
    return replace(checkpoint, components=components)


def _absolute(path: str | None) -> str | None:
    return str(Path(path).resolve()) if path and Path(path).exists() else path
