"""A tiny bundle whose plan reads an intermediate (f32) and a weight (f16) as images, upside down and folded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from bundle.setting import setting
from bundle.tiny_bundle import METAL, OPENCL

from ondevice.bundle import Contents, WeightSource, write_bundle
from ondevice.plan.plan import Dispatch, Kernel, Operand, Plan, image_of

IMAGE_PLAN = "plans/images_width64.json"
WIDTH, ROWS = 64, 4  # texels, as many as some devices ask a row to be a multiple of; and rows of what is computed
OPENCL_IMAGES = OPENCL + (
    "#define IN_IMAGE(x) __read_only image2d_t x\n"
    "#define TEXEL(x, column, row) read_imagef(x, (int2)(column, row))\n"
    "#define STORE4(p, i, v) vstore4(v, i, p)\n"
)
METAL_IMAGES = METAL + (
    "#define IN_IMAGE(x) texture2d<float, access::read> x\n"
    "#define TEXEL(x, column, row) x.read(uint2(column, row))\n"
    "#define STORE4(p, i, v) ((device float4*)(p))[i] = v\n"
)
TWICE = """\
KERNEL(twice)(IN(float, x), OUT(float, y), ARG(int, n) GRID) {
  const int i = GID(0);
  if (i < n) y[i] = 2.0f * x[i];
}
"""
# Row r of the result is the picture's row from the end, plus the weight's: two of its rows are one of its image.
FETCH = """\
KERNEL(fetch)(IN_IMAGE(x), IN_IMAGE(w), OUT(float, y), ARG(int, width), ARG(int, rows) GRID) {
  const int column = GID(0), row = GID(1);
  if (column >= width || row >= rows) return;
  STORE4(y, row * width + column, TEXEL(x, column, rows - 1 - row) + TEXEL(w, row % 2 * width + column, row / 2));
}
"""
KERNELS = {
    "twice.cl": TWICE,
    "fetch.cl": FETCH,
    "prelude/opencl.h": OPENCL_IMAGES,
    "prelude/metal.h": METAL_IMAGES,
}
WEIGHT = (np.arange(ROWS * WIDTH * 4) % 29 / 8 - 1.75).reshape(ROWS, WIDTH * 4).astype(np.float16)


def image_plan() -> Plan:
    shape = (ROWS, WIDTH * 4)
    size, count = 4 * ROWS * WIDTH * 4, ROWS * WIDTH * 4
    x = Operand("x", "f32", shape, size, offset=0)
    twice = Operand("twice", "f32", shape, size, offset=size)
    weight = Operand("w", "f16", shape, size // 2, weight="images/w")
    y = Operand("y", "f32", shape, size, offset=0)
    return Plan(
        component="images",
        sizes={"width": WIDTH},
        dtype="f16",
        arena=2 * size,
        operands=(x, twice, weight, y, image_of(1, twice, WIDTH, ROWS), image_of(2, weight, 2 * WIDTH, ROWS // 2)),
        inputs=(0,),
        outputs=(3,),
        kernels=(Kernel("twice", ()), Kernel("fetch", ())),
        dispatches=(
            Dispatch(0, (0, 1), 1, (count,), (count, 1, 1), (4, 1, 1), "/twice", "Mul", count, size, size),
            Dispatch(1, (4, 5, 3), 1, (WIDTH, ROWS), (WIDTH, ROWS, 1), (4, 1, 1), "/fetch", "Add", count, size, size),
        ),
        needs=("image2d",),
    )


def image_answer(x: np.ndarray) -> np.ndarray:
    """What the plan computes, in float64: f32[rows, 4 * width] -> f64 of that shape."""
    return 2.0 * x.astype(np.float64)[::-1] + WEIGHT.astype(np.float64)


def write_images(path: Path, *, force: bool = False) -> Path:
    weights = {"images/w": WeightSource(lambda: WEIGHT, "f16", WEIGHT.shape)}
    model = {"family": "images", "source": "tests"}
    return write_bundle(
        path, Contents(plans=[image_plan()], weights=weights, model=model, scheduler={}, kernels=KERNELS), force=force
    )


IMAGE_CHANGES: list[tuple[str, Any, str]] = [
    (IMAGE_PLAN, change, message)
    for change, message in [
        (setting("needs", to=...), 'operands[4].kind is "image2d", which `needs` does not say'),
        (setting("needs", to=["half"]), 'operands[4].kind is "image2d", which `needs` does not say'),
        (setting("needs", 0, to="wings"), 'needs[0] asks for "wings", which this version does not know'),
        (
            setting("operands", 4, "kind", to="image3d"),
            'operands[4].kind is "image3d" (expected one of: buffer, ',
        ),
        (setting("operands", 4, "kind", to=...), "operands[4].dtype is missing"),
        (setting("operands", 4, "name", to="x"), 'operands[4].name is "x", as in operands[0]'),
        (setting("operands", 4, "name", to=""), 'operands[4].name is "" (expected 1..512 printable characters)'),
        (setting("operands", 4, "view", to=...), "operands[4].view is missing"),
        (setting("operands", 4, "view", to=4), "operands[4].view is 4 (expected 0..3)"),
        (setting("operands", 4, "view", to=-1), "operands[4].view is -1 (expected 0..3)"),
        (setting("operands", 5, "view", to=4), "operands[5].view is 4, which is an image itself (expected a buffer"),
        (
            setting("operands", 1, "dtype", to="i32"),
            "operands[4].view is 1, which is of i32 (expected a buffer of f16 or f32)",
        ),
        (setting("operands", 4, "width", to=0), "operands[4].width is 0 (expected 1..65536)"),
        (setting("operands", 4, "width", to=64.0), "operands[4].width is 64.0 (expected 1..65536)"),
        (setting("operands", 4, "height", to=65_537), "operands[4].height is 65537 (expected 1..65536)"),
        (setting("operands", 4, "height", to=5), 'operands[4] takes 5120 bytes of "twice" (expected at most its 4096)'),
        (setting("operands", 5, "width", to=129), 'operands[5] takes 2064 bytes of "w" (expected at most its 2048)'),
        (setting("inputs", 0, to=4), "inputs[0] is 4 (expected an operand of the arena, not the image "),
        (setting("outputs", 0, to=4), "outputs[0] is 4 (expected an operand of the arena, not the image "),
        (setting("dispatches", 0, "operands", 1, to=4), "dispatches[0].operands[1] writes the image "),
        (setting("operands", 4, "view", to=3), 'dispatches[1].operands[0] reads "y" before anything writes it'),
        (setting("dispatches", 1, "operands", 2, to=1), 'dispatches[1].operands[2] writes "twice", which it also uses'),
        (setting("operands", 3, "offset", to=3584), 'operands[3] ("y") overlaps operands[1] ("twice")'),
        (
            setting(
                "dispatches",
                0,
                "operands",
                to=[4, 5, 3],
                also=(
                    setting("dispatches", 0, "kernel", to=1),
                    setting("dispatches", 0, "scalars", to=[64, 4]),
                    setting("dispatches", 1, "operands", 1, to=2),
                ),
            ),
            "dispatches[1].operands[1] is another kind than before (expected an image)",
        ),
    ]
]
