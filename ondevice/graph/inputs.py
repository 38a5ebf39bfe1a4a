"""Inputs of a graph that all who compute it are given: the same ones every time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

TIMESTEP = 500.0


def inputs_of(graph: ir.Model) -> dict[str, np.ndarray]:
    """Normal noise, tokens and a timestep, by input name; the same ones every time."""
    rng = np.random.default_rng(0)
    inputs: dict[str, np.ndarray] = {}
    for value in graph.graph.inputs:
        assert value.shape is not None
        name, shape = str(value.name), tuple(value.shape.numpy())
        if value.dtype == ir.DataType.INT32:
            inputs[name] = rng.integers(0, _tokens(graph), shape).astype(np.int32)
        else:
            inputs[name] = (
                np.full(shape, TIMESTEP, np.float32) if name == "timestep" else rng.standard_normal(shape, np.float32)
            )
    return inputs


def _tokens(graph: ir.Model) -> int:
    """Rows of the table that a text encoder looks tokens up in."""
    readers = (node for value in graph.graph.inputs for node in value.consumers() if node.op_type == "Gather")
    table = next((node.inputs[0] for node in readers), None)
    return table.shape.numpy()[0] if table is not None and table.shape is not None else 1
