"""Operands of type `tex`: which are images, of what size, and what of them is checked, logged and run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lower.test_lower import graph

from ondevice.bundle import Contents, open_bundle, write_bundle
from ondevice.bundle.kernels import check_launches, launch_of
from ondevice.errors import BundleError, NoDeviceError
from ondevice.lower import lower
from ondevice.lower.bounds import Bounds, Launch
from ondevice.lower.images import Image, fitted
from ondevice.lower.kernel_file import KernelFile, load_all
from ondevice.lower.prelude import DIALECTS, prelude
from ondevice.lower.program import Program
from ondevice.plan import plan
from ondevice.plan.plan import Plan
from ondevice.target import Limits, load_target

TEXT = """\
//: op    = "Sigmoid"
//: class = "mobile"
//: caps  = []
//: uses  = ["image2d", "half"]
//: why   = "Rows of 16 values."
//: in    = ["x: tex[n // 16, 16]"]
//: out   = ["y: stg[n]"]
//: args  = ["n: int"]
//: grid  = ["n // 4", "1", "1"]
//: group = ["X", "1", "1"]
//: tune.X = [4, 64]
//: needs.n = {multiple = 16}

KERNEL(rows_of_16)(IN_TEX(x), OUT(stg, y), ARG(int, n) GRID) {
  const int i = GID(0);
  if (i * 4 >= n) return;
  STOREV(y, i * 4, 1.0f / (1.0f + EXP(-TO_VEC(LOADT(x, i / 4, i % 4, 4)))));
}
"""
PHONE = replace(
    load_target("gpu"),
    kernel_class="mobile",
    caps=frozenset({"image2d"}),
    limits=Limits(image_width=64, image_height=16, pitch_alignment=8),
)


@pytest.mark.parametrize(
    "row, rows, limits, expected",
    [
        (16, 6, {}, Image(4, 6, 1)),
        (16, 6, {"pitch_alignment": 8}, Image(8, 3, 2)),
        (320, 4096, {"pitch_alignment": 64}, Image(320, 1024, 4)),
        (16, 40, {"image_height": 16}, Image(16, 10, 4)),
        (16, 16, {"image_height": 16, "image_width": 4}, Image(4, 16, 1)),
        (18, 4, {}, "rows of 18 values are no whole texels of 4"),
        (16, 6, {"image_width": 3}, "image too wide (4 texels, the target's limit is 3)"),
        (16, 3, {"pitch_alignment": 8}, "its rows (3 of 4 texels) cannot be joined to a multiple of 8"),
        (
            16,
            2,
            {"pitch_alignment": 8, "image_width": 7},
            "its rows (2 of 4 texels) cannot be joined to a multiple of 8",
        ),
        (16, 90, {"image_height": 44}, "image too tall (45 rows, the target's limit is 44)"),
        (16, 128, {"image_height": 16, "image_width": 31}, "image too tall (32 rows, the target's limit is 16)"),
    ],
)
def test_as_few_rows_side_by_side_as_fit(row: int, rows: int, limits: dict[str, int], expected: Image | str) -> None:
    assert fitted(row, row * rows, Limits(**limits)) == expected


def test_what_is_no_whole_row_is_no_image() -> None:
    assert fitted(16, 40, Limits()) == "rows of 16 values are no whole texels of 4"


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KernelFile]:
    path = tmp_path_factory.mktemp("kernels") / "rows_of_16.cl"
    path.write_text(TEXT)
    return load_all() | {"rows_of_16": KernelFile.read(path)}


def sigmoids(kernels: dict[str, KernelFile], rows: int, storage: str = "f32", **changes: Any) -> Program:
    model = graph(f"(float[{rows},16] x) => (float[{rows},16] y) {{ a = Sigmoid(x) b = Sigmoid(a) y = Sigmoid(b) }}")
    return lower(model, "net", storage=storage, kernels=kernels, target=replace(PHONE, **changes))


def images(dispatch_plan: Plan) -> list[tuple[str, tuple[int, ...]]]:
    return [(x.name, x.shape) for x in dispatch_plan.operands if x.view is not None]


def test_calls_and_plans_say_sizes_defines_and_needs(kernels: dict[str, KernelFile]) -> None:
    program = sigmoids(kernels, 8)
    assert {call.images for call in program.calls} == {((0, 8, 4),)}
    assert {("IMAGE_x", 1), ("FOLD_x", 2)} <= set(program.calls[0].defines)
    made = plan(program, storage="f32")
    assert made.needs == ("image2d",)
    assert images(made) == [(f"{name}:image 8x4", (4, 8, 4)) for name in "xab"]
    for call in made.dispatches:
        assert made.operands[call.operands[0]].view is not None
        assert made.operands[call.operands[1]].view is None
    assert program.fallbacks == []


def test_half_arithmetic_is_needed_where_storage_is_half(kernels: dict[str, KernelFile]) -> None:
    both = frozenset({"image2d", "half"})
    assert sigmoids(kernels, 8, "f16", caps=both).needs == {"image2d", "half"}
    assert sigmoids(kernels, 8, "f32", caps=both).needs == {"image2d"}


def test_a_fallback_says_why_and_the_kernel_reads_a_buffer(kernels: dict[str, KernelFile]) -> None:
    program = sigmoids(kernels, 2048)
    assert program.fallbacks[0].startswith("net: ")
    assert program.fallbacks[0].endswith(" reads x as a buffer: image too tall (128 rows, the target's limit is 16)")
    assert len(program.fallbacks) == 3
    assert ("IMAGE_x", 0) in program.calls[0].defines and "FOLD_x" not in dict(program.calls[0].defines)
    made = plan(program, storage="f32")
    assert (made.needs, images(made)) == ((), [])


def test_a_target_without_images_has_buffers_and_no_fallback(kernels: dict[str, KernelFile]) -> None:
    program = sigmoids(kernels, 8, caps=frozenset())
    assert program.fallbacks == []
    assert all(call.images == () and ("IMAGE_x", 0) in call.defines for call in program.calls)


def launch(kernels: dict[str, KernelFile]) -> Launch:
    made = plan(sigmoids(kernels, 8), storage="f32")
    return launch_of(made, made.dispatches[0])


@pytest.mark.parametrize(
    "change, expected",
    [
        ({}, None),
        ({"images": {}}, "operand 0 (x) is a buffer (expected an image with rows of 2 x 16 values)"),
        (
            {"images": {0: (16, 2)}},
            "operand 0 (x) is an image of 16 texels per row (expected an image with rows of 2 x ",
        ),
        ({"images": {0: (8, 4), 1: (8, 4)}}, "operand 1 (y) is an image (expected a buffer)"),
        ({"IMAGE_x": 0, "FOLD_x": None}, "operand 0 (x) is an image (expected a buffer)"),
        ({"IMAGE_x": 0}, "define FOLD_x is 2 (expected a power of two, beside IMAGE_x=1)"),
        ({"IMAGE_x": 2}, "define IMAGE_x is 2 (expected 0 or 1)"),
        ({"FOLD_x": 3}, "define FOLD_x is 3 (expected a power of two, beside IMAGE_x=1)"),
        ({"FOLD_x": 0}, "define FOLD_x is 0 (expected a power of two, beside IMAGE_x=1)"),
        ({"FOLD_x": None}, "operand 0 (x) has no define FOLD_x"),
        ({"FOLD_x": 1}, "operand 0 (x) is an image of 8 texels per row (expected an image with rows of 1 x 16 values)"),
        ({"operands": [("f32", 112), ("f32", 128)]}, "operand 0 (x) has 112 elements, and the kernel uses 128"),
        ({"operands": [("f16", 128), ("f32", 128)]}, "operand 0 (x) is f16 (expected f32)"),
    ],
)
def test_launches_of_plans_that_were_read_are_checked(
    kernels: dict[str, KernelFile], change: dict[str, Any], expected: str | None
) -> None:
    good = launch(kernels)
    fields = {name: value for name, value in change.items() if name in ("images", "operands")}
    defines = {**good.defines, **{name: value for name, value in change.items() if name not in fields}}
    changed = replace(good, defines={name: value for name, value in defines.items() if value is not None}, **fields)
    wrong = Bounds(kernels["rows_of_16"]).misuse(changed)
    assert wrong is None if expected is None else (wrong or "").startswith(expected)


def test_a_plan_must_say_what_its_kernels_are_built_for(
    kernels: dict[str, KernelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(sigmoids(kernels, 8), storage="f32")
    monkeypatch.setattr("ondevice.bundle.kernels._bounds", lambda *_: Bounds(kernels["rows_of_16"]))
    check_launches(made, "plans/p.json", {"rows_of_16": ""})
    with pytest.raises(
        BundleError, match=r"plans/p.json: kernels\[0\] is rows_of_16.cl built for image2d, which `needs`"
    ):
        check_launches(replace(made, needs=("half",)), "plans/p.json", {"rows_of_16": ""})


@pytest.mark.device
@pytest.mark.parametrize("rows", [8, 6, 7, 1024])
@pytest.mark.parametrize("storage, caps", [("f32", {"image2d"}), ("f16", {"image2d"}), ("f16", {"image2d", "half"})])
def test_a_bundle_with_images_computes_what_one_without_does(
    kernels: dict[str, KernelFile], tmp_path: Path, rows: int, storage: str, caps: set[str]
) -> None:
    """On the host's device, with images where they fit and buffers where they do not."""
    from ondevice.run.opencl import choose_device
    from ondevice.run.session import Session

    try:
        device = choose_device()
    except NoDeviceError as error:
        pytest.skip(str(error))
    if not caps <= set(device.facts()["caps"]):
        pytest.skip(f"{device.name} has not {caps}")
    made = plan(sigmoids(kernels, rows, storage, caps=frozenset(caps)), storage=storage)
    assert bool(images(made)) == (rows in (6, 8))
    texts = {f"{kernel.file}.cl": kernels[kernel.file].text for kernel in made.kernels}
    texts |= {f"prelude/{dialect}.h": prelude(dialect) for dialect in DIALECTS}
    contents = Contents(plans=[made], weights={}, model={"family": "x", "source": "y"}, scheduler={}, kernels=texts)
    session = Session(open_bundle(write_bundle(tmp_path / "b", contents), verify=True), device)
    x = np.linspace(-5, 5, rows * 16, dtype=np.float32).reshape(rows, 16)
    expected = x.astype(np.float64)
    for _ in range(3):
        expected = 1 / (1 + np.exp(-expected))
    np.testing.assert_allclose(session.run("net", {"x": x})["y"], expected, atol=2e-7 if storage == "f32" else 1.5e-3)
