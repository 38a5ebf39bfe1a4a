"""How weights enter a .tflite file: in float32, or in fewer bits behind a DEQUANTIZE, which runtimes do once when they
load, or inside the ops that read it. Arithmetic stays float32, unless a GPU's delegate chooses less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ondevice.export.narrow import half, int8, int8_saves
from ondevice.export.tflite.file import Graph, Read

_SINCE = {"float16": 3, "int8": 5}  # versions of DEQUANTIZE that take them: int8 with a scale per channel


@dataclass(frozen=True, slots=True)
class Storage:
    """What larger weights are stored as.

    Args:
        dtype: "fp32" or "fp16".
        weights: "int8": that, of those of products and convolutions where it saves something; "": as `dtype` says.
    """

    dtype: str = "fp32"
    weights: str = ""

    def weight(
        self, graph: Graph, name: str, shape: Sequence[int], values: Callable[[], np.ndarray], axis: int = 0
    ) -> int:
        """The number of a float32 tensor that is a weight of a product or a convolution.

        Args:
            shape: as the op has it.
            values: gives the weight in that layout, in any type of floats; called each time that the file is written.
            axis: that of its outputs.

        Raises, when the file is written:
            GraphError: a value that the type cannot hold.
        """
        where = f"{graph.model.name}: weight {name}"
        if self.weights == "int8" and int8_saves(shape, axis):
            return _widened(graph, name, shape, "int8", lambda: int8(values(), axis, where), axis)
        if self.dtype == "fp16":
            return _widened(graph, name, shape, "float16", lambda: half(values(), where))
        return graph.tensor(name, shape, "float32", lambda: values().astype(np.float32, copy=False))


def _widened(graph: Graph, name: str, shape: Sequence[int], dtype: str, read: Read, axis: int | None = None) -> int:
    """A constant in few bits, widened."""
    stored = graph.tensor(f"{name};{dtype}", shape, dtype, read, axis)
    widened = graph.tensor(name, shape, "float32")
    graph.op(schema.BuiltinOperator.DEQUANTIZE, [stored], [widened], schema.DequantizeOptionsT(), _SINCE[dtype])
    return widened
