"""What a picture's file says that it was drawn with, before it is known which model is to draw it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Recorded:
    """What was read.

    Attributes:
        fields: by the words of `generate`'s flags, as a line of a batch has them (docs/sessions.md).
        options: the sampler's options and the model's numbers, by name.
        files: names of files that the picture was drawn from, by the same words ("init_image", "mask", "latents");
            `pictures` has those of --picture and --control, by the names that pipelines have for them.
        adapters: "NAME:SCALE" of each.
        model: the source of the model, as far as it is told.
        lost: what cannot be had again, a sentence each.
    """

    fields: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    adapters: list[str] = field(default_factory=list)
    model: str | None = None
    lost: list[str] = field(default_factory=list)
