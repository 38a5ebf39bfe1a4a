"""What products are multiplied in: a kernel says it, a target has the unit for it, a recipe asks for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from rewrite.graphs import graph as from_text

from ondevice.bundle.kernels import launch_of
from ondevice.compiler import Recipe, report
from ondevice.compiler.fallbacks import of_math, of_products, of_rules
from ondevice.compiler.jobs import Job
from ondevice.compiler.programs import programs
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint
from ondevice.errors import UsageError
from ondevice.lower import lower
from ondevice.lower.bounds import Bounds
from ondevice.lower.kernel_file import KernelFile, load_all
from ondevice.lower.linear import DENSE
from ondevice.lower.program import math_of
from ondevice.lower.select import select, ways
from ondevice.plan import plan
from ondevice.target import MATHS, load_target

PLAIN = {name: kernel for name, kernel in load_all().items() if not kernel.maths}
HOST, BF16 = load_target("host"), load_target("host-bf16")
SIZES = {"batch": 1, "m": 8, "n": 16, "k": 32, "k1": 32, "a_batch": 0, "b_batch": 0, "constant": 1, "rows": 8}
SIZES |= {"ldb": 16} | DENSE


def multiplying(of: str, name: str, *maths: str, **header: Any) -> KernelFile:
    """A kernel of class `cpu` like another, which says that it multiplies in these."""
    text = PLAIN[of].text.replace(f"KERNEL({of})", f"KERNEL({name})").replace('class = "portable"', 'class = "cpu"')
    made = KernelFile.parse(name, text)
    return replace(made, header=made.header | {"math": [*maths], "caps": ["matrix_unit"]} | header)


MATRIX = multiplying("matmul", "matmul_pairs", "bf16", "bf16x3", needs={"rows": {"min": 4}})
CONV = multiplying("conv2d_nhwc", "conv2d_pairs", "bf16")
METHOD = multiplying("winograd_strips", "winograd_pairs", "bf16", needs={"tiles": {"min": 12}})
KERNELS = PLAIN | {"matmul_pairs": MATRIX, "conv2d_pairs": CONV}
WIDE = {"n": 1, "ic": 256, "h": 8, "w": 8, "oc": 256, "oh": 8, "ow": 8, "kh": 3, "kw": 3, "stride": 1, "pad_top": 1}
WIDE |= {"pad_left": 1, "tiles": 256, "up_h": 8, "up_w": 8, "cramped": 0}


@pytest.mark.parametrize(
    "math, target, rows, name, unmet",
    [
        ("fp32", "host-bf16", 8, "matmul", ""),
        ("bf16", "host-bf16", 8, "matmul_pairs", ""),
        ("bf16x3", "host-amx", 8, "matmul_pairs", ""),
        ("bf16", "host-bf16", 3, "matmul", "rows=3 is under 4"),
        ("bf16x3", "host-bf16", 8, "matmul", "bf16x3 does not pay on target host-bf16"),
        ("bf16", "host", 8, "matmul", "it needs matrix_unit, which target host has not"),
        ("bf16", "gpu", 8, "matmul", "it is of class cpu (target gpu has portable)"),
    ],
)
def test_a_kernel_of_the_math_that_is_asked_for(math: str, target: str, rows: int, name: str, unmet: str) -> None:
    choice = select("Linear", SIZES | {"m": rows, "rows": rows}, load_target(target).asked(math), KERNELS)
    assert (choice.way.first.name, choice.unmet) == (name, unmet)
    assert math != "fp32" or "matmul_pairs" not in choice.losers, "who asks for float32 hears nothing of others"


def test_of_another_math_it_is_no_way_at_all() -> None:
    choice = select("ConvNhwc", WIDE | {"kh": 1}, BF16.asked("bf16x3"), KERNELS)
    assert choice.way.first.name == "conv2d_bands" and not choice.unmet and "conv2d_pairs" not in choice.losers
    assert "conv2d_pairs" in {way.first.name for way in ways("ConvNhwc", KERNELS)}, "asked for any"
    assert "conv2d_pairs" not in {way.first.name for way in ways("ConvNhwc", KERNELS, "bf16x3")}


def test_methods_that_outrun_the_matrix_unit() -> None:
    assert BF16.outruns == ("winograd",) and not load_target("host-amx").outruns
    chosen = {target.name: select("ConvNhwc", WIDE, target.asked("bf16"), KERNELS) for target in (BF16, AMX)}
    assert chosen["host-bf16"].way.first.name == "winograd_strips"
    assert chosen["host-bf16"].unmet == "winograd in fp32 is faster on the target"
    assert chosen["host-amx"].way.first.name == "conv2d_pairs" and not chosen["host-amx"].unmet
    # where the method does not fit, the unit is taken
    assert select("ConvNhwc", WIDE | {"kh": 1}, BF16.asked("bf16"), KERNELS).way.first.name == "conv2d_pairs"


@pytest.mark.parametrize(
    "target, math, tiles, name, unmet",
    [
        ("host-bf16", "bf16", 12, "winograd_pairs", ""),
        ("host-bf16", "bf16", 11, "winograd_strips", "tiles=11 is under 12"),
        ("host-bf16", "fp32", 12, "winograd_strips", ""),
        ("host-bf16", "bf16x3", 12, "winograd_strips", ""),
        ("host-amx", "bf16", 12, "conv2d_pairs", ""),
    ],
)
def test_a_method_in_the_unit(target: str, math: str, tiles: int, name: str, unmet: str) -> None:
    """It comes first where the target says that it outruns the plain way, and after that one elsewhere."""
    kernels = KERNELS | {"winograd_pairs": METHOD}
    choice = select("ConvNhwc", WIDE | {"tiles": tiles}, load_target(target).asked(math), kernels)
    assert (choice.way.first.name, choice.unmet) == (name, unmet)


AMX = load_target("host-amx")
NET = """(float[1, 8, 32] x, float[1, 1, 32] t, float[32, 16] a, float[32, 16] b)
=> (float[1, 8, 16] y, float[1, 1, 16] z) {
    y = MatMul (x, a)
    z = MatMul (t, b)
}"""


def net() -> Any:
    model = from_text(NET, a=[[0.5] * 16] * 32, b=[[0.5] * 16] * 32)
    for number, node in enumerate(model.graph):
        node.name = f"n{number}"
    return model


@pytest.mark.parametrize("math", MATHS)
def test_calls_say_what_they_multiply_in(math: str) -> None:
    program = lower(net(), "net", storage="f16", kernels=KERNELS, target=AMX.asked(math))
    found = {call.node: (call.kernel, math_of(call.defines)) for call in program.calls if call.op == "MatMul"}
    wide = ("matmul_pairs", math) if math != "fp32" else ("matmul", "fp32")
    assert found == {"n0": wide, "n1": ("matmul", "fp32")}
    assert program.math == math and program.in_math.applied == (math != "fp32")
    skipped = Counter() if math == "fp32" else Counter({"MatMul: rows=1 is under 4": 1})
    assert program.in_math.skipped == skipped
    assert {name for call in program.calls for name, _ in call.defines if name.startswith("MATH_")} == (
        {f"MATH_{math}"} if math != "fp32" else set()
    )
    rows = [row for row in report.of_program(program, "f16").histogram() if row["op"] == "MatMul"]
    assert sorted((row["kernel"], row["math"]) for row in rows) == sorted({wide, ("matmul", "fp32")})


def test_what_became_of_it_is_told() -> None:
    program = lower(net(), "net", storage="f16", kernels=KERNELS, target=AMX.asked("bf16x3"))
    rules = {"rules": of_math(program)}
    assert rules["rules"][0] == {
        "rule": "Bf16X3", "family": "math", "applied": 1, "skipped": {"MatMul: rows=1 is under 4": 1}, "off": False,
    }  # fmt: skip
    assert of_products(rules) == "products in bf16x3: 1 nodes; in fp32: 1 MatMul: rows=1 is under 4"
    assert not of_rules("net", rules), "float32 is no fallback"
    assert not of_math(lower(net(), "net", kernels=KERNELS, target=AMX)) and not of_products({"rules": []})
    text = report.to_text(replace(report.of_program(program, "f16"), math=of_products(rules)))
    assert "  products in bf16x3: 1 nodes" in text
    lines = [line.split() for line in text.splitlines() if "matmul" in line]
    assert sorted(line[:3] for line in lines) == [["MatMul", "matmul", "fp32"], ["MatMul", "matmul_pairs", "bf16x3"]]
    plain = report.to_text(report.of_program(lower(net(), "net", kernels=KERNELS, target=AMX), "f32"))
    assert "math" not in plain and "fp32" not in plain, "a column of nothing but float32 is none"


def test_an_unknown_math() -> None:
    with pytest.raises(UsageError, match=r"^net: math 'fp8' is unknown \(expected one of fp32, bf16, bf16x3\)"):
        lower(net(), "net", target=HOST.asked("fp8"))


def test_text_encoders_stay_in_float32() -> None:
    model = build(random_checkpoint("demo", 0))
    recipe = Recipe("f16", target=AMX, math="bf16")
    parts = {part: recipe.multiplied_in(model, part) for part in ("text_encoder", "unet", "vae_decoder")}
    assert parts == {"text_encoder": "fp32", "unet": "bf16", "vae_decoder": "bf16"}
    job = Job("text_encoder", {"batch": 1})
    (compiled,) = programs(model, recipe, [job], KERNELS)
    assert {math_of(call.defines) for call in compiled.program.calls} == {"fp32"}
    assert not [row for row in compiled.rewrite["rules"] if row["family"] == "math"]


@pytest.mark.parametrize("one, three", [*product((0, 1), repeat=2)])
def test_a_launch_is_in_one_math(one: int, three: int) -> None:
    made = plan(lower(net(), "net", storage="f16", kernels=KERNELS, target=AMX.asked("bf16")), storage="f16")
    launch = next(launch_of(made, d) for d in made.dispatches if made.kernels[d.kernel].file == "matmul_pairs")
    assert Bounds(MATRIX).misuse(launch) is None
    changed = replace(launch, defines=launch.defines | {"MATH_bf16": one, "MATH_bf16x3": three})
    wrong = "it multiplies in none, or in several maths (expected one of MATH_bf16, MATH_bf16x3)"
    assert Bounds(MATRIX).misuse(changed) == (None if one + three == 1 else wrong)
    fewer = Bounds(replace(MATRIX, header=MATRIX.header | {"math": ["bf16"]}))
    assert fewer.misuse(changed) == "define MATH_bf16x3 is none of the kernel's"
