"""What a graph means: run it in NumPy float64, slowly. Tests compare every other way of running against this one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx_ir.passes.common import LiftConstantsToInitializersPass

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


class Erf(OpRun):
    """ONNX's own rounds to float32."""

    op_domain = ""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


def run(model: ir.Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every output by name; floats are float64 throughout, integers stay as they are.

    The arithmetic is ONNX's own reference implementation's. It is meant for small graphs: a full UNet takes hours.
    """
    exact = model.clone()
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(exact)
    for value in (*exact.graph.inputs, *exact.graph.initializers.values()):
        if value.dtype != ir.DataType.FLOAT:
            continue
        value.type = ir.TensorType(ir.DataType.DOUBLE)  # a new one: the clone shares its types with `model`
        if value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float64), name=value.name)
    for node in exact.graph:
        if node.op_type == "Cast" and node.attributes["to"].as_int() in FLOATS:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.DOUBLE)
        for value in node.outputs:
            value.type = value.shape = None  # the evaluator finds them out
    given = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in inputs.items()}
    outputs = ReferenceEvaluator(ir.to_proto(exact), new_ops=[Erf]).run(None, given)
    return {str(value.name): array for value, array in zip(exact.graph.outputs, outputs, strict=True)}
