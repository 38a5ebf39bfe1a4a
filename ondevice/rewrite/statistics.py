"""Group norms of a picture that is worked on in bands: their statistics come from outside, those of the whole picture.

GroupNormNhwc(x, scale, bias)  ->  NormalizeNhwc(x, mean, variance, scale, bias)

`mean` and `variance` are inputs of the graph, float32 [groups].
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from ondevice.converters.architectures.vae_bands import STATISTICS_OF
from ondevice.errors import UsageError
from ondevice.graph.epilogue import is_one, of
from ondevice.graph.verify import static_shape
from ondevice.rewrite.edit import Edit
from ondevice.rewrite.functions import add_functions
from ondevice.rewrite.rule import settings

PRIMITIVES = ("InstanceNormalization", "GroupNorm", "GroupNormSilu")


def given_statistics(model: ir.Model) -> None:
    """Let every group norm of the graph take the statistics NAME:mean and NAME:variance,
    NAME being what its metadata say; in place.

    Raises:
        UsageError: a norm was left as it was by the rules before, so nothing here knows it.
    """
    name = model.metadata_props.get(STATISTICS_OF)
    if name is None:
        return
    edit = Edit(model)
    for node in list(model.graph):
        if node.op_type in PRIMITIVES:
            what = (
                f"a picture in bands needs the rules group_norm and channels_last ({node.name} "
                f"is still {node.op_type})."
            )
            raise UsageError(what, where="--without", fix="leave them on, or leave --tile-vae out")
        if not is_one(node.op_type, ("GroupNormNhwc",)):
            continue
        x, scale, bias = node.inputs
        given = settings(node)
        statistics = [_input(model.graph, f"{name}:{part}", given["groups"][0]) for part in ("mean", "variance")]
        (out,) = edit.emit(
            node,
            replace(of(node.op_type), base="NormalizeNhwc").name,
            [x, *statistics, scale, bias],
            static_shape(node.outputs[0]),
            name=f"{node.outputs[0].name}:given",
            ours=True,
            **given,
        )
        edit.replace(node.outputs[0], out)
    edit.finish()
    model.functions.clear()
    add_functions(model)


def _input(graph: ir.Graph, name: str, groups: int) -> ir.Value:
    found = next((value for value in graph.inputs if value.name == name), None)
    if found is None:
        found = ir.Value(name=name, shape=ir.Shape([groups]), type=ir.TensorType(ir.DataType.FLOAT))
        graph.inputs.append(found)
    return found
