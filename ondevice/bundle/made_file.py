"""How stored weights come from the checkpoint's, as `bundle.json` says it: `made`, read and written, and `modules`.

The specification is docs/adapters.md, section "In a bundle".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ondevice.bundle import format as f
from ondevice.bundle.weight_entry import WeightEntry
from ondevice.graph.adapted import Module, Modules, leaves
from ondevice.graph.ranks import MOST, SHARE
from ondevice.lower.stored import NUMBERS, OPS, SCALES, Expression, Leaf, leaves_of, number_step, ops_of, step

MAX_DEPTH, MAX_LEAVES = 12, 4_096  # of one weight's expression
MAX_PARTS = 16
At = tuple[str | int | tuple[str], ...]
FLOATS = ("f16", "f32")


def number(check: f.Checker, value: Any, at: At) -> float:
    if type(value) not in (int, float) or not abs(value) <= f.FLOAT32_MAX:
        check.fail(f"is {f.shown(value)} (expected a number within float32)", *at)
    return value


def _whole(low: int, high: int) -> Callable[[f.Checker, Any, At], int]:
    return lambda check, value, at: check.integer(value, low, high, *at)


def _list(low: int, high: int) -> Callable[[f.Checker, Any, At], tuple[int, ...]]:
    return lambda check, value, at: check.integers(value, low, high, (0, f.MAX_RANK), *at)


# What each op is told, besides what it is made of; of panels `fill` may be left out.
_TOLD: Mapping[str, Mapping[str, Callable[[f.Checker, Any, At], Any]]] = {
    "transpose": {"perm": _list(0, f.MAX_RANK - 1)},
    "reshape": {"shape": _list(1, f.INT32[1])},
    "scale": {"by": number},
    "concat": {"axis": _whole(0, f.MAX_RANK - 1)},
    "pad": {"columns": _whole(1, f.INT32[1])},
    "panels": {"width": _whole(1, f.MAX_SIZE), "halves": _whole(1, 2)},
    SHARE: {
        "axis": _whole(0, f.MAX_RANK - 1),
        "parts": _whole(1, f.MAX_SIZE),
        "number": _whole(0, MOST - 1),
        "ranks": _whole(2, MOST),
    },
}
_KNOWN = {"concat", *OPS}


def key_of(made: Expression) -> str:
    """The field of a weight that says how it is made: of a rank's share another one, which players that run no such
    plans leave alone."""
    return SHARE if SHARE in ops_of(made) else "made"


def parse_made(check: f.Checker, value: Any, at: At, known: Collection[str] = _KNOWN - {SHARE}) -> Expression:
    """The expression of one weight, of ops that are `known`. Raises BundleError where it is none, or too large."""
    left = MAX_LEAVES

    def parse(value: Any, at: At, depth: int) -> Expression:
        nonlocal left
        if type(value) is not dict:
            check.fail(f"is {f.shown(value)} (expected an object)", *at)
        if depth > MAX_DEPTH:
            check.fail(f"is nested too deeply (expected at most {MAX_DEPTH} steps)", *at)
        if "weight" in value:
            left -= 1
            if left < 0:
                check.fail(f"has too many weights (expected at most {MAX_LEAVES})", *at)
            name, shape = check.record(value, ("weight", "shape"), *at)
            return Leaf(check.text(name, *at, "weight"), check.shape(shape, "f32", *at, "shape"))
        op, of = check.record(value, ("op", "of"), *at)
        check.one_of(op, known, *at, "op")
        parts = check.array(of, (1, MAX_LEAVES), *at, "of")
        told = {
            key: read(check, check.record(value, (key,), *at)[0], (*at, key)) for key, read in _TOLD.get(op, {}).items()
        }
        if op == "panels":
            told["fill"] = check.integer(value.get("fill", 0), 0, 15, *at, "fill")
        made = [parse(part, (*at, "of", i), depth + 1) for i, part in enumerate(parts)]
        try:
            return step(op, made, **told)
        except ValueError as error:
            check.fail(f"cannot be had: {error}", *at)

    return parse(value, at, 1)


def parse_any(check: f.Checker, row: Mapping[str, Any], at: At) -> Expression | None:
    """What a weight's row says of how it is made, be it a share or not. Raises BundleError as `parse_made`."""
    if "made" in row:
        return parse_made(check, row["made"], (*at, "made"))
    return parse_made(check, row[SHARE], (*at, SHARE), _KNOWN) if SHARE in row else None


