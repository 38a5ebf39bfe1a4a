"""The networks of a diffusers model that is trained further, and how its texts are read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from ondevice.base.paths import MODELS
from ondevice.errors import CheckpointError

log = logging.getLogger(__name__)
SD1, SDXL, SD3 = "StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline"
KINDS = {SD1: "Stable Diffusion 1.x or 2.x", SDXL: "Stable Diffusion XL", SD3: "Stable Diffusion 3"}
INSIDE = {"demo": MODELS / "demo"}
_KEPT = 256  # captions whose states are kept


def place_of(source: str) -> str:
    """A model's folder or hub id, of what the user calls it."""
    return str(INSIDE.get(source, source))


@dataclass(slots=True)
class Parts:
    """A model in float32, nothing of which is trained yet.

    Args:
        pipe: diffusers' pipeline of it.
        kind: SD1, SDXL or SD3.
    """

    pipe: Any
    kind: str

    @property
    def net(self) -> torch.nn.Module:
        """The network that takes the noise away."""
        return self.pipe.transformer if self.kind == SD3 else self.pipe.unet

    @property
    def net_name(self) -> str:
        """Its name in the folder."""
        return "transformer" if self.kind == SD3 else "unet"

    def encoders(self) -> dict[str, torch.nn.Module]:
        """Text encoders by their names in the folder."""
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        return {name: found for name in names if (found := getattr(self.pipe, name, None)) is not None}

    @property
    def held(self) -> bool:
        """Whether the VAE computes in float32 whatever the rest computes in: in halves its numbers overflow."""
        return self.kind != SD1 and bool(self.pipe.vae.config.force_upcast)

    def read(self, name: str) -> set[str]:
        """The parameters of a text encoder that the network reads something of: of the first of Stable Diffusion XL
        it reads the states before the last layer."""
        encoder: Any = self.encoders()[name]
        names = {one for one, _ in encoder.named_parameters() if "position_ids" not in one}
        if self.kind != SDXL or name != "text_encoder":
            return names
        last = f"encoder.layers.{encoder.config.num_hidden_layers - 1}."
        return {one for one in names if last not in one and "final_layer_norm" not in one}

    def modules(self) -> list[torch.nn.Module]:
        """Every network."""
        return [self.net, self.pipe.vae, *self.encoders().values()]


def kind_of(source: str, revision: str | None = None) -> str:
    """The kind of the model that `source` names: one of KINDS. Raises CheckpointError where it is none, or cannot be
    read."""
    place = place_of(source)
    where = f"--pretrained_model_name_or_path {source}"
    fix = "give a diffusers folder or a hub id of " + " or ".join(KINDS.values())
    if not Path(place).is_dir() and (Path(place).exists() or place.startswith((".", "/", "~"))):
        raise CheckpointError("there is no such folder.", where=where, fix=fix)
    chosen = {"revision": revision} if revision else {}
    try:
        kind = DiffusionPipeline.load_config(place, **chosen)["_class_name"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"it cannot be read ({error}).", where=where, fix=fix) from error
    if kind not in KINDS:
        raise CheckpointError(f"models of {kind} are not trained here.", where=where, fix=fix)
    return str(kind)


def open_parts(source: str, revision: str | None = None, variant: str | None = None) -> Parts:
    """The model that `source` names: a diffusers folder, a hub id, or one inside the package.

    Raises:
        CheckpointError: it cannot be read, or is of a kind that is not trained here.
    """
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()  # the bar is of steps
    transformers.utils.logging.disable_progress_bar()
    _import_quietly()
    kind = kind_of(source, revision)
    chosen = {"revision": revision} if revision else {}
    about = DiffusionPipeline.load_config(place_of(source), **chosen)
    chosen |= {"variant": variant} if variant else {}
    more: dict[str, Any] = {name: None for name, entry in about.items() if entry in ([None, None], (None, None))}
    more |= {"safety_checker": None, "requires_safety_checker": False} if kind == SD1 else {}
    try:
        pipe = DiffusionPipeline.from_pretrained(place_of(source), **chosen, **more)
    except (OSError, ValueError) as error:
        where = f"--pretrained_model_name_or_path {source}"
        raise CheckpointError(f"it cannot be read ({error}).", where=where, fix="download it again") from error
    parts = Parts(pipe, kind)
    for module in parts.modules():
        stored_in(module, torch.float32)
        module.requires_grad_(False).eval()
    return parts


def _import_quietly() -> None:
    """Import what pipelines import of transformers, which warns of a package that only other models need."""
    import transformers.utils.logging

    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        from transformers import CLIPImageProcessor, SiglipImageProcessor  # noqa: F401
    finally:
        transformers.utils.logging.set_verbosity(level)


def stored_in(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Keep a network's weights in `dtype`, without what diffusers' and transformers' own `to` say of that."""
    torch.nn.Module.to(module, dtype)


class Texts:
    """What the network is told of captions: `states` [N, tokens, width], and of Stable Diffusion XL and 3 `pooled`
    [N, width], too.

    Args:
        trained: whether text encoders learn; else what they say of a caption is kept.
        tokens: the most of T5.
    """

    def __init__(self, parts: Parts, trained: bool = False, tokens: int = 77) -> None:
        self._parts, self._trained, self._tokens = parts, trained, tokens
        self._kept: dict[str, tuple[torch.Tensor, ...]] = {}

    def of(self, captions: Sequence[str]) -> tuple[torch.Tensor, ...]:
        """(states,) or (states, pooled) of a batch."""
        if self._trained:
            return self._encoded(captions)
        if missing := [text for text in dict.fromkeys(captions) if text not in self._kept]:
            if len(self._kept) + len(missing) > _KEPT:
                self._kept.clear()
                missing = list(dict.fromkeys(captions))
            with torch.no_grad():
                found = self._encoded(missing)
            self._kept |= {text: rows for text, *rows in zip(missing, *found, strict=True)}
        return tuple(torch.stack(rows) for rows in zip(*(self._kept[text] for text in captions), strict=True))

    def none(self, told: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """What the network is told where there is no text: zeros shaped as `told`, where the model has it so, or what
        the empty text gives."""
        if self._parts.pipe.config.get("force_zeros_for_empty_prompt"):
            return tuple(torch.zeros_like(one) for one in told)
        return self.of([""] * len(told[0]))

    def _encoded(self, captions: Sequence[str]) -> tuple[torch.Tensor, ...]:
        pipe = self._parts.pipe
        if self._parts.kind == SD3:
            device = next(self._parts.net.parameters()).device
            states, _, pooled, _ = pipe.encode_prompt(
                prompt=list(captions),
                prompt_2=None,
                prompt_3=None,
                device=device,
                do_classifier_free_guidance=False,
                max_sequence_length=self._tokens,
            )
            return states, pooled
        if self._parts.kind == SD1:
            return (pipe.text_encoder(_ids(pipe.tokenizer, pipe.text_encoder, captions))[0],)
        pairs = (pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)
        found = [encoder(_ids(reader, encoder, captions), output_hidden_states=True) for reader, encoder in pairs]
        return torch.cat([one.hidden_states[-2] for one in found], 2), found[1].text_embeds


def _ids(tokenizer: Any, encoder: torch.nn.Module, captions: Sequence[str]) -> torch.Tensor:
    """int64 [N, tokens], where the encoder is."""
    most = tokenizer.model_max_length
    found = tokenizer(list(captions), padding="max_length", max_length=most, truncation=True, return_tensors="pt")
    ids: torch.Tensor = found.input_ids
    return ids.to(next(encoder.parameters()).device)
