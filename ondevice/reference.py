"""What a graph means: run it in NumPy float64, slowly. Tests compare every other way of running against this one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator


def run(model: ir.Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every output by name; floats are float64 throughout, integers stay as they are.

    The arithmetic is ONNX's own reference implementation's. It is meant for small graphs: a full UNet takes hours.
    """
    exact = model.clone()
    for value in (*exact.graph.inputs, *exact.graph.initializers.values()):
        if value.dtype != ir.DataType.FLOAT:
            continue
        value.dtype = ir.DataType.DOUBLE
        if value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float64), name=value.name)
    for value in (v for node in exact.graph for v in node.outputs):
        value.type = None
    given = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in inputs.items()}
    outputs = ReferenceEvaluator(ir.to_proto(exact)).run(None, given)
    return {str(value.name): array for value, array in zip(exact.graph.outputs, outputs, strict=True)}
