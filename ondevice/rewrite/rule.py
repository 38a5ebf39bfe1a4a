"""What a rule is: `run(model)` changes a graph in place and says how often, and why other places were left alone.

Most rules are patterns for onnxscript's matcher (`Fusion`): a pattern, a check that says why not, a replacement. Those
that must see more of the graph than a pattern can walk it with an `Edit` (edit.py).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase, RewriteRuleSet

from ondevice.rewrite.functions import DOMAIN, VERSION


class Rule:
    """`family` is what `--without` switches off."""

    family = ""
    commute = True

    @classmethod
    def run(cls, model: ir.Model) -> tuple[int, Counter[str]]:
        """Change the model's graph; how often that was done, and how often it was not for which reason."""
        raise NotImplementedError


class Fusion(Rule, RewriteRuleClassBase):
    """A rule as a pattern. `why_not` returns a reason, or None where the match may be replaced. `commute`: sums and
    products match in any order, at two patterns for each."""

    commute = True

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(remove_nodes=True)
        self._reasons = reasons

    @classmethod
    def run(cls, model: ir.Model) -> tuple[int, Counter[str]]:
        """Replace every match."""
        reasons: list[str] = []
        applied = RewriteRuleSet([cls.rule(reasons)], commute=cls.commute).apply_to_model(model)
        return applied, Counter(reasons)

    def why_not(self, *_: Any, **bound: Any) -> str | None:
        """The reason why a match of the pattern is left alone."""
        return None

    def check(self, op: Any, *args: Any, **bound: Any) -> MatchResult:
        """onnxscript's hook: `why_not` with its reason noted."""
        result = MatchResult()
        if (reason := self.why_not(**bound)) is not None:
            self._reasons.append(reason)
            result.fail(reason)
        return result


def fused(op: Any, name: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
    """A node of our domain."""
    return getattr(op, name)(*inputs, _domain=DOMAIN, _version=VERSION, **attributes)


def settings(node: ir.Node) -> dict[str, Any]:
    """A node's attributes as plain Python values; sequences as lists."""
    values = {name: attribute.value for name, attribute in node.attributes.items()}
    return {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in values.items()}


def number(value: ir.Value | None) -> float | None:
    """The one number that a constant holds, whatever its shape; None for anything else. Lazy weights are never read."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().reshape(-1)[0])


def ints(value: ir.Value | None) -> list[int] | None:
    """The integers of a constant shape; None for anything else."""
    if value is None or value.const_value is None or value.const_value.dtype != ir.DataType.INT64:
        return None
    return [int(i) for i in value.const_value.numpy().reshape(-1)]


def dims(value: ir.Value | None) -> tuple[int, ...] | None:
    """A static shape; None where it is not known."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(value.shape.numpy())


def filled_with(value: ir.Value | None, wanted: float) -> bool:
    """Whether a small constant holds one number throughout."""
    if value is None or value.const_value is None or value.const_value.size > 4096:
        return False
    return bool(np.all(value.const_value.numpy() == wanted))


def near(value: ir.Value | None, wanted: float) -> bool:
    """Whether a constant is `wanted` to float16's precision, in which some exports store it."""
    found = number(value)
    return found is not None and abs(found - wanted) <= 1e-3 * abs(wanted)