def dump_made(made: Expression) -> dict[str, Any]:
    """The expression as the manifest has it."""
    if isinstance(made, Leaf):
        return {"weight": made.weight, "shape": list(made.shape)}
    told = {key: list(value) if isinstance(value, tuple) else value for key, value in made.told}
    if told.get("fill") == 0:
        del told["fill"]
    return {"op": made.op, **told, "of": [dump_made(part) for part in made.of]}


def adaptable(modules: Modules, made: Mapping[str, Expression | None]) -> dict[str, Expression]:
    """Of stored weights those that come from a weight of `modules`, by their keys."""
    known = {name for name, _ in leaves(modules)}
    return {
        key: one
        for key, one in made.items()
        if one is not None and any(leaf.weight in known for leaf in leaves_of(one))
    }


def check_stored(check: f.Checker, made: Expression, dtype: str, shape: tuple[int, ...], at: At) -> None:
    """Refuse an expression that is not of what is stored: another dtype or shape, or numbers in few bits elsewhere than
    where they can be had back."""
    if made.shape != shape:
        check.fail(f"is of {list(made.shape)} (expected {list(shape)}, as it is stored)", *at)
    numbers = number_step(made)
    wanted: tuple[str, ...] = FLOATS
    if numbers is not None:
        wanted = (NUMBERS[numbers.op].dtype if numbers.op in NUMBERS else SCALES[numbers.op].scale_dtype,)
    if dtype not in wanted:
        check.fail(f"makes {' or '.join(wanted)} (expected {dtype}, as it is stored)", *at)
    outer, inner = (list(ops_of(made, numbers)), list(ops_of(numbers.of[0]))) if numbers else ([], list(ops_of(made)))
    if outer.count("pairs") != (dtype == "u4x2"):
        check.fail("puts two numbers in a byte (expected of 4 bits, once)", *at)
    if any(op in NUMBERS or op in SCALES or op == "pairs" for op in inner):
        check.fail("has numbers in few bits within (expected one such step, before panels and pairs alone)", *at)


def check_all(check: f.Checker, weights: Mapping[str, WeightEntry], modules: Modules) -> None:
    """Refuse weights of the checkpoint that have two shapes, and numbers in few bits without scales, or the other way
    around: of each, there is the other one of the same."""
    shapes = dict(leaves(modules))
    made: dict[tuple[str, Expression], str] = {}
    for key, entry in weights.items():
        if entry.made is None:
            continue
        at: At = ("weights", (key,), key_of(entry.made))
        for leaf in leaves_of(entry.made):
            if (known := shapes.setdefault(leaf.weight, leaf.shape)) != leaf.shape:
                check.fail(f"has {f.shown(leaf.weight)} of {list(leaf.shape)} (expected {list(known)})", *at)
        if (numbers := number_step(entry.made)) is not None:
            made[numbers.op, numbers.of[0]] = key
    for (op, of), key in made.items():
        other = f"{op}_scales" if op in NUMBERS else op.removesuffix("_scales")
        if (other, of) not in made:
            check.fail(f"has no weight beside it that is made by {other} of the same", "weights", (key,), "made")


def parse_modules(check: f.Checker, value: Any) -> Modules:
    """The layers of the model by part, and names in the original layout. Raises BundleError."""
    found: dict[str, dict[str, Module]] = {}
    for part, layers in check.table(value, MAX_PARTS, "modules").items():
        check.identifier(part, "modules")
        at: At = ("modules", (part,))
        found[part] = {}
        for name, row in check.table(layers, f.MAX_WEIGHTS, *at).items():
            check.text(name, *at)
            shape = check.shape(check.record(row, ("shape",), *at, (name,))[0], "f32", *at, (name,), "shape")
            original = check.text(row["original"], *at, (name,), "original") if "original" in row else ""
            found[part][name] = Module(shape, original)
    return found


def dump_modules(modules: Modules) -> dict[str, Any]:
    """The layers as the manifest has them."""
    return {
        part: {
            name: {"shape": list(module.shape)} | ({"original": module.original} if module.original else {})
            for name, module in layers.items()
        }
        for part, layers in modules.items()
    }
