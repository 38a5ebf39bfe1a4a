"""What a session is given: plans with the weights and programs that they name, and weights with other values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import numpy as np

from ondevice.plan.plan import Plan


class Source(Protocol):
    """What is asked of a bundle (`ondevice.bundle.reader.Bundle`)."""

    def plan(self, component: str, **sizes: int) -> Plan:
        """The plan of a component at these sizes."""
        ...

    def weight(self, key: str) -> tuple[str, int, int]:
        """(shard, offset, bytes) of a weight."""
        ...

    def shard(self, name: str) -> np.ndarray:
        """All bytes of a shard, uint8."""
        ...

    def unmap(self, name: str) -> None:
        """Forget a shard until it is asked for again."""
        ...

    def fetch(self, name: str, start: int, nbytes: int) -> None:
        """Have bytes of a shard in memory now. Raises BundleError where its file is not what it was."""
        ...

    def expect(self, name: str, start: int, nbytes: int) -> None:
        """Begin to read these bytes."""
        ...

    def drop(self, name: str, start: int, nbytes: int) -> None:
        """Let these bytes leave memory."""
        ...

    def source(self, file: str, dialect: str, defines: Mapping[str, int] | tuple[tuple[str, int], ...]) -> str:
        """The program to build."""
        ...

    def kernel_source(self, file: str) -> str:
        """A kernel's own text, which says how it is launched."""
        ...


class Changed(Protocol):
    """Weights with other values than the bundle's (`ondevice.bundle.changed.ChangedWeights`)."""

    @property
    def keys(self) -> Collection[str]:
        """Which these are."""
        ...

    def values(self, key: str) -> np.ndarray:
        """One of them, as it is stored."""
        ...
