"""Pictures that need not be made: a larger copy for a convolution, two parts side by side.

x - Resize nearest - ConvNhwc                          ->  UpConvNhwc                          (family upsample)
a, b - Concat - GroupNormNhwc*                         ->  ConcatGroupNormNhwc*                (family concat)
a, b - Concat - Linear*                                ->  ConcatLinear*
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from ondevice.graph.epilogue import CONV, is_one
from ondevice.graph.verify import resizes_by_sizes
from ondevice.rewrite.edit import Edit
from ondevice.rewrite.rule import Rule, dims, settings

NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
PARTS = ("GroupNormNhwc", "Linear")  # ops that may take two parts


class Upsample(Rule):
    """The convolution reads the small picture: three quarters of the large one's bytes are never written."""

    family = "upsample"

    @classmethod
    def run(cls, model: ir.Model) -> tuple[int, Counter[str]]:
        """Each Resize that only convolutions read."""
        edit, applied, reasons = Edit(model), 0, Counter[str]()
        for node in list(model.graph):
            resize = node.inputs[0].producer() if is_one(node.op_type, CONV) and node.inputs[0] is not None else None
            if resize is None or resize.op_type != "Resize":
                continue
            reason = (
                "the convolution enlarges what it reads already"
                if is_one(node.op_type, ("UpConvNhwc",))
                else _no_upsample(resize)
            )
            if reason:
                reasons[reason] += 1
                continue
            n, height, width, c = dims(resize.outputs[0]) or ()
            given = settings(node)
            out, wanted = node.outputs[0], f"Up{node.op_type}"
            inputs = [resize.inputs[0], *node.inputs[1:]]
            (new,) = edit.emit(
                node,
                wanted,
                inputs,
                dims(out) or (),
                name=f"{out.name}:up",
                ours=True,
                sizes=[n, c, height, width],
                **given,
            )
            edit.replace(out, new)
            applied += 1
        edit.finish()
        return applied, reasons


def _no_upsample(resize: ir.Node) -> str | None:
    before, after, out = dims(resize.inputs[0]), dims(resize.outputs[0]), resize.outputs[0]
    given = settings(resize)
    if any(given.get(name, "") != value for name, value in NEAREST.items()):
        return "it does not repeat the nearest pixel"
    if not resizes_by_sizes(resize):
        return "its scales are not the ratio of its sizes"
    if before is None or after is None or len(after) != 4 or (before[0], before[3]) != (after[0], after[3]):
        return "it resizes more than height and width"
    if any(not is_one(use.node.op_type, CONV) for use in out.uses()) or out.is_graph_output():
        return "another node reads the larger picture"
    return None


class ConcatParts(Rule):
    """Skip connections: norm and shortcut read both parts where they are."""

    family = "concat"

    @classmethod
    def run(cls, model: ir.Model) -> tuple[int, Counter[str]]:
        """Each Concat of two whose readers can all take two parts."""
        edit, applied, reasons = Edit(model), 0, Counter[str]()
        for node in list(model.graph):
            if node.op_type != "Concat" or any(value is None or value.const_value is not None for value in node.inputs):
                continue
            # rows of numbers, as of texts: no picture that could be read in parts
            if len(dims(node.outputs[0]) or ()) < 4:
                continue
            if (reason := _no_parts(node)) is not None:
                reasons[reason] += 1
                continue
            for reader in [use.node for use in node.outputs[0].uses()]:
                out = reader.outputs[0]
                name = f"Concat{reader.op_type}"
                given = settings(reader)
                inputs = [*node.inputs, *reader.inputs[1:]]
                (new,) = edit.emit(reader, name, inputs, dims(out) or (), name=f"{out.name}:parts", ours=True, **given)
                edit.replace(out, new)
            applied += 1
        edit.finish()
        return applied, reasons


def _no_parts(node: ir.Node) -> str | None:
    out = node.outputs[0]
    shape = dims(out)
    if (
        shape is None
        or len(shape) != 4
        or node.attributes["axis"].as_int() % len(shape) != len(shape) - 1
        or len(node.inputs) != 2
    ):
        return "it does not join two pictures with channels last"
    for use in out.uses():
        if use.idx != 0 or not is_one(use.node.op_type, PARTS):
            return f"{use.node.op_type} reads it, which cannot take two parts"
    return "it is a result of the graph" if out.is_graph_output() else None
