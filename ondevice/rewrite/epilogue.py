"""What follows a Linear or a ConvNhwc is done as its result is stored: one write, finished.

Linear* - Silu | Gelu | QuickGelu | Geglu | Relu     ->  Linear*Silu ...      (family epilogue)
ConvNhwc* - Add shift [n, 1, 1, c]                   ->  ConvNhwc*Shift       (family time_shift: the time embedding)
Linear* - Mul gate [n, 1, c]                         ->  Linear*Gate          (family modulation)
Linear* | ConvNhwc* - Add residual                   ->  *Add                 (family residual)
ConvNhwc*Add - Relu                                  ->  ConvNhwc*AddThenRelu (family residual)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir

from ondevice.converters.architectures.unet_residuals import is_residual
from ondevice.graph.epilogue import ACTIVATIONS, CONV, LINEAR, Stepped, is_one, of
from ondevice.rewrite.edit import Edit
from ondevice.rewrite.functions import DOMAIN
from ondevice.rewrite.rule import Rule, dims, settings


class _Absorb(Rule):
    """A walk in graph order: each node that one of its inputs' producers can take over becomes part of it."""

    @classmethod
    def extended(cls, node: ir.Node, taken: ir.Value, source: Stepped) -> Stepped | str | None:
        """The source once `node`, which reads `taken`, is part of it; a reason why it cannot be;
        None if it is another rule's matter."""
        raise NotImplementedError

    @classmethod
    def by_columns(cls, node: ir.Node) -> bool:
        """Whether it is something else for a view of its input with other columns."""
        return False

    @classmethod
    def may_stay(cls, node: ir.Node) -> bool:
        """Whether it is none of what the rule is for, though it could be absorbed."""
        return False

    @classmethod
    def run(cls, model: ir.Model) -> tuple[int, Counter[str]]:
        """Absorb what can be; convolutions first where both sides of an addition could."""
        edit, applied, reasons = Edit(model), 0, Counter[str]()
        for node in list(model.graph):
            matches = [cls._match(node, value) for value in node.inputs]
            found = sorted(
                (match for match in matches if isinstance(match, _Match)), key=lambda match: match.wanted.base in LINEAR
            )
            if found:
                found[0].apply(edit, node, cls.family)
                applied += 1
            elif not cls.may_stay(node):
                reasons.update(match for match in matches if isinstance(match, str))
        edit.finish()
        return applied, reasons

    @classmethod
    def _match(cls, node: ir.Node, taken: ir.Value | None) -> _Match | str | None:
        source, seen = _producer(taken)
        if taken is None or source is None or source.domain != DOMAIN or not is_one(source.op_type, LINEAR | CONV):
            return None
        before = of(source.op_type)
        wanted = cls.extended(node, taken, before)
        if not isinstance(wanted, Stepped):
            return wanted
        if any(len(list(value.uses())) > 1 or value.is_graph_output() for value in seen):
            return "another node reads the result before it"
        if not wanted.exists:
            return f"a {'Linear' if before.base in LINEAR else 'ConvNhwc'} has no such epilogue"
        if cls.by_columns(node) and len(seen) > 1:
            return "a view stands between, and it goes by columns"
        return _Match(source, taken, wanted)


def _producer(value: ir.Value | None) -> tuple[ir.Node | None, list[ir.Value]]:
    """The node that computed it, seen through a Reshape, and the values on the way."""
    seen = []
    while value is not None:
        seen.append(value)
        node = value.producer()
        if node is None or node.op_type != "Reshape":
            return node, seen
        value = node.inputs[0]
    return None, seen


