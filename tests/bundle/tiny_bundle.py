"""A tiny bundle for tests: two kernels, two plans (8 and 1000 numbers),
and text files with the letters of their names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.bundle import Contents, TokenizerFiles, WeightSource, write_bundle
from ondevice.bundle.format import SHARD_BYTES
from ondevice.plan.plan import Dispatch, Kernel, Operand, Plan

OPENCL = """\
#define KERNEL(name) __kernel void name
#define IN(T, x) __global const T* restrict x
#define OUT(T, x) __global T* restrict x
#define ARG(T, x) const T x
#define GRID
#define GID(d) ((int)get_global_id(d))
#if F16
typedef half stg;
#define LOAD(p, i) vload_half(i, p)
#else
typedef float stg;
#define LOAD(p, i) (p)[i]
#endif
"""
METAL = """\
#include <metal_stdlib>
using namespace metal;
#define KERNEL(name) kernel void name
#define IN(T, x) device const T* x
#define OUT(T, x) device T* x
#define ARG(T, x) constant T& x
#define GRID , uint3 od_gid [[thread_position_in_grid]]
#define GID(d) ((int)od_gid[d])
#if F16
typedef half stg;
#else
typedef float stg;
#endif
#define LOAD(p, i) float((p)[i])
"""
SCALE_ADD = """\
KERNEL(scale_add)(IN(float, x), IN(stg, w), OUT(float, y), ARG(int, n), ARG(float, factor) GRID) {
  const int i = GID(0);
  if (i < n) y[i] = factor * x[i] + LOAD(w, i % WEIGHTS);
}
"""
PICK = """\
KERNEL(pick)(IN(int, ids), IN(float, x), IN(char, parts), OUT(float, y), ARG(int, n), ARG(int, count) GRID) {
  const int i = GID(0);
  if (i < count) y[i] = x[min(max(ids[i], 0), n - 1)] * ((float)parts[i] * 0.0078125f);
}
"""
KERNELS = {"scale_add.cl": SCALE_ADD, "pick.cl": PICK, "prelude/opencl.h": OPENCL, "prelude/metal.h": METAL}
BIAS = np.array([0.5, -0.25, 2.0, -8.0], np.float32)
PICKED = np.array([3, 1, -2, 2_000_000_000], np.int32)
PARTS = np.array([-128, 127, -1, 64], np.int8)  # of 128
MODEL = {"family": "tiny", "source": "tests"}
REWRITE = {
    "nodes": [5, 3],
    "rules": [
        {
            "rule": "FirstRule",
            "family": "first",
            "applied": 2,
            "skipped": {"the axis is not the last": 3},
            "off": False,
        },
        {"rule": "SecondRule", "family": "second", "applied": 0, "skipped": {}, "off": True},
    ],
}


def tiny_plan(n: int, component: str = "tiny") -> Plan:
    """y = parts of pick(scale_add(scale_add(x))): `mid` and `end` overlap nothing that is needed beside them;
    `end` takes over the place of `x`."""
    step = -(-4 * n // 512) * 512
    operands = (
        Operand("x", "f32", (n,), 4 * n, offset=0),
        Operand("bias", "f16", (4,), 8, weight=f"{component}/bias"),
        Operand("mid", "f32", (1, n), 4 * n, offset=step),
        Operand("end", "f32", (n,), 4 * n, offset=0),
        Operand("ids", "i32", (4,), 16, weight="picked"),
        Operand("y", "f32", (4,), 16, offset=2 * step),
        Operand("parts", "i8", (4,), 4, weight="parts"),
    )
    group = (4, 1, 1)
    grid = (-(-n // 4) * 4, 1, 1)
    return Plan(
        component=component,
        sizes={"width": n},
        dtype="f16",
        arena=2 * step + 512,
        operands=operands,
        inputs=(0,),
        outputs=(5,),
        kernels=(Kernel("scale_add", (("F16", 1), ("WEIGHTS", 4))), Kernel("pick", ())),
        dispatches=(
            Dispatch(0, (0, 1, 2), 1, (n, 2.0), grid, group, "/first/Add", "Add", 2 * n, 4 * n + 8, 4 * n),
            Dispatch(0, (2, 1, 3), 1, (n, -0.1), grid, group, "/second/Add", "Add", 2 * n, 4 * n + 8, 4 * n),
            Dispatch(1, (4, 3, 6, 5), 1, (n, 4), (4, 1, 1), group, "/Gather", "Gather", 4, 36, 16),
        ),
    )


def tiny_answer(x: np.ndarray) -> np.ndarray:
    """What the tiny plan computes, in float64: f32[n] -> f64[4]."""
    bias = np.resize(BIAS.astype(np.float16).astype(np.float64), x.size)
    end = np.float64(np.float32(-0.1)) * (2.0 * x.astype(np.float64) + bias) + bias
    return end[np.clip(PICKED, 0, x.size - 1)] * (PARTS / 128)


def tiny_weights(component: str = "tiny") -> dict[str, WeightSource]:
    return {
        f"{component}/bias": WeightSource(lambda: BIAS, "f16", (4,)),
        "picked": WeightSource(lambda: PICKED.astype(np.int64), "i32", (4,)),
        "parts": WeightSource(lambda: PARTS, "i8", (4,)),
    }


def tiny_contents(**changes: Any) -> Contents:
    """What the tiny bundle is written from; `changes` replace some of it."""
    contents: dict[str, Any] = {
        "plans": [tiny_plan(8), tiny_plan(1000)],
        "weights": tiny_weights(),
        "kernels": KERNELS,
        "tokenizers": {
            "tiny": TokenizerFiles({"vocab.json": b'{"a</w>":0}', "merges.txt": "#version: 0.2\né e\n".encode()}, 77)
        },
        "scheduler": {"_class_name": "PNDMScheduler", "beta_start": 0.00085, "steps_offset": 1},
        "samplers": {"tiny_2": {"timesteps": [501, 1], "rows": [[0.5, -1.5e-07], [1, 0]]}},
        "model": MODEL,
        "rewrites": {"tiny": REWRITE},
    }
    return Contents(**(contents | changes))


def write_tiny(
    path: Path, *, force: bool = False, shard_bytes: int = SHARD_BYTES, progress: Any = None, **changes: Any
) -> Path:
    """Write the tiny bundle; `changes` are those of `tiny_contents`."""
    return write_bundle(path, tiny_contents(**changes), force=force, shard_bytes=shard_bytes, progress=progress)


def edit_json(bundle: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON file in place (`change` returns the new value, or None to keep the one it changed)
    and sign it again."""
    value = json.loads((bundle / name).read_text())
    value = changed if (changed := change(value)) is not None else value
    replace_file(bundle, name, json.dumps(value).encode())


def replace_file(bundle: Path, name: str, data: bytes) -> None:
    """Put other bytes into a file, with its new size and sha256 in the manifest:
    damage that only the checks of its content can find."""
    (bundle / name).write_bytes(data)
    if name != "bundle.json":
        manifest = json.loads((bundle / "bundle.json").read_text())
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (bundle / "bundle.json").write_text(json.dumps(manifest))
