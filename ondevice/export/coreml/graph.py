"""A fused graph as a MIL program: its ports, and the walk over its nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from ondevice.errors import GraphError
from ondevice.export.coreml.emitter import Emitter
from ondevice.export.coreml.fused_ops import FUSED
from ondevice.export.coreml.plain_ops import PLAIN
from ondevice.export.coreml.program import Program, Var, WeightFile
from ondevice.export.coreml.swift import as_ours
from ondevice.export.coreml.tools import mil
from ondevice.export.manifest import Port
from ondevice.export.names import plain
from ondevice.graph.ops import DOMAIN
from ondevice.graph.verify import INTEGERS, static_shape

DTYPES = {"float32": "fp32", "float16": "fp16", "int32": "int32"}  # a port's word: MIL's


def ports(values: Collection[ir.Value], taken: Collection[ir.Value] = ()) -> dict[str, Port]:
    """Ports of these values, by our names: floats are float32 there, whole numbers int32.

    Args:
        taken: an output that is one of these, an input, gets a name of its own.
    """
    return {
        str(value.name): Port(
            plain(str(value.name)) + ("_output" if value in taken else ""),
            "int32" if value.dtype in INTEGERS else "float32",
            static_shape(value),
        )
        for value in values
    }


def program(
    graph: ir.Graph,
    file: WeightFile,
    inputs: Mapping[str, Port],
    outputs: Mapping[str, Port],
    *,
    dtype: str,
    ios: int,
    weights: str = "",
    component: str = "",
) -> mil.Program:
    """The program of a graph, weights in `file`.

    Args:
        graph: static shapes, channels first, constants as initializers.
        inputs, outputs: by our names, as `ports` makes them.
        dtype: "fp16" or "fp32", of weights and arithmetic.
        weights: as `Emitter` takes them.
        component: for messages.

    Raises:
        GraphError: an op that Core ML cannot hold, or the file cannot be written.
    """
    names = {plain(str(value.name)) for node in graph for value in node.outputs}
    built = Program(file, {port.name for port in (*inputs.values(), *outputs.values())} | names)
    ends = {value: outputs[str(value.name)] for value in graph.outputs}
    results = {value: Var(port.name, port.shape, DTYPES[port.dtype]) for value, port in ends.items()}
    emit = Emitter(graph, built, results, dtype=dtype, ios=ios, weights=weights)
    for value in graph.inputs:
        port = inputs[str(value.name)]
        given = built.input(port.name, port.shape, DTYPES[port.dtype])
        dtype_here = "int32" if value.dtype in INTEGERS else given.dtype
        emit.bind(value, as_ours(built, given, port, static_shape(value), dtype_here))
    for node in graph:
        rule = (FUSED if node.domain == DOMAIN else PLAIN).get(node.op_type)
        where = f"{component}: node {node.name} ({node.op_type})"
        if rule is None:
            what = f"op {node.op_type} cannot be written as a Core ML program."
            raise GraphError(what, where=where, fix="write another format")
        try:
            rule(emit, node)
        except GraphError as error:
            if error.where:
                raise
            raise GraphError(error.what, where=where, fix=error.fix or "write another format") from None
    return built.finish([emit.finish(value) for value in graph.outputs], ios)
