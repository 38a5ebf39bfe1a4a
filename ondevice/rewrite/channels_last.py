"""Channels last (NHWC): tokens and pixels are the same rows,
so nothing is transposed between attention and convolutions.

Conv | GroupNorm | Resize | Concat [n, c, h, w]  ->  ConvNhwc (1x1: LinearBias) | GroupNormNhwc | ... [n, h, w, c]
Transpose [n, h, w, c] - Reshape [n, tokens, c]  ->  Reshape
Reshape [clips, frames, c, h * w] - Transpose 0213  ->  Reshape [clips, frames, h * w, c], and back: frames in a column

Every value with channels first gets a twin with channels last when a node can work on it; a Transpose stands only where
a twin meets a node that cannot. That is at the graph's edges, once the norms and activations are fused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import onnx_ir as ir

from ondevice.graph.epilogue import of
from ondevice.graph.ranks import SUM
from ondevice.graph.verify import resizes_by_sizes, static_shape
from ondevice.rewrite.edit import Edit
from ondevice.rewrite.functions import DOMAIN
from ondevice.rewrite.rule import Rule, dims, settings

ELEMENTWISE = {
    "Add", "Sub", "Mul", "Div", "Sigmoid", "Tanh", "Erf", "Exp", "Sqrt", "Neg", "Relu", "Silu", "Gelu", "GeluTanh",
    "QuickGelu", SUM,
}  # fmt: skip

FRAMES_FIRST = (0, 2, 1, 3)


class ChannelsLast(Rule):
    """One walk in graph order."""

    family = "channels_last"

    @classmethod
    def run(cls, model: ir.Model) -> tuple[int, Counter[str]]:
        """Twins for all that can have them; returns how many nodes now work on channels last."""
        return _Walk(model).run()


class _Walk:
    def __init__(self, model: ir.Model) -> None:
        self.edit, self.graph = Edit(model), model.graph
        self.twins: dict[ir.Value, ir.Value] = {}
        self.moved: dict[ir.Node, None] = {}  # nodes whose result is now made by the twin
        self.reasons: Counter[str] = Counter()
        self.rules: dict[str, Callable[[ir.Node], ir.Value | None]] = {
            "Conv": self.conv,
            "GroupNorm": self.group_norm,
            "GroupNormSilu": self.group_norm,
            "Resize": self.resize,
            "Concat": self.concat,
            "Reshape": self.reshape,
            "Transpose": self.transpose,
            **dict.fromkeys(ELEMENTWISE, self.elementwise),
        }

    def run(self) -> tuple[int, Counter[str]]:
        for node in list(self.graph):
            rule = self.rules.get(node.op_type) if node.domain in ("", DOMAIN) else None
            twin = rule(node) if rule else None
            if twin is not None:
                self.twins[node.outputs[0]] = twin
                self.moved[node] = None
        for node in self.moved:
            self.settle(node.outputs[0])
        self.edit.finish()
        return sum(node.op_type not in ("Reshape", "Transpose") for node in self.moved), self.reasons

    def settle(self, value: ir.Value) -> None:
        """Who still reads `value` with its channels first gets the twin turned back."""
        twin = self.twins.get(value)
        if twin is None:  # the first of two moves that are one
            self.edit.drop(value)
            return
        readers = [use.node for use in value.uses() if use.node not in self.moved]
        if not readers and not value.is_graph_output():
            self.edit.drop(value)
            return
        rank = len(static_shape(value))
        perm = (0, rank - 1, *range(1, rank - 1))
        maker = twin.producer()
        assert maker is not None, "a twin is a node's result"
        (back,) = self.edit.emit(
            maker, "Transpose", [twin], static_shape(value), name=f"{value.name}:first", after=True, perm=perm
        )
        self.edit.replace(value, back)

    # What twins are made of ----------------------------------------------------------------------------------------

    def last(self, at: ir.Node, value: ir.Value) -> ir.Value:
        """`value` [n, c, ...] as [n, ..., c], by a Transpose unless it is there already."""
        if value not in self.twins:
            n, c, *rest = static_shape(value)
            perm = (0, *range(2, len(rest) + 2), 1)
            (self.twins[value],) = self.edit.emit(
                at, "Transpose", [value], (n, *rest, c), name=f"{value.name}:last", perm=perm
            )
        return self.twins[value]

    def emit(
        self, node: ir.Node, op: str, inputs: Sequence[ir.Value | None], ours: bool = False, **attributes: Any
    ) -> ir.Value:
        """The twin's node, beside the one it stands for."""
        n, c, *rest = static_shape(node.outputs[0])
        (out,) = self.edit.emit(
            node, op, inputs, (n, *rest, c), name=f"{node.outputs[0].name}:last", ours=ours, **attributes
        )
        return out

    def conv(self, node: ir.Node) -> ir.Value | None:
        x, weight = node.inputs[0], node.inputs[1]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        shape, kernel = dims(x), dims(weight)
        given = settings(node)
        strides, pads = list(given.get("strides", (1, 1))), list(given.get("pads", (0, 0, 0, 0)))
        if (
            x is None
            or weight is None
            or shape is None
            or kernel is None
            or len(shape) != 4
            or weight.const_value is None
        ):
            self.reasons["its weight is not a constant, or it is not over two dimensions"] += 1
            return None
        plain = given.get("group", 1) == 1 and set(given.get("dilations", (1, 1))) == {1} and len(set(strides)) == 1
        if not plain or given.get("auto_pad", "NOTSET") != "NOTSET":
            self.reasons["it is grouped, dilated, padded by rule or has two strides"] += 1
            return None
        out, channels, height, width = kernel
        if (height, width, strides[0], *pads) == (1, 1, 1, 0, 0, 0, 0):  # a linear layer over pixels
            (matrix,) = self.edit.emit(
                node, "Reshape", [weight, self.edit.ints(out, channels)], (out, channels), name=f"{node.name}:matrix"
            )
            (turned,) = self.edit.emit(
                node, "Transpose", [matrix], (channels, out), name=f"{node.name}:turned", perm=(1, 0)
            )
            if bias is None:
                return self.emit(node, "MatMul", [self.last(node, x), turned])
            return self.emit(node, "LinearBias", [self.last(node, x), turned, bias], ours=True)
        (turned,) = self.edit.emit(
            node, "Transpose", [weight], (height, width, channels, out), name=f"{node.name}:turned", perm=(2, 3, 1, 0)
        )
        inputs = [self.last(node, x), turned, *([] if bias is None else [bias])]
        return self.emit(
            node, "ConvNhwc" if bias is None else "ConvNhwcBias", inputs, ours=True, strides=strides, pads=pads
        )

    def group_norm(self, node: ir.Node) -> ir.Value | None:
        x, scale, bias = node.inputs
        if x not in self.twins or x is None or scale is None or bias is None:
            return None
        channels = static_shape(x)[1]
        flat = [
            self.edit.emit(node, "Reshape", [value, self.edit.ints(channels)], (channels,), name=f"{node.name}:{name}")[
                0
            ]
            for name, value in (("scale", scale), ("bias", bias))
        ]
        given, norm = settings(node), of(node.op_type)
        return self.emit(
            node, replace(norm, base=f"{norm.base}Nhwc").name, [self.last(node, x), *flat], ours=True, **given
        )

    def resize(self, node: ir.Node) -> ir.Value | None:
        x, shape = node.inputs[0], dims(node.inputs[0])
        if x is None or shape is None or len(shape) != 4 or x not in self.twins:
            return None
        n, c, height, width = static_shape(node.outputs[0])
        if (n, c) != shape[:2]:
            self.reasons["it changes the number of channels"] += 1
            return None
        if not resizes_by_sizes(node):
            self.reasons["its scales are not the ratio of its sizes"] += 1
            return None
        given = settings(node)
        return self.emit(node, "Resize", [self.twins[x], None, None, self.edit.ints(n, height, width, c)], **given)

    def concat(self, node: ir.Node) -> ir.Value | None:
        rank = len(static_shape(node.outputs[0]))
        if (
            rank != 4
            or node.attributes["axis"].as_int() % rank != 1
            or not any(value in self.twins for value in node.inputs)
        ):
            return None
        return self.emit(
            node, "Concat", [self.last(node, value) for value in node.inputs if value is not None], axis=rank - 1
        )

    def elementwise(self, node: ir.Node) -> ir.Value | None:
        if not any(value in self.twins for value in node.inputs):
            return None
        shape = static_shape(node.outputs[0])
        inputs = [self.like(node, value, shape) for value in node.inputs if value is not None]
        return self.emit(node, node.op_type, inputs, ours=node.domain == DOMAIN)

    def like(self, node: ir.Node, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        """An operand that is broadcast to `shape`, for a node that works on the twin."""
        own = dims(value) or ()
        if set(own) <= {1}:
            return value
        if len(own) == len(shape) and any(size > 1 for size in own[2:]):
            return self.last(node, value)
        padded = (1,) * (len(shape) - len(own)) + own
        if set(padded[2:]) == {1}:  # one number per channel: a view
            wanted = (padded[0], *padded[2:], padded[1])
            return self.edit.emit(
                node, "Reshape", [value, self.edit.ints(*wanted)], wanted, name=f"{value.name}:{node.name}:last"
            )[0]
        (wide,) = self.edit.emit(
            node, "Reshape", [value, self.edit.ints(*padded)], padded, name=f"{value.name}:{node.name}:wide"
        )
        return self.last(node, wide)

    # What vanishes -------------------------------------------------------------------------------------------------

    def reshape(self, node: ir.Node) -> ir.Value | None:
        """[n, c, h, w] <-> [n, c, pixels]; and what was frames in a column to pictures."""
        x, before, after = node.inputs[0], dims(node.inputs[0]), dims(node.outputs[0])
        column = self.first_of_two(x, "Transpose")
        if column is not None and before is not None and after is not None and len(after) == 4:
            frames, pixels = prod(before[:2]), prod(after[2:])
            if (after[0], after[1], pixels) == (frames, before[2], before[3]):
                return self.in_one(node, column, after[0], *after[2:], after[1])
        if x not in self.twins or before is None or after is None or len(after) < 3 or before[:2] != after[:2]:
            return None
        wanted = (after[0], *after[2:], after[1])
        return self.emit(node, "Reshape", [self.twins[x], self.edit.ints(*wanted)])

    def transpose(self, node: ir.Node) -> ir.Value | None:
        """Channels to the end: that is the twin. Channels from the end: what it turns is the twin."""
        x, out = node.inputs[0], node.outputs[0]
        perm = tuple(node.attributes["perm"].as_ints()) if "perm" in node.attributes else ()
        rank = len(perm)
        if x is None or rank < 3:
            return None
        if perm == FRAMES_FIRST and (picture := self.first_of_two(x, "Reshape")) is not None:
            n, c, h, w = dims(picture) or (0,) * 4
            clips, frames, channels, pixels = dims(x) or (0,) * 4
            if (clips * frames, channels, pixels) == (n, c, h * w):
                return self.in_one(node, picture, clips, frames, pixels, channels)
        if perm == (0, *range(2, rank), 1) and x in self.twins:
            self.edit.replace(out, self.twins[x])
        elif perm == (0, rank - 1, *range(1, rank - 1)):
            self.twins[out] = x  # and `out` stays for who needs it so
        return None

    def first_of_two(self, value: ir.Value | None, op: str) -> ir.Value | None:
        """What the node that made `value` moves, with channels first, where that has a twin, and `value` has one
        reader: a Reshape of pictures, or a Transpose that puts frames first."""
        made = None if value is None else value.producer()
        if made is None or made.op_type != op or made.domain or value is None:
            return None
        source = made.inputs[0]
        puts_first = op == "Reshape" or tuple(settings(made).get("perm", ())) == FRAMES_FIRST
        alone = len(list(value.uses())) == 1 and not value.is_graph_output() and len(dims(value) or ()) == 4
        return source if alone and puts_first and source in self.twins and len(dims(source) or ()) == 4 else None

    def in_one(self, node: ir.Node, source: ir.Value, *wanted: int) -> ir.Value:
        """The twin of what two moves of `source` make, the second of which is `node`: the same bytes."""
        first = node.inputs[0]
        maker = None if first is None else first.producer()
        assert maker is not None, "first_of_two has seen it"
        self.moved[maker] = None
        return self.emit(node, "Reshape", [self.twins[source], self.edit.ints(*wanted)])
