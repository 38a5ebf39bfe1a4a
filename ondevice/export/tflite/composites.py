"""Ops that GPU delegates and compilers of NPUs know whole, as composites: a name, attributes, and a subgraph of builtin
ops that computes the same, which runs where nobody knows the name.

Names, attributes and operands are those that LiteRT's own converter writes. Composites of one kind and shape share a
subgraph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from ondevice.export.tflite.words import Tensor, Words

GROUP_NORM, ATTENTION = "odml.group_norm", "odml.scaled_dot_product_attention"
INT64 = 4  # of TENSOR_TYPE
Emit = Callable[[Words, Sequence[Tensor]], Tensor]


def group_norm_attributes(groups: int, epsilon: float) -> dict[str, Any]:
    """Of GROUP_NORM: x [n, h, w, c], scale [c] and bias [c], both constants, to the shape of x."""
    axes = {"TENSOR_DATA": [3], "TENSOR_SHAPE": [1], "TENSOR_TYPE": INT64}
    return {"num_groups": groups, "epsilon": epsilon, "channel_axis": 3, "_TENSOR_V1_reduction_axes": axes}


def attention_attributes(scale: float) -> dict[str, Any]:
    """Of ATTENTION: q [n, queries, heads, width], k and v [n, keys, heads, width], and a mask that is added to the
    scores where there is one, to the shape of q."""
    return {"scale": scale}


def attribute_bytes(attributes: Mapping[str, Any]) -> bytes:
    """A FlexBuffers map. Its floats take 4 bytes: XNNPACK reads an attention's scale as that, and of a double it would
    read the half that means nothing."""
    rounded = {name: float(np.float32(value)) if type(value) is float else value for name, value in attributes.items()}
    return bytes(flexbuffers.Dumps(rounded))


def composite(words: Words, name: str, attributes: Mapping[str, Any], inputs: Sequence[Tensor], emit: Emit) -> Tensor:
    """One op of that name with a result shaped as the first input.

    Args:
        emit: writes the same with builtin ops, into the subgraph that `words` it is given are of, from tensors there.
    """
    data, model = attribute_bytes(attributes), words.graph.model
    key = (name, data, *((tensor.shape, tensor.dtype) for tensor in inputs))
    if (part := model.parts.get(key)) is None:
        part = model.parts[key] = model.subgraph(f"{name}.impl")
        own = Words(part, words.storage)
        own.where = words.where
        given = [
            Tensor(part.tensor(f"input{number}", tensor.shape, tensor.dtype), tensor.shape, tensor.dtype)
            for number, tensor in enumerate(inputs)
        ]
        part.ends([tensor.number for tensor in given], [emit(own, given).number])
    options = schema.StableHLOCompositeOptionsT(
        name=name,
        decompositionSubgraphIndex=part.index,
        compositeAttributes=np.frombuffer(data, np.uint8),
        compositeAttributesFormat=schema.CustomOptionsFormat.FLEXBUFFERS,
        version=1,
    )
    return words.op("STABLEHLO_COMPOSITE", inputs, inputs[0].shape, options)
