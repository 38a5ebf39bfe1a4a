"""Movement of weights happens when they are written, not when the network runs.

weight - Transpose | Reshape | Unsqueeze | Concat with other weights    ->  a weight made when it is read
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ondevice.graph.origin import Origin, joined, origin_of, reshaped, transposed, with_origin
from ondevice.rewrite.edit import Edit
from ondevice.rewrite.rule import Rule, ints


class FoldWeights(Rule):
    """The values stay lazy: nothing is read here.
    Names say what was done, so that plans of several sizes share the weight."""

    family = "fold"

    @classmethod
    def run(cls, model: ir.Model) -> tuple[int, Counter[str]]:
        """Fold until nothing that moves a weight is left."""
        edit, applied = Edit(model), 0
        for node in list(model.graph):
            moved = _moved(node)
            if moved is None:
                continue
            name, make, origin = moved
            out = node.outputs[0]
            assert out.shape is not None and out.dtype is not None, "verified graphs have shapes"
            tensor = ir.LazyTensor(_reader(make), dtype=out.dtype, shape=ir.Shape(out.shape.numpy()), name=name)
            edit.replace(out, edit.constant(name, with_origin(tensor, origin)))
            applied += 1
        edit.finish()
        return applied, Counter()


def _reader(make: Callable[[], np.ndarray]) -> Callable[[], ir.TensorProtocol]:
    return lambda: ir.Tensor(np.ascontiguousarray(make()))


def _moved(node: ir.Node) -> tuple[str, Callable[[], np.ndarray], Origin | None] | None:
    """(name, values, origin) of what `node` makes of weights; None if it makes something else."""
    data = [value for value in (node.inputs if node.op_type == "Concat" else node.inputs[:1]) if value is not None]
    tensors = [value.const_value for value in data if value.const_value is not None]
    if (
        node.domain
        or not data
        or len(tensors) != len(data)
        or node.outputs[0].shape is None
        or not node.outputs[0].shape.is_static()
    ):
        return None
    first, shape = tensors[0], tuple(node.outputs[0].shape.numpy())
    if node.op_type == "Transpose":
        perm = (
            tuple(node.attributes["perm"].as_ints())
            if "perm" in node.attributes
            else tuple(reversed(range(len(shape))))
        )
        name = f"{data[0].name}.{'T' if perm == (1, 0) else ''.join(map(str, perm))}"
        return name, lambda: first.numpy().transpose(perm), transposed(origin_of(first), perm)
    if node.op_type == "Unsqueeze" or (node.op_type == "Reshape" and ints(node.inputs[1]) is not None):
        name = f"{data[0].name}:{'x'.join(map(str, shape))}"
        return name, lambda: first.numpy().reshape(shape), reshaped(origin_of(first), shape)
    if node.op_type == "Concat":
        axis = node.attributes["axis"].as_int()
        rest = hashlib.sha256("\n".join(str(value.name) for value in data).encode()).hexdigest()[:12]
        name, origin = f"{data[0].name}+{len(data) - 1}.{rest}", joined([origin_of(one) for one in tensors], axis)
        return name, lambda: np.concatenate([tensor.numpy() for tensor in tensors], axis), origin
    return None
