"""Time every kernel at the shapes of Stable Diffusion 1.4: `python -m benchmarks.kernels [part of a name] [--storage f16] [--json]`.

Prints GFLOP/s and GB/s (the least bytes the op could move). Pin it to a core for figures a core (`taskset -c 0`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm, prod

import numpy as np

from ondevice.lower.kernel_file import KernelFile, load_all
from ondevice.lower.select import select
from ondevice.lower.strides import arguments, broadcast, contiguous
from ondevice.run.device import Device
from ondevice.run.opencl import choose_device
from ondevice.run.timing import Timing, measure


@dataclass(frozen=True, slots=True)
class Case:
    """One launch: element counts of its buffers, inputs first, one output last."""

    name: str
    op: str
    dims: dict[str, int | float]
    sizes: tuple[int, ...]
    flops: int = 0
    defines: tuple[tuple[str, int], ...] = ()


def _matmul(batch: int, m: int, n: int, k: int, shared: bool = False) -> Case:
    dims = {"batch": batch, "m": m, "n": n, "k": k, "k1": k, "ldb": n, "a_batch": m * k, "b_batch": 0 if shared else k * n}
    sizes = (batch * m * k, 1, (1 if shared else batch) * k * n, 1, 1, batch * m * n)
    return Case(f"matmul {batch}x{m}x{n}x{k}", "MatMul", dims, sizes, 2 * batch * m * n * k)


def _linear(m: int, n: int, k: int, activation: str = "", add: bool = False) -> Case:
    columns = 2 * n if activation == "Geglu" else n
    dims = {"batch": 1, "m": m, "n": n, "k": k, "k1": k, "ldb": columns, "a_batch": 0, "b_batch": 0}
    sizes = (m * k, 1, k * columns, columns, m * n if add else 1, m * n)
    defines = {"HAS_BIAS": 1, "PANELS": 1} | ({"HAS_ADD": 1} if add else {}) | ({f"ACT_{activation}": 1} if activation else {})
    name = f"linear {m}x{n}x{k} bias" + (f" {activation.lower()}" if activation else "") + (" add" if add else "")
    return Case(name, "Linear", dims, sizes, 2 * m * columns * k, tuple(defines.items()))


def _conv(n: int, ic: int, size: int, oc: int, k: int = 3, stride: int = 1) -> Case:
    out, pad = size // stride, k // 2
    dims = {"n": n, "ic": ic, "h": size, "w": size, "oc": oc, "oh": out, "ow": out, "kh": k, "kw": k}
    sizes = (n * ic * size**2, oc * ic * k**2, oc, n * oc * out**2)
    name = f"conv {k}x{k} {n}x{ic}x{size}x{size} -> {oc}" + (f" stride {stride}" if stride > 1 else "")
    return Case(name, "Conv", dims | {"stride": stride, "pad_top": pad, "pad_left": pad}, sizes, 2 * n * oc * out**2 * ic * k**2)


def _conv_nhwc(n: int, ic: int, size: int, oc: int, stride: int = 1) -> Case:
    out, ldb = size // stride, -(-oc // 64) * 64  # panels as wide as the default tile
    sizes = {"n": n, "ic": ic, "h": size, "w": size, "oc": oc, "ldb": ldb, "oh": out, "ow": out, "kh": 3, "kw": 3}
    steps = {"stride": stride, "pad_top": 1, "pad_left": 1, "up_h": size, "up_w": size, "shift_from": 0, "shift_row": 0}
    buffers = (n * ic * size**2, 9 * ic * ldb, ldb, 1, n * oc * out**2, n * oc * out**2)
    name = f"conv nhwc 3x3 {n}x{size}x{size}x{ic} -> {oc} add" + (f" stride {stride}" if stride > 1 else "")
    return Case(
        name,
        "ConvNhwc",
        sizes | steps,
        buffers,
        18 * n * oc * out**2 * ic,
        (("HAS_BIAS", 1), ("HAS_ADD", 1), ("PANELS", 1), ("RAGGED", int(ic % 16 > 0))),
    )


def _group_norm_nhwc(n: int, pixels: int, channels: int) -> Case:
    per_group, span = channels // 32, lcm(channels // 32, 16)
    sizes = {"n": n, "pixels": pixels, "channels": channels, "c1": channels, "per_group": per_group, "blocks": channels // span}
    dims = sizes | {"epsilon": 1e-5, "ragged": 0}
    size = n * pixels * channels
    buffers = (size, 1, channels, channels, size)
    return Case(f"group norm silu {n}x{pixels}x{channels}", "GroupNormNhwc", dims, buffers, 11 * size, (("ACT_Silu", 1), ("SPAN", span)))


def _attention(batch: int, queries: int, keys: int, heads: int, d: int) -> Case:
    width = heads * d
    dims = {"batch": batch, "queries": queries, "keys": keys, "heads": heads, "scale": d**-0.5}
    rows = {"q_row": width, "k_row": width, "v_row": width, "q_from": 0, "k_from": 0, "v_from": 0}
    sizes = (batch * queries * width, batch * keys * width, batch * keys * width, 1, batch * queries * width)
    name = f"attention {batch}x{queries}x{keys} {heads} heads of {d}"
    return Case(name, "FlashAttention", dims | rows, sizes, 4 * batch * queries * keys * width, (("D", d),))


def _binary(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> Case:
    dims = arguments(a, a=contiguous(a), b=broadcast(b, a))
    assert dims is not None
    return Case(f"{op.lower()} {a} {b}", op, dict(dims), (prod(a), prod(b), prod(a)), prod(a))


def _transpose(shape: tuple[int, ...], order: tuple[int, ...]) -> Case:
    out, steps = tuple(shape[axis] for axis in order), contiguous(shape)
    dims = arguments(out, s=[steps[axis] for axis in order], d=contiguous(out))
    assert dims is not None
    return Case(f"transpose {shape} {order}", "Transpose", dims | {"s_offset": 0, "d_offset": 0}, (prod(shape), prod(shape)))


def _rows(op: str, rows: int, cols: int) -> Case:
    parameters = {"Softmax": (), "LayerNormalization": (cols, cols), "InstanceNormalization": (32, 32)}[op]
    dims = {"rows": rows, "cols": cols, "channels": 32, "epsilon": 1e-5}
    return Case(f"{op.lower()} {rows}x{cols}", op, dims, (rows * cols, *parameters, rows * cols))


def cases() -> Iterator[Case]:
    """What a UNet step and a VAE decode at 512x512 spend their time on."""
    for ic, size, oc in (
        (320, 64, 320),
        (640, 32, 640),
        (1280, 16, 1280),
        (1280, 8, 1280),
        (2560, 16, 1280),
        (512, 128, 512),
        (128, 512, 128),
    ):
        yield _conv(1, ic, size, oc)
        yield _conv_nhwc(1, ic, size, oc)
    yield _conv_nhwc(1, 320, 64, 320, stride=2)
    yield _conv_nhwc(1, 4, 64, 320)
    yield _conv_nhwc(1, 128, 512, 3)
    yield _conv(1, 320, 64, 320, stride=2)
    yield _conv(1, 4, 64, 320)
    yield _conv(1, 128, 512, 3)
    for ic, size, oc in ((320, 64, 320), (1280, 16, 1280), (512, 64, 512)):
        yield _conv(1, ic, size, oc, k=1)
    yield _matmul(1, 4096, 2560, 320)
    yield _matmul(1, 4096, 320, 1280)
    yield _matmul(1, 1024, 640, 640)
    yield _matmul(1, 256, 1280, 5120)
    yield _linear(4096, 1280, 320, "Geglu")
    yield _linear(4096, 320, 1280, add=True)
    yield _linear(256, 1280, 5120, add=True)
    for queries, heads_d in ((4096, 40), (1024, 80), (256, 160)):
        yield _attention(1, queries, queries, 8, heads_d)
        yield _attention(1, queries, 77, 8, heads_d)
    yield _attention(1, 4096, 4096, 1, 512)
    for pixels, channels in ((4096, 320), (4096, 960), (1024, 640), (512 * 512, 128)):
        yield _group_norm_nhwc(1, pixels, channels)
    yield _matmul(8, 4096, 4096, 40)
    yield _matmul(8, 4096, 40, 4096)
    yield _matmul(8, 1024, 1024, 80)
    yield _matmul(8, 4096, 77, 40)
    yield _matmul(8, 4096, 40, 77)
    yield _matmul(1, 2, 1280, 1280)
    yield _rows("Softmax", 8 * 4096, 4096)
    yield _rows("Softmax", 8 * 4096, 77)
    yield _rows("LayerNormalization", 4096, 320)
    yield _rows("InstanceNormalization", 32, 40_960)
    yield _rows("InstanceNormalization", 32, 4 * 512 * 512)
    yield _binary("Add", (1, 320, 64, 64), (1, 320, 64, 64))
    yield _binary("Mul", (1, 320, 64, 64), (1, 320, 1, 1))
    yield _binary("Add", (1, 4096, 320), (320,))
    yield _transpose((1, 320, 4096), (0, 2, 1))
    yield _transpose((1, 4096, 8, 40), (0, 2, 1, 3))
    yield _transpose((1, 4096, 8, 40), (0, 2, 3, 1))
    for op in ("Sigmoid", "Erf", "Neg"):
        yield Case(f"{op.lower()} 1310720", op, {"n": 1_310_720}, (1_310_720, 1_310_720))
    yield Case("resize 640x32x32 -> 64x64", "Resize", {"n": 640, "h": 32, "w": 32, "oh": 64, "ow": 64}, (640 * 1024, 640 * 4096))


def run(device: Device, kernels: dict[str, KernelFile], case: Case, storage: str, budget_s: float) -> Timing:
    """Time one case on random values, by the device's own clock."""
    dtype = np.dtype(np.float16 if storage == "f16" else np.float32)
    kernel = select(case.op, case.dims, kernels)
    tuning = kernel.tuning()
    defines = {"F16": int(storage == "f16"), f"OP_{case.op}": 1, **tuning, **dict(case.defines)}
    program = device.build(kernel.source(device.dialect, **defines), kernel.name, f"{kernel.name}.cl {defines}")
    buffers = [device.alloc(size * dtype.itemsize, case.name) for size in case.sizes]
    for buffer, size in zip(buffers[:-1], case.sizes, strict=False):
        device.write(buffer, np.resize(np.random.default_rng(0).normal(0, 1, 65_536).astype(dtype), size))
    bound = device.bind(program, buffers, kernel.scalars(case.dims))
    grid, group = kernel.launch(case.dims, tuning)

    def call() -> float:
        launched = device.launch(bound, grid, group)
        device.finish()
        return device.seconds(launched)

    name = f"{kernel.name}: {case.name} {storage}"
    return measure(name, call, flops=case.flops, moved_bytes=sum(case.sizes) * dtype.itemsize, budget_s=budget_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filter", nargs="?", default="", help="only cases whose name contains this")
    parser.add_argument("--storage", choices=("f32", "f16"), nargs="+", default=("f32", "f16"))
    parser.add_argument("--device", help="as `ondevice devices` lists them")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds of timed calls a case")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments_ = parser.parse_args()
    device, kernels = choose_device(arguments_.device), load_all()
    facts = device.facts()
    print(json.dumps(facts) if arguments_.json else f"{facts['name']}, {facts['platform']}, {facts['driver']}")
    for case in cases():
        for storage in arguments_.storage:
            if arguments_.filter not in case.name:
                continue
            t = run(device, kernels, case, storage, arguments_.budget)
            if arguments_.json:
                print(json.dumps(t.row() | facts), flush=True)
                continue
            rates = f"{t.gflop_per_s:8.1f} GFLOP/s {t.gb_per_s:7.2f} GB/s"
            print(f"{t.name:64s} {t.median_ms:9.2f} ms {rates}  spread {t.spread:.2f}{'' if t.counts else ' (does not count)'}", flush=True)


if __name__ == "__main__":
    main()
