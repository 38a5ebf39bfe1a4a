"""onnxruntime's CPU provider on the plain ONNX graph, float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ondevice.converters.onnx_export import save_onnx
from ondevice.measure.peers.peer import Loaded, Task


def convert(task: Task, folder: Path, option: str) -> None:
    """`folder`/model.onnx in primitives, as `convert --format onnx --without all` writes it:
    what is fused is then the runtime's own."""
    save_onnx(task.graph(), folder / "model.onnx")


def load(folder: Path, inputs: Mapping[str, np.ndarray], threads: int, option: str) -> Loaded:
    """A session at the default, which is the full, optimisation level."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between runs the cores are another peer's
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return Loaded(lambda: session.run(None, dict(inputs))[0])