@dataclass(frozen=True, slots=True)
class _Match:
    source: ir.Node
    taken: ir.Value
    wanted: Stepped

    def apply(self, edit: Edit, node: ir.Node, family: str) -> None:
        """Put the one op in the place of `node`; a residual has the shape of the source's result,
        not that of a view of it."""
        out, source_out = node.outputs[0], self.source.outputs[0]
        extra = [value for value in node.inputs if value is not self.taken and value is not None]
        shape, inner = dims(out) or (), dims(source_out) or ()
        if self.wanted.steps[-1] == "Geglu":
            inner = (*inner[:-1], inner[-1] // 2)
        if inner != shape:
            extra = [
                edit.emit(node, "Reshape", [value, edit.ints(*inner)], inner, name=f"{out.name}:{family}.residual")[0]
                for value in extra
            ]
        given = settings(self.source)
        (new,) = edit.emit(
            node,
            self.wanted.name,
            [*self.source.inputs, *extra],
            inner,
            name=f"{out.name}:{family}",
            ours=True,
            **given,
        )
        if inner != shape:
            (new,) = edit.emit(node, "Reshape", [new, edit.ints(*shape)], shape, name=f"{out.name}:{family}.view")
        edit.replace(out, new)


class Activation(_Absorb):
    """GEGLU included: value and gate are columns of one product."""

    family = "epilogue"

    @classmethod
    def extended(cls, node: ir.Node, taken: ir.Value, source: Stepped) -> Stepped | str | None:
        if node.op_type not in ACTIVATIONS or node.domain != ("" if node.op_type == "Relu" else DOMAIN):
            return None
        if source.activation or "Add" in source.steps:
            return f"its source ends in {source.activation or 'a residual'} already"
        return source.then(node.op_type)

    @classmethod
    def by_columns(cls, node: ir.Node) -> bool:
        return node.op_type == "Geglu"


class TimeShift(_Absorb):
    """A resnet adds the time embedding to its first convolution: one number per picture and channel."""

    family = "time_shift"

    @classmethod
    def extended(cls, node: ir.Node, taken: ir.Value, source: Stepped) -> Stepped | str | None:
        other = next((value for value in node.inputs if value is not taken), None)
        shape, wanted = dims(other), dims(taken)
        if node.domain or node.op_type != "Add" or other is None or shape is None or wanted is None or len(wanted) != 4:
            return None
        if shape == wanted or shape not in ((1, 1, 1, wanted[3]), (wanted[0], 1, 1, wanted[3])):
            return None
        if set(source.steps) - {"Bias"}:
            return "its source is finished already"
        return source.then("Shift")

    @classmethod
    def by_columns(cls, node: ir.Node) -> bool:
        return True


class Gate(_Absorb):
    """What a transformer's blocks make is let through as the timestep says: one number per item and channel."""

    family = "modulation"

    @classmethod
    def extended(cls, node: ir.Node, taken: ir.Value, source: Stepped) -> Stepped | str | None:
        other = next((value for value in node.inputs if value is not taken), None)
        shape, wanted = dims(other), dims(taken)
        if node.domain or node.op_type != "Mul" or wanted is None or len(wanted) != 3 or shape == wanted:
            return None
        return source.then("Gate") if shape == (wanted[0], 1, wanted[2]) else None

    @classmethod
    def by_columns(cls, node: ir.Node) -> bool:
        return True


class Residual(_Absorb):
    """What goes around the layers is added as their result is stored."""

    family = "residual"

    @classmethod
    def extended(cls, node: ir.Node, taken: ir.Value, source: Stepped) -> Stepped | str | None:
        other = next((value for value in node.inputs if value is not taken), None)
        if node.domain or node.op_type != "Add" or other is None or dims(other) is None or dims(other) != dims(taken):
            return None
        return "its source adds a residual already" if "Add" in source.steps else source.then("Add")

    @classmethod
    def may_stay(cls, node: ir.Node) -> bool:
        """What a ControlNet gives goes around no layers: it is added to skip connections, which others read, too."""
        given = (value for value in node.inputs if value is not None and value.is_graph_input())
        return any(is_residual(str(value.name)) for value in given)


class RectifiedSum(_Absorb):
    """What a residual was added to is rectified, as blocks of tiny autoencoders end."""

    family = "residual"

    @classmethod
    def extended(cls, node: ir.Node, taken: ir.Value, source: Stepped) -> Stepped | str | None:
        if node.domain or node.op_type != "Relu" or source.steps[-1:] != ("Add",):
            return None
        return source.then("ThenRelu")
