"""ONNX files in onnxruntime, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.export.manifest import Entry
from ondevice.export.runtimes.in_a_row import InARow, asked
from ondevice.run.waiting import Waiter

AT_ONCE = 64  # ops whose results are asked for in one run: all of a full-size UNet's take gigabytes
ERRORS = 3  # of onnxruntime's log levels: its warnings are for those who make graphs


def load(folder: Path, entry: Entry) -> InARow:
    """As `ondevice.export.runtimes.Module` has it."""
    return InARow([OnnxFile(folder, name) for name in entry.files])


class OnnxFile:
    """A file that onnxruntime has read, with the weights beside it mapped. Raises PeerError where it refuses it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self._path, self._waiter = name, folder / name, Waiter()
        self._session = self._opened(str(self._path))
        self.inputs = [one.name for one in self._session.get_inputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output by name."""
        return self._run(self._session, inputs)

    def values(self, inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """Every op's results, which are made outputs of the graph for it."""
        import onnx

        model = onnx.load(str(self._path), load_external_data=False)
        made = [name for node in model.graph.node for name in node.output if name]
        for first in range(0, len(made), AT_ONCE):
            names = made[first : first + AT_ONCE]
            del model.graph.output[:]
            model.graph.output.extend([onnx.ValueInfoProto(name=name) for name in names])
            found = self._run(self._opened(model.SerializeToString()), inputs)
            yield from ((name, found[name]) for name in names)

    def _opened(self, model: str | bytes) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS
        if isinstance(model, bytes):
            place = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(place, str(self._path.parent))
        providers = ["CPUExecutionProvider"]
        return self._asked(lambda: onnxruntime.InferenceSession(model, options, providers=providers))

    def _run(self, session: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import onnxruntime

        names, how = [one.name for one in session.get_outputs()], onnxruntime.RunOptions()
        try:
            arrays = self._asked(lambda: session.run(names, dict(inputs), how))
        except KeyboardInterrupt:
            how.terminate = True  # else it goes on to the end
            raise
        return dict(zip(names, arrays, strict=True))

    def _asked(self, call: Callable[[], Any]) -> Any:
        return asked("onnxruntime", self.name, self._waiter, call)
