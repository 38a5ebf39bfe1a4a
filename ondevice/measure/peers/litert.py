"""LiteRT's interpreter, XNNPACK in it, on the .tflite file that we write, float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ondevice.compiler import Job, Recipe
from ondevice.compiler.programs import fused_graphs
from ondevice.converters import build
from ondevice.measure.peers.peer import Loaded, Task

RESULT = "result.txt"  # which output is the graph's first


def convert(task: Task, folder: Path, option: str) -> None:
    """COMPONENT/model.tflite as `convert --format tflite --dtype fp32` writes it: builtin ops, channels last."""
    from ondevice.export.options import Options
    from ondevice.export.tflite import writer

    (fused,) = fused_graphs(build(task.checkpoint(), whole=True), Recipe(), [Job(task.component, task.sizes)])
    entry = writer.write(fused.graph, fused.job, folder, Options("fp32"))
    (folder / entry.files[0]).rename(folder / "model.tflite")
    (folder / RESULT).write_text(str(fused.graph.graph.outputs[0].name), encoding="utf-8")


def load(folder: Path, inputs: Mapping[str, np.ndarray], threads: int, option: str) -> Loaded:
    """The interpreter as it is by default. Pictures go in and come out with channels last, and are turned outside of
    it."""
    from ai_edge_litert.interpreter import Interpreter

    from ondevice.export.tflite.words import FIRST, LAST

    runner = Interpreter(model_path=str(folder / "model.tflite"), num_threads=threads).get_signature_runner()
    given = {
        name: np.ascontiguousarray(array.transpose(LAST)) if array.ndim == len(LAST) else array
        for name, array in inputs.items()
    }
    result = (folder / RESULT).read_text(encoding="utf-8")

    def run() -> np.ndarray:
        output: np.ndarray = runner(**given)[result]
        return output.transpose(FIRST) if output.ndim == len(FIRST) else output

    return Loaded(run)
