"""A text encoder that learns to name what captions say (a start for what is trained with its states)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ondevice.base.publish import published
from ondevice.errors import CheckpointError, OutputError
from ondevice.train.adapting import MODEL
from ondevice.train.beginnings import begun
from ondevice.train.engine import Engine, Job
from ondevice.train.labels import Labels, labels_of
from ondevice.train.order import Order

_SIZE = 0.01  # of what keeps states, and what is pooled, about as large as 1
_NAME, _TOKENS = "text_encoder", "tokenizer"


@dataclass(frozen=True, slots=True)
class Lines(Dataset[tuple[str, tuple[int, ...]]]):
    """(caption, which words) by position in the endless order of a seed."""

    labels: Labels
    seed: int

    def __getitem__(self, position: int) -> tuple[str, tuple[int, ...]]:
        place = Order(len(self.labels.captions), self.seed).at(position)
        return self.labels.captions[place], self.labels.places[place]


def collated(samples: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    """A batch: `captions`, and `words` int64 [N, names]."""
    captions, words = zip(*samples, strict=True)
    return {"captions": list(captions), "words": torch.tensor(words)}


class Naming(torch.nn.Module):
    """One batch's loss: cross-entropy of each name, summed.

    Args:
        counts: how many words each name has.
        projected: whether states before the last layer, and what is pooled, are read; else the last states.
    """

    def __init__(self, encoder: torch.nn.Module, tokens: Any, counts: Sequence[int], projected: bool) -> None:
        super().__init__()
        self.encoder = encoder
        config: Any = encoder.config
        widths = [config.hidden_size, config.projection_dim] if projected else [config.hidden_size]
        self.heads: Any = torch.nn.ModuleList(
            torch.nn.ModuleList(torch.nn.Linear(width, count) for count in counts) for width in widths
        )
        self._tokens, self._projected = tokens, projected

    def forward(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """`loss`, and `right`: the part of names that are right at the caption's end."""
        device = next(self.parameters()).device
        ids = self._tokens(
            batch["captions"],
            padding="max_length",
            max_length=self._tokens.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(device)
        found = self.encoder(input_ids=ids, output_hidden_states=True)
        states = found.hidden_states[-2] if self._projected else found[0]
        after = (ids == self._tokens.eos_token_id).cumsum(1) > 0
        read = [(states[after], after.sum(1))]
        if self._projected:
            read.append((found.text_embeds, torch.ones(len(ids), dtype=torch.int64, device=device)))
        loss = states.new_zeros((), dtype=torch.float32)
        right = []
        for heads, (values, times) in zip(self.heads, read, strict=True):
            loss = loss + _SIZE * (values.float().square().mean() - 1).square()
            for head, words in zip(heads, batch["words"].T, strict=True):
                wanted = words.repeat_interleave(times)
                guess = head(values).float()
                loss = loss + torch.nn.functional.cross_entropy(guess, wanted)
                right.append((guess.argmax(-1) == wanted).float().mean())
        return {"loss": loss, "right": torch.stack(right).mean().detach()}


def named(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or lines that cannot be read."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    labels = labels_of(Path(settings.input_path), settings.caption_key)
    kind = CLIPTextModelWithProjection if settings.with_projection else CLIPTextModel
    encoder: Any = begun(kind, settings.text_encoder_name_or_path, _NAME)
    tokens: Any = begun(CLIPTokenizer, settings.tokenizer_name, _TOKENS)
    tokens.model_max_length = min(tokens.model_max_length, encoder.config.max_position_embeddings)
    if len(tokens) > encoder.config.vocab_size:
        what = f"it has more tokens than the text encoder (got {len(tokens)}, expected {encoder.config.vocab_size})."
        raise CheckpointError(what, where=f"--tokenizer_name {settings.tokenizer_name}", fix="give the encoder's own")
    encoder.float().requires_grad_(True)
    if settings.gradient_checkpointing:
        encoder.gradient_checkpointing_enable()
    step = Naming(encoder, tokens, [len(words) for words in labels.words.values()], settings.with_projection)

    def write(folder: Path) -> Path:
        with published(folder / MODEL, OutputError) as made:
            encoder.save_pretrained(made / _NAME)
            tokens.save_pretrained(made / _TOKENS)
        return folder / MODEL

    groups = [{"params": list(step.parameters()), "lr": engine.rate()}]
    data = Lines(labels, settings.seed)
    return Job(step, groups, data, len(labels.captions), collated, write)
