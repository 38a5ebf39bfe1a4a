"""What a picture is drawn from, whatever runs it: a bundle, or an export in another format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ondevice.bundle.manifest import TokenizerEntry
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.plan.plan import Plan

FREE = 0  # a size of a plan that runs at any


class Sized(Protocol):
    """A plan, as far as a pipeline knows it: batch, and height and width in latent units, FREE where it takes any."""

    @property
    def component(self) -> str: ...

    @property
    def sizes(self) -> Mapping[str, int]: ...


class ModelFiles(Protocol):
    """What is asked of a bundle (`ondevice.bundle.reader.Bundle`) or an export (`ondevice.export.opened.Export`)."""

    @property
    def path(self) -> Path: ...

    @property
    def model(self) -> Mapping[str, Any]: ...

    @property
    def pipeline(self) -> PipelineSpec: ...

    @property
    def scheduler(self) -> Mapping[str, Any]: ...

    @property
    def plans(self) -> Sequence[Sized]: ...

    @property
    def tokenizers(self) -> Mapping[str, TokenizerEntry]: ...

    def tokenizer_files(self, name: str) -> dict[str, bytes]: ...

    def port_zeros(self, component: str, sizes: Mapping[str, int], port: str) -> np.ndarray: ...

    def stages(self, height: int, width: int, rows: int) -> list[Plan]: ...


def runs_at(sizes: Mapping[str, int], wanted: Mapping[str, int]) -> bool:
    """Whether a plan of these sizes runs at those that are wanted; of others that it has nothing is said."""
    return all(sizes.get(name) in (size, FREE) for name, size in wanted.items())
