"""Core ML packages in Core ML itself, which only macOS has; elsewhere they are evaluated as they were saved (`mil`).

What runs in Core ML here was never run: no Mac was there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.export.manifest import Entry
from ondevice.export.runtimes import mil
from ondevice.export.runtimes.in_a_row import InARow, asked
from ondevice.run.waiting import Waiter


def on_macos() -> bool:
    """Whether Core ML is there."""
    return sys.platform == "darwin"


def load(folder: Path, entry: Entry) -> InARow:
    """As `ondevice.export.runtimes.Module` has it; off macOS it raises what `mil.load` does."""
    return InARow([CoreMLPackage(folder, name) for name in entry.files]) if on_macos() else mil.load(folder, entry)


class CoreMLPackage:
    """A package that Core ML has compiled and loaded. Raises PeerError where it refuses it."""

    def __init__(self, folder: Path, name: str) -> None:
        from coremltools.models import MLModel

        self.name, self._path, self._waiter = name, folder / name, Waiter()
        self._model = self._asked(lambda: MLModel(str(self._path)))
        self.inputs = [str(port.name) for port in self._model.get_spec().description.input]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output by name."""
        return dict(self._asked(lambda: self._model.predict(dict(inputs))))

    def values(self, inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """What each op gives as it was saved: Core ML shows nothing of what is inside."""
        return mil.package(self._path.parent, self.name).values(inputs)

    def _asked(self, call: Callable[[], Any]) -> Any:
        return asked("Core ML", self.name, self._waiter, call)
