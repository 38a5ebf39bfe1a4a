"""Launches of plans that were read from files: those that lowering makes pass,
and each clause of a header refuses something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ondevice.bundle.kernels import launch_of
from ondevice.compiler import Recipe
from ondevice.compiler.jobs import bundle_jobs
from ondevice.compiler.programs import programs
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint
from ondevice.lower.bounds import Bounds, Launch
from ondevice.lower.kernel_file import load_all
from ondevice.target import load_target

KERNELS = load_all()
BOUNDS = {name: Bounds(kernel) for name, kernel in KERNELS.items()}
PHONE, UNIT, PAIRS = load_target("adreno_740"), load_target("host-amx"), load_target("host-bf16")
FEW = replace(load_target("gpu"), winograd={})  # Winograd for convolutions of few channels, too
# Target, storage, rules that are left out, weights, and the side of the picture: together they launch
# nearly every kernel.
WAYS = [
    ("host", "f16", (), "", 128),
    ("host", "f16", (), "i8", 64),
    ("host", "f16", ("winograd",), "", 64),
    ("gpu", "f32", (), "", 64),
    ("gpu", "f16", (), "i8", 64),
    ("host", "f16", (), "i4", 64),
    ("gpu", "f32", (), "i4", 64),
    ("gpu", "f16", ("all",), "", 64),
    ("host", "f32", ("channels_last", "bias"), "", 64),
    ("host", "f16", (), "", 512),
    (PHONE, "f16", (), "", 64),
    (replace(PHONE, flash={}, group_norm={"two_commands": 1}), "f16", (), "", 64),
    (PHONE, "f16", (), "i8", 64),
    (PHONE, "f16", (), "i4", 64),
    (FEW, "f16", (), "i4", 64),
    ("apple_a16", "f16", (), "i8", 64),
    ("apple_a16", "f16", (), "i4", 64),
    (UNIT.asked("bf16"), "f16", (), "i8", 64),
    (UNIT.asked("bf16x3"), "f32", (), "", 64),
    (UNIT.asked("bf16"), "f16", (), "i4", 64),
    (PAIRS.asked("bf16"), "f16", (), "", 128),
    (PAIRS.asked("bf16"), "f16", (), "i4", 128),
]
TILES = {"tiles_h": 2, "tiles_w": 2, "first": 0, "count": 4}
# Kernels that no plan of those launches: sizes, elements of the operands, defines.
BY_HAND: dict[str, tuple[dict[str, int | float], list[int], dict[str, int]]] = {
    "conv2d": (
        {
            "n": 2,
            "ic": 3,
            "h": 9,
            "w": 7,
            "oc": 5,
            "oh": 2,
            "ow": 1,
            "kh": 5,
            "kw": 5,
            "stride": 3,
            "pad_top": 1,
            "pad_left": 1,
        },
        [2 * 3 * 9 * 7, 5 * 3 * 5 * 5, 5, 2 * 5 * 2],
        {},
    ),
    "group_norm_nhwc_any": (
        {"n": 1, "pixels": 4, "channels": 6, "c1": 4, "per_group": 2, "epsilon": 1e-5},
        [16, 8, 6, 6, 24],
        {},
    ),
    "normalize_nhwc": (
        {"pixels": 4, "channels": 6, "groups": 3, "per_group": 2, "epsilon": 1e-5},
        [24, 3, 3, 6, 6, 24],
        {},
    ),
    "sum_ranks": ({"n": 100}, [100, 100, 100], {}),  # of plans that devices share
    "resize_nearest_nhwc": ({"n": 1, "h": 2, "w": 2, "c": 3, "oh": 4, "ow": 4}, [12, 48], {}),
}
BEFORE = TILES | {"h": 8, "w": 8, "ic": 16, "pad_top": 1, "pad_left": 1, "up_h": 8, "up_w": 8}
AFTER = TILES | {"oh": 8, "ow": 8, "oc": 16, "shift_from": 0, "shift_row": 16}
BY_HAND |= dict.fromkeys(("winograd_input", "winograd_patches"), (BEFORE, [1024, 36 * 64], {}))
BY_HAND |= dict.fromkeys(
    ("winograd_output", "winograd_pixels"),
    (AFTER, [36 * 64, 16, 16, 1024, 1024], {"HAS_BIAS": 1, "HAS_SHIFT": 1, "HAS_ADD": 1}),
)
IN_ITEMS = {"rows": 6, "cols": 8, "tokens": 3}
MODULATED = {"shift_row": 24, "scale_row": 24, "shift_from": 4, "scale_from": 12, "epsilon": 1e-6}
BY_HAND |= {
    "row_mean": ({"rows": 3, "cols": 20}, [60, 3], {}),
    "gated_add": (IN_ITEMS | {"gate_row": 24, "gate_from": 4}, [48, 36, 48, 48], {}),
}
FRAMES = {"batch": 2, "queries": 14, "keys": 14, "heads": 2, "scale": 0.25} | dict.fromkeys(
    ("q_row", "k_row", "v_row"), 32
)
FRAMES |= dict.fromkeys(("q_from", "k_from", "v_from"), 0)
BY_HAND["flash_rows"] = (FRAMES, [2 * 14 * 32] * 4, {"D": 16, "KEYS": 14})
TO_A_TEXT = (FRAMES | {"keys": 37}, [2 * 14 * 32, *[2 * 37 * 32] * 2, 2 * 14 * 32], {"D": 16, "KEYS": 37})
BY_HAND |= {"flash_near": TO_A_TEXT, "flash_near_bf16": (*TO_A_TEXT[:2], TO_A_TEXT[2] | {"MATH_bf16": 1})}
HEADS = {"rows": 8, "cols": 8, "heads": 2, "tokens": 2, "x_row": 20, "x_from": 4, "x_batch": 60, "epsilon": 1e-6}
HEADS |= {"y_from": 16, "y_batch": 64}
BY_HAND |= dict.fromkeys(("rms_norm", "rms_norm_local"), (HEADS, [120, 8, 112], {}))
BY_HAND |= dict.fromkeys(("ada_layer_norm", "ada_layer_norm_local"), (IN_ITEMS | MODULATED, [48, 36, 44, 48], {}))
WIDE = IN_ITEMS | MODULATED | {"cols": 16, "shift_row": 40, "scale_row": 40, "scale_from": 20}
BY_HAND["rms_norm_rows"] = (HEADS | {"cols": 16, "x_row": 40, "x_batch": 120, "y_batch": 128}, [240, 16, 208], {})
BY_HAND["ada_layer_norm_rows"] = (WIDE, [96, 60, 76, 96], {})


def by_hand(name: str) -> Launch:
    dims, elements, defines = BY_HAND[name]
    kernel, tuning = KERNELS[name], KERNELS[name].tuning()
    operands = [("f32", count) for count in elements]
    return Launch(tuning | defines, operands, 1, kernel.scalars(dims), *kernel.launch(dims, tuning))


@pytest.fixture(scope="module")
def launches() -> dict[str, list[Launch]]:
    """Launches of each kernel, no two alike."""
    model = build(random_checkpoint("demo", 0))
    found: dict[str, dict[str, Launch]] = {name: {} for name in KERNELS}
    for target, dtype, without, weights, side in WAYS:
        todo = [
            job
            for job in bundle_jobs(model, [(side, side)], 0, [])
            if job.component == "vae_encoder"
            or (side < 512 and not (weights and job.component == "unet" and job.sizes["batch"] == 1))
        ]  # what few bits change in one pass is what they change in two
        recipe = Recipe(dtype, weights, load_target(target), without, math=load_target(target).math)
        for compiled in programs(model, recipe, todo, KERNELS):
            plan = compiled.plan()
            for call in plan.dispatches:
                launch = launch_of(plan, call)
                found[plan.kernels[call.kernel].file][repr((launch.defines, launch.scalars))] = launch
    return {name: [*by_key.values(), *([by_hand(name)] if name in BY_HAND else [])] for name, by_key in found.items()}


@pytest.mark.parametrize("name", KERNELS)
def test_what_lowering_makes_is_within_bounds(launches: dict[str, list[Launch]], name: str) -> None:
    assert launches[name], "no plan launches it: add one that does"
    assert not [wrong for launch in launches[name] if (wrong := BOUNDS[name].misuse(launch))]


def changed(name: str, launch: Launch) -> Iterator[Launch]:
    """The launch with one number changed; of an operand that it does not read, the define and the size."""
    for at, value in enumerate(launch.scalars):
        if isinstance(value, int):
            for other in (0, 1, value - 1, value + 1, 2 * value + 1, 2**30, 2**31 - 1):
                yield replace(launch, scalars=[*launch.scalars[:at], other, *launch.scalars[at + 1 :]])
    for at, (dtype, elements) in enumerate(launch.operands):
        yield replace(launch, operands=[*launch.operands[:at], (dtype, elements // 2), *launch.operands[at + 1 :]])
    for define in BOUNDS[name]._defines:
        for value in (1 - launch.defines.get(define, 0), 2 * launch.defines.get(define, 0) + 1, 2048, 8192, 1):
            yield replace(launch, defines={**launch.defines, define: value})
        if define.startswith("HAS_") and not launch.defines.get(define):
            for at, (dtype, _) in enumerate(launch.operands):  # the operand that is read then, too small
                operands = [*launch.operands[:at], (dtype, 1), *launch.operands[at + 1 :]]
                yield replace(launch, operands=operands, defines={**launch.defines, define: 1})


@pytest.mark.parametrize("name", KERNELS)
def test_each_clause_of_a_header_refuses_something(launches: dict[str, list[Launch]], name: str) -> None:
    said = {BOUNDS[name].misuse(other) or "" for launch in launches[name] for other in changed(name, launch)}
    for clause in KERNELS[name].header.get("holds", []):
        assert any(one.startswith(f"{clause} does not hold") for one in said), clause
    for entry in (*KERNELS[name].header["in"], *KERNELS[name].header["out"]):
        operand = entry.partition(":")[0]
        assert any(f"({operand}) has" in one for one in said), operand


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"defines": {"V": 7}}, "define V is 7 (expected one of [16, 4, 8])"),
        ({"defines": {"HAS_BIAS": 2}}, "define HAS_BIAS is 2 (expected 0 or 1)"),
        ({"defines": {"oc": 1}}, "define oc is none of the kernel's"),  # it would stand wherever the body says oc
        (
            {"operands": [("f32", 2304)] * 4},
            "it has other arguments than the kernel (expected 4 inputs, 1 outputs, 9 scalars)",
        ),
        ({"operands": [("f16", 2304)] * 5}, "operand 0 (m) is f16 (expected f32)"),
        ({"operands": [("i8", 2304)] * 5}, "operand 0 (m) is i8 (expected f32)"),
        (
            {"operands": [("f32", 2**31)] * 5},
            "operand 0 (m) has 2147483648 elements, and the kernel uses 2304 (expected at most 2147483647)",
        ),
        ({"scalars": (8, 8, 16, 2, 2, -1, 4, 0, 16)}, "first is -1 (expected a whole number, 0 or more)"),
        ({"scalars": (8, 8, 16.0, 2, 2, 0, 4, 0, 16)}, "oc is 16.0 (expected a whole number, 0 or more)"),
        ({"scalars": (8, 8, 0, 2, 2, 0, 4, 0, 16)}, "oc is 0 (expected 1 or more)"),
        ({"scalars": (8, 8, 16, 2, 0, 0, 4, 0, 16)}, "a size that others are divided by is 0"),
        ({"scalars": (8, 8, 8, 2, 2, 0, 4, 0, 16)}, "oc=8 is under V=16"),
        ({"grid": (1, 8, 1)}, "grid is [1, 8, 1] of [1, 1, 1] (expected [1, 4, 1] of [1, 1, 1])"),
        ({"grid": (8, 4, 1), "group": (8, 1, 1)}, "grid is [8, 4, 1] of [8, 1, 1] (expected [1, 4, 1] of [1, 1, 1])"),
    ],
)
def test_what_is_said_of_a_launch(change: dict[str, Any], expected: str) -> None:
    launch = by_hand("winograd_output")
    if "defines" in change:
        change = {"defines": {**launch.defines, **change["defines"]}}
    assert BOUNDS["winograd_output"].misuse(replace(launch, **change)) == expected


def test_tunables_and_floats() -> None:
    launch = by_hand("normalize_nhwc")
    assert BOUNDS["normalize_nhwc"].misuse(replace(launch, defines={"V": 4, "X": 1})) == "define STEPS is missing"
    assert (
        BOUNDS["normalize_nhwc"].misuse(replace(launch, scalars=(4, 6, 3, 2, 1))) == "epsilon is 1 (expected a float)"
    )
    assert BOUNDS["normalize_nhwc"].misuse(replace(launch, defines={**launch.defines, "INPLACE": 1})) is None


def test_what_a_kernel_needs_is_looked_at() -> None:
    tile = KERNELS["conv2d_tile"]
    dims, elements, _ = BY_HAND["conv2d"]
    launch = Launch(
        tile.tuning(), [("f32", n) for n in elements], 1, tile.scalars(dims), *tile.launch(dims, tile.tuning())
    )
    assert BOUNDS["conv2d_tile"].misuse(launch) == "kh=5 is over 3"


def test_bits_are_as_wide_as_storage(launches: dict[str, list[Launch]]) -> None:
    half = next(one for one in launches["strided_copy"] if one.defines["F16"])
    other = replace(half, defines={**half.defines, "F16": 0})
    assert BOUNDS["strided_copy"].misuse(other) == "operand 0 (x) is f16 (expected 4 bytes per element)"
