"""What runs the components of an export, a module per runtime."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ondevice.errors import UsageError
from ondevice.export.manifest import Entry


class Component(Protocol):
    """A component in another runtime. Inputs and outputs are what its files call and have them."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output by name. Raises PeerError where the runtime fails."""
        ...

    def values(self, inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """What each op makes, in order, by the names that the fused graph has for it; ops that it has no name for are
        left out. Raises PeerError where the runtime fails."""
        ...


class Module(Protocol):
    """What a module of this package has."""

    def load(self, folder: Path, entry: Entry) -> Component:
        """The files of an entry of the export in `folder`, read. Raises PeerError where the runtime refuses one."""
        ...


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime, named after the format that it runs.

    Args:
        what: it is, for people.
        module: of this package; has what `Module` says.
        packages: that it takes, and the extra of ours that installs them.
    """

    name: str
    what: str
    module: str
    packages: tuple[str, ...]
    extra: str

    def load(self) -> Module:
        """Its module. Raises UsageError where a package is not installed."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                what = f"it takes {package}, which is not installed."
                raise UsageError(what, where=self.what, fix=f"pip install 'ondevice[{self.extra}]'")
        module: Module = importlib.import_module(f"ondevice.export.runtimes.{self.module}")  # type: ignore[assignment]
        return module


_COREML = "Core ML" if sys.platform == "darwin" else "an interpreter of Core ML's programs (Core ML is on macOS alone)"
_ROWS = (
    Runtime("onnx", "onnxruntime on the CPU", "onnx", packages=("onnxruntime",), extra="onnx"),
    Runtime("tflite", "LiteRT on the CPU", "tflite", packages=("ai_edge_litert",), extra="tflite"),
    Runtime("coreml", _COREML, "coreml", packages=("coremltools",), extra="coreml"),
)
RUNTIMES = {row.name: row for row in _ROWS}


def runtime_of(kind: str) -> Runtime:
    """What runs exports of a format. Raises UsageError where nothing does."""
    if kind not in RUNTIMES:
        what = f"nothing here runs exports of the format {kind} (expected one of {', '.join(RUNTIMES)})."
        raise UsageError(what, where="--runtime", fix="run its files by the format's own tools")
    return RUNTIMES[kind]
