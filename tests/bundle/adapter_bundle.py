"""A tiny bundle whose weights are stored in every way that docs/adapters.md has, and that carries two adapters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bundle.setting import Setting, setting
from bundle.tiny_bundle import tiny_contents, tiny_plan, tiny_weights

from ondevice.bundle import Bundle, WeightSource, write_bundle
from ondevice.bundle.changed import ChangedWeights, changes_of
from ondevice.graph.adapted import Change, Module
from ondevice.lower.program import DTYPES
from ondevice.lower.quantize import SCHEMES
from ondevice.lower.stored import Expression, Leaf, step, values_of
from ondevice.plan.plan import Operand

SHAPES = {
    "unet/q": (6, 40),
    "unet/k": (6, 40),
    "unet/v": (8, 40),
    "unet/proj": (14, 40),
    "unet/conv": (5, 3, 3, 3),
    "unet/wide": (24, 8, 3, 3),
    "text_encoder/norm": (9,),
    "unet/alone": (3, 4),
}
USES: list[list[tuple[str, float]]] = [[("first", 1.0)], [("second", -0.75), ("first", 0.3)]]


def leaf(name: str) -> Leaf:
    return Leaf(f"{name}.weight", SHAPES[name])


def base(made: Leaf) -> np.ndarray:
    """A weight of the checkpoint: numbers that no half holds; one column of zeros, groups of whole multiples."""
    rng = np.random.default_rng(len(made.weight) + sum(made.shape))
    values = rng.standard_normal(made.shape).astype(np.float32) / 8
    if made.weight == "unet/proj.weight":
        values[0] = 0
        values[1, :32] = np.float32(0.125) * np.resize([-8, 7, 3, 1, -5], 32)
        values[2, :32] = np.float32(-0.25) * np.resize([6, 7, -7, 1], 32)  # whole multiples, and none is -8
    return values


def expressions() -> dict[str, tuple[Expression, str]]:
    """How each weight is stored, and as what, by its key."""
    turned = {
        name: step("transpose", [leaf(name)], perm=(1, 0)) for name in ("unet/q", "unet/k", "unet/v", "unet/proj")
    }
    fused = step("concat", [turned[f"unet/{part}"] for part in "qkv"], axis=1)
    taps = step("transpose", [leaf("unet/conv")], perm=(2, 3, 1, 0))
    wide = step("transpose", [leaf("unet/wide")], perm=(2, 3, 1, 0))
    matrix = step("reshape", [wide], shape=(72, 24))
    found: dict[str, tuple[Expression, str]] = {
        "tiny/plain": (leaf("unet/conv"), "f32"),
        "tiny/norm": (step("reshape", [leaf("text_encoder/norm")], shape=(1, 9)), "f16"),
        "tiny/rows": (step("pad", [turned["unet/q"]], columns=8), "f16"),
        "tiny/scaled": (step("scale", [taps], by=0.25), "f16"),
        "tiny/fused": (step("panels", [fused], width=16, halves=1, fill=0), "f16"),
        "tiny/fused.f32": (step("panels", [fused], width=8, halves=1, fill=0), "f32"),
        "tiny/gated": (step("panels", [turned["unet/proj"]], width=8, halves=2, fill=0), "f16"),
        "tiny/winograd": (step("winograd", [taps]), "f32"),
        "tiny/winograd.panels": (
            step("panels", [step("reshape", [step("winograd", [wide])], shape=(288, 24))], width=16, halves=1, fill=0),
            "f16",
        ),
    }
    for name, of, width, halves in (
        ("fused", fused, 16, 1), ("gated", turned["unet/proj"], 8, 2), ("taps", matrix, 16, 1),
    ):  # fmt: skip
        for scheme in SCHEMES.values():
            numbers = step("panels", [step(scheme.name, [of])], width=width, halves=halves, fill=scheme.zero)
            scales = step("panels", [step(f"{scheme.name}_scales", [of])], width=width, halves=halves, fill=0)
            numbers = step("pairs", [numbers]) if scheme.dtype == "u4x2" else numbers
            found[f"tiny/{name}.{scheme.name}"] = (numbers, scheme.dtype)
            found[f"tiny/{name}.{scheme.name} scales"] = (scales, scheme.scale_dtype)
    for number in range(2):  # of the columns of tiny/rows, and of tiny/gated's seven pairs one of each
        q, proj = (
            step("share", [turned[name]], axis=1, parts=parts, number=number, ranks=2)
            for name, parts in (("unet/q", 1), ("unet/proj", 7))
        )
        found[f"tiny/rows_{number + 1}of2"] = (q, "f16")
        found[f"tiny/gated_{number + 1}of2"] = (step("panels", [proj], width=8, halves=1, fill=0), "f16")
    return found


def adapters() -> dict[str, dict[str, tuple[Change, ...]]]:
    """The first: products of rank 2 in half; the second: of rank 1 and 3 in single precision, and whole."""
    rng = np.random.default_rng(7)

    def product(name: str, rank: int, dtype: str, scale: float) -> Change:
        out, *rest = SHAPES[name]
        shapes = (out, rank), (rank, int(np.prod(rest, dtype=int)))
        stored = np.float16 if dtype == "f16" else np.float32
        factors = tuple(rng.standard_normal(shape).astype(stored) for shape in shapes)
        return Change(scale, shapes, dtype, lambda: factors)

    def whole(name: str, scale: float) -> Change:
        values = rng.standard_normal(SHAPES[name]).astype(np.float32)
        return Change(scale, (SHAPES[name],), "f32", lambda: (values,))

    first = {f"{name}.weight": (product(name, 2, "f16", 0.0625),) for name in SHAPES if name != "unet/v"}
    second = {
        "unet/q.weight": (product("unet/q", 1, "f32", 0.1), product("unet/q", 3, "f32", -0.05)),
        "unet/proj.weight": (whole("unet/proj", 1 / 3),),
        "unet/wide.weight": (whole("unet/wide", 0.02), product("unet/wide", 2, "f16", 0.03)),
    }
    return {"first": first, "second": second}


def write_adapters(path: Path, *, force: bool = False) -> Path:
    plan, sources, operands = tiny_plan(8), dict(tiny_weights()), []
    for key, (made, dtype) in expressions().items():
        sources[key] = WeightSource(_reader(made), dtype, made.shape, made)
        size = int(np.prod(made.shape, dtype=np.int64)) * DTYPES[dtype]
        operands.append(Operand(key.removeprefix("tiny/"), dtype, made.shape, size, weight=key))
    plan = replace(plan, operands=(*plan.operands, *operands))
    modules: dict[str, dict[str, Module]] = {}
    for name, shape in SHAPES.items():
        part, _, layer = name.partition("/")
        modules.setdefault(part, {})[layer] = Module(shape, "input_blocks.1.q" if layer == "q" else "")
    contents = tiny_contents(plans=[plan], weights=sources, modules=modules, adapters=adapters())
    return write_bundle(path, contents, force=force)


def changed_weights(bundle: Bundle, used: list[tuple[str, float]]) -> ChangedWeights:
    """The weights of a bundle with adapters that it carries, each at a scale."""
    terms: dict[str, list[tuple[float, Change]]] = {}
    for name, scale in used:
        for leaf, changes in changes_of(bundle, bundle.manifest.adapters[name]).items():
            terms.setdefault(leaf, []).extend((scale, change) for change in changes)
    return ChangedWeights(bundle, terms)


def _reader(made: Expression) -> Callable[[], np.ndarray]:
    return lambda: values_of(made, base)


_LEAF = {"weight": "unet/conv.weight", "shape": [5, 3, 3, 3]}


def _made(key: str, *path: str | int, to: Any, also: tuple[Setting, ...] = ()) -> Setting:
    return setting("weights", f"tiny/{key}", "made", *path, to=to, also=also)


def _nested(depth: int) -> dict[str, Any]:
    made: dict[str, Any] = _LEAF
    for _ in range(depth - 1):
        made = {"op": "reshape", "shape": [5, 3, 3, 3], "of": [made]}
    return made


_FIRST = ("adapters", "first", "changes", "unet/q.weight")
ADAPTER_CHANGES: list[tuple[str, Any, str]] = [
    ("bundle.json", change, message)
    for change, message in [
        (_made("plain", to=[]), 'weights["tiny/plain"].made is a list of 0 (expected an object)'),
        (_made("plain", to={"op": "transpose"}), 'weights["tiny/plain"].made.of is missing'),
        (_made("plain", to={"op": "exp", "of": [_LEAF]}), 'weights["tiny/plain"].made.op is "exp" (expected one of: '),
        (
            _made("plain", to=_nested(13)),
            f'weights["tiny/plain"].made{".of[0]" * 12} is nested too deeply (expected at most 12 steps)',
        ),
        (
            _made("plain", to={"op": "transpose", "perm": [0], "of": [1]}),
            'weights["tiny/plain"].made.of[0] is 1 (expected an object)',
        ),
        (
            _made("plain", to={"op": "concat", "axis": 0, "of": [_LEAF] * 4097}),
            'weights["tiny/plain"].made.of is a list of 4097 (expected a list of 1..4096)',
        ),
        (_made("plain", "weight", to="a\nb"), 'weights["tiny/plain"].made.weight is "a\\nb" (expected 1..512'),
        (_made("plain", "shape", to=[5, 3, 3, 0]), 'weights["tiny/plain"].made.shape[3] is 0 (expected 1..'),
        (_made("plain", "shape", to=[5, 3, 9]), 'weights["tiny/plain"].made is of [5, 3, 9] (expected [5, 3, 3, 3]'),
        (_made("rows", "columns", to=5), 'weights["tiny/rows"].made cannot be had: [40, 6] has more columns than 5'),
        (_made("rows", "columns", to=8.0), 'weights["tiny/rows"].made.columns is 8.0 (expected 1..'),
        (_made("rows", "columns", to=...), 'weights["tiny/rows"].made.columns is missing'),
        (_made("rows", "of", to=[_LEAF, _LEAF]), 'weights["tiny/rows"].made cannot be had: pad is of one (got 2)'),
        (
            _made("rows", "of", 0, "perm", to=[0, 0]),
            'weights["tiny/rows"].made.of[0] cannot be had: [0, 0] is no order of the axes of [6, 40]',
        ),
        (_made("rows", "of", 0, "perm", to=[1, 8]), 'weights["tiny/rows"].made.of[0].perm[1] is 8 (expected 0..7)'),
        (_made("scaled", "by", to="1"), 'weights["tiny/scaled"].made.by is "1" (expected a number within float32)'),
        (_made("scaled", "by", to=1e39), 'weights["tiny/scaled"].made.by is 1e+39 (expected a number within float32)'),
        (_made("norm", "shape", to=[3, 4]), 'weights["tiny/norm"].made cannot be had: [9] cannot become [3, 4]'),
        (
            _made("fused", "of", 0, "axis", to=2),
            'weights["tiny/fused"].made.of[0] cannot be had: axis 2 of [[40, 6], [40, 6], [40, 8]]',
        ),
        (
            _made("fused", "of", 0, "axis", to=0),
            'weights["tiny/fused"].made.of[0] cannot be had: [[40, 6], [40, 6], [40, 8]] do not fit each other along',
        ),
        (_made("gated", "halves", to=3), 'weights["tiny/gated"].made.halves is 3 (expected 1..2)'),
        (_made("gated", "width", to=7), 'weights["tiny/gated"].made cannot be had: [40, 14] in panels of 7'),
        (
            _made("fused.int4", "of", 0, "fill", to=16),
            'weights["tiny/fused.int4"].made.of[0].fill is 16 (expected 0..15)',
        ),
        (
            _made("winograd", to={"op": "winograd", "of": [_LEAF]}),
            'weights["tiny/winograd"].made cannot be had: [5, 3, 3, 3] are not the taps of 3x3 kernels',
        ),
        (
            _made("fused.int8", "of", 0, "op", to="int8_scales"),
            'weights["tiny/fused.int8"].made is of [2, 1, 16] (expected [2, 40, 16], as it is stored)',
        ),
        (
            _made("fused.int8", "of", 0, "op", to="int4"),
            'weights["tiny/fused.int8"].made makes u4x2 (expected i8, as it is stored)',
        ),
        (
            _made("fused.int4", to={"op": "pairs", "of": [{"op": "pairs", "of": [_LEAF]}]}),
            'weights["tiny/fused.int4"].made.of[0] cannot be had: [5, 3, 3, 3] has no pairs',
        ),
        (
            _made(
                "fused",
                "of",
                0,
                to={
                    "op": "int8",
                    "of": [
                        {"op": "reshape", "shape": [40, 20], "of": [{"weight": "unet/other.weight", "shape": [800]}]}
                    ],
                },
            ),
            'weights["tiny/fused"].made makes i8 (expected f16, as it is stored)',
        ),
        (
            _made("fused.int8", "of", 0, "of", 0, to={"op": "int4", "of": [{"weight": "w", "shape": [40, 20]}]}),
            'weights["tiny/fused.int8"].made has numbers in few bits within',
        ),
        (
            _made("fused.int8 scales", to=...),
            'weights["tiny/fused.int8"].made has no weight beside it that is made by int8_scales of the same',
        ),
        (
            _made("taps.int4", to=...),
            'weights["tiny/taps.int4 scales"].made has no weight beside it that is made by int4 of the same',
        ),
        (
            _made("plain", "weight", to="unet/wide.weight"),
            'weights["tiny/plain"].made has "unet/wide.weight" of [5, 3, 3, 3] (expected [24, 8, 3, 3])',
        ),
        (setting("modules", to=[]), "modules is a list of 0 (expected an object of at most 16)"),
        (setting("modules", "a b", to={}), 'modules is "a b" (expected an identifier)'),
        (setting("modules", "unet", to=1), 'modules["unet"] is 1 (expected an object of at most 65536)'),
        (setting("modules", "unet", "q", to={}), 'modules["unet"]["q"].shape is missing'),
        (
            setting("modules", "unet", "q", "shape", to=[40, 6]),
            'weights["tiny/rows"].made has "unet/q.weight" of [6, 40]',
        ),
        (setting("modules", "unet", "q", "original", to=1), 'modules["unet"]["q"].original is 1 (expected 1..512'),
        (setting("adapters", to=[]), "adapters is a list of 0 (expected an object of at most 256)"),
        (setting("adapters", "../x", to={}), 'adapters is "../x" (expected a file name of letters'),
        (setting("adapters", "a" * 65, to={}), "adapters is"),
        (setting("adapters", "FIRST", to={"scale": 1, "changes": {}}), 'adapters names "FIRST" twice'),
        (setting("adapters", "first", "scale", to=None), 'adapters["first"].scale is null (expected a number'),
        (setting("adapters", "first", "changes", to=...), 'adapters["first"].changes is missing'),
        (
            setting("adapters", "first", "changes", "unet/none.weight", to=[]),
            'adapters["first"].changes["unet/none.weight"] is of no weight that the plans read',
        ),
        (
            setting(*_FIRST, to=[]),
            'adapters["first"].changes["unet/q.weight"] is a list of 0 (expected a list of 1..16)',
        ),
        (setting(*_FIRST, 0, "scale", to="x"), 'adapters["first"].changes["unet/q.weight"][0].scale is "x" (expected'),
        (setting(*_FIRST, 0, "up", to="none"), 'adapters["first"].changes["unet/q.weight"][0].up is "none" (expected'),
        (
            setting(*_FIRST, 0, "up", to="tiny/rows"),
            'adapters["first"].changes["unet/q.weight"][0].up is "tiny/rows" (expected a weight of f16 or f32 that no',
        ),
        (
            setting(*_FIRST, 0, "up", to="parts"),
            'adapters["first"].changes["unet/q.weight"][0].up is "parts" (expected a weight of f16 or f32 that no',
        ),
        (
            setting(*_FIRST, 0, "up", to="adapters/first/unet/k.weight:0:down"),
            'adapters["first"].changes["unet/q.weight"][0] does not fit the weight (got [2, 40] and [2, 40], expected',
        ),
        (
            setting(*_FIRST, 0, to={"full": "adapters/first/unet/k.weight:0:down", "scale": 1}),
            'adapters["first"].changes["unet/q.weight"][0] does not fit the weight (got [2, 40], expected a change of',
        ),
    ]
]
