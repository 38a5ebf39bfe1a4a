"""OpenVINO's CPU plugin on the plain ONNX graph.

`option` is the precision it is held to, or "" for its own choice, which is bfloat16 where the cores multiply in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ondevice.measure.peers.onnxruntime_cpu import convert
from ondevice.measure.peers.peer import Loaded

__all__ = ["convert", "load"]


def load(folder: Path, inputs: Mapping[str, np.ndarray], threads: int, option: str) -> Loaded:
    """One stream for latency. The process's own affinity says which cores, so OpenVINO must not pin threads itself."""
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "ENABLE_CPU_PINNING": "NO",
    }
    settings |= {"INFERENCE_PRECISION_HINT": option} if option else {}
    compiled = openvino.Core().compile_model(str(folder / "model.onnx"), "CPU", settings)
    request = compiled.create_infer_request()

    def run() -> np.ndarray:
        request.infer(dict(inputs), share_inputs=True)
        return np.array(request.get_output_tensor(0).data)

    return Loaded(run)
