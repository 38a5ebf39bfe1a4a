"""TFLite files in LiteRT's interpreter, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.base.machine import available_cores
from ondevice.export.manifest import Entry
from ondevice.export.runtimes.in_a_row import InARow, asked
from ondevice.run.waiting import Waiter

SIGNATURE = "serving_default"


def load(folder: Path, entry: Entry) -> InARow:
    """As `ondevice.export.runtimes.Module` has it."""
    return InARow([TfliteFile(folder, name) for name in entry.files])


class TfliteFile:
    """A file that LiteRT has read, its weights mapped. Raises PeerError where it refuses it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self._path, self._waiter = name, folder / name, Waiter()
        self._runner = self._asked(lambda: self._opened().get_signature_runner(SIGNATURE))
        self.inputs = list(self._runner.get_input_details())

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output by name."""
        return dict(self._asked(lambda: self._runner(**inputs)))

    def values(self, inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """Every op's results, by LiteRT's own kernels: all of them are kept, which takes their memory."""
        from ai_edge_litert.interpreter import OpResolverType

        kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # a delegate shows nothing of what is inside of it
        interpreter = self._asked(
            lambda: self._opened(experimental_preserve_all_tensors=True, experimental_op_resolver_type=kernels)
        )
        self._asked(lambda: interpreter.get_signature_runner(SIGNATURE)(**inputs))
        names = {tensor["index"]: tensor["name"] for tensor in interpreter.get_tensor_details()}
        for op in interpreter._get_ops_details():
            for index in op["outputs"]:
                if index in names:
                    yield names[index], interpreter.get_tensor(index)

    def _opened(self, **how: Any) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter(str(self._path), num_threads=len(available_cores()), **how)

    def _asked(self, call: Callable[[], Any]) -> Any:
        return asked("LiteRT", self.name, self._waiter, call)
