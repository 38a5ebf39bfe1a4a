"""Memory of one UNet step: arena, and peak RSS beside onnxruntime's on the same graph, or with streamed weights.

taskset -c 0 python -m benchmarks.memory sd14.ondevice [--stream [BYTES]] [--onnx FOLDER] [--json]

Every figure is of a process of its own. FOLDER is what `ondevice convert sd14 --random-weights 0 --format onnx` writes.
Run it twice: the first run fills the cache of kernels, and compiling takes memory too.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.startup import probe


def status() -> dict[str, float]:
    """MB of this process: the most ever resident; now, of its own memory; now, of mapped files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    names = {"peak_rss": "VmHWM", "own": "RssAnon", "mapped": "RssFile"}
    return {name: int(lines[field].split()[0]) * 1024 / 1e6 for name, field in names.items()}


def step(bundle_path: str, through: int | None = None) -> dict[str, Any]:
    """Two steps of the UNet at its largest batch, as `generate` runs them; `through`: bytes of weights at a time as
    `Session.stream_weights` takes them."""
    from ondevice.bundle.reader import open_bundle  # here: onnxruntime's process is without them
    from ondevice.run.opencl import choose_device
    from ondevice.run.session import Session

    bundle = open_bundle(Path(bundle_path))
    session = Session(bundle, choose_device("cpu"))
    session.stream_weights(through)
    sizes = max((entry.sizes for entry in bundle.plans if entry.component == "unet"), key=lambda sizes: sizes["batch"])
    plan = bundle.plan("unet", **sizes)
    ports = [plan.operands[i].name for i in plan.inputs]
    inputs = {port: bundle.port_zeros("unet", sizes, port) for port in ports}
    session.run("unet", inputs, **sizes)
    begun = time.perf_counter(), time.process_time()
    session.run("unet", inputs, **sizes)
    took = {"step": time.perf_counter() - begun[0], "cpu": time.process_time() - begun[1]}
    facts = {"sizes": dict(sizes), "arena": plan.arena / 1e6, "dtype": plan.dtype}
    return took | facts | {"streamed": session.streamed_bytes / 1e6} | status()


def onnx_step(folder: str) -> dict[str, Any]:
    """One step in onnxruntime, one thread, everything else at its default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = onnxruntime.InferenceSession(
        str(Path(folder) / "unet" / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    inputs = {value.name: np.zeros(value.shape, types[value.type]) for value in model.get_inputs()}
    model.run(None, inputs)
    begun = time.perf_counter()
    model.run(None, inputs)
    return {"step": time.perf_counter() - begun, "batch": model.get_inputs()[0].shape[0]} | status()


PROBES = {"step": step, "onnx": onnx_step}


def said(figures: dict[str, Any]) -> str:
    """What was resident, in MB."""
    return (
        f"peak RSS {figures['peak_rss']:,.0f} MB: {figures['own']:,.0f} of its own, {figures['mapped']:,.0f} of mapped "
        "files at the end"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--onnx", type=Path, metavar="FOLDER", help="compare with onnxruntime on these graphs")
    parser.add_argument(
        "--stream", type=int, nargs="?", const=0, metavar="BYTES", help="and with weights a block at a time"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--probe", choices=PROBES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe:
        more = [] if args.stream is None else [args.stream]
        print(json.dumps(PROBES[args.probe](str(args.bundle), *more)))
        return
    ours = probe("benchmarks.memory", args.bundle, "step")
    figures: dict[str, Any] = {"ours": ours}
    if args.stream is not None:
        figures["streamed"] = probe("benchmarks.memory", args.bundle, "step", "--stream", str(args.stream))
    if args.onnx:
        figures["onnxruntime"] = probe("benchmarks.memory", args.onnx, "onnx")
        figures["rss_ratio"] = ours["peak_rss"] / figures["onnxruntime"]["peak_rss"]
    if args.json:
        print(json.dumps(figures, indent=1))
        return
    at = " ".join(f"{name}={size}" for name, size in ours["sizes"].items())
    print(f"UNet step, {at}, {ours['dtype']}: {ours['step']:.2f} s, arena {ours['arena']:.1f} MB")
    print(said(ours))
    if streamed := figures.get("streamed"):
        ratio = streamed["cpu"] / ours["cpu"]
        print(f"through {streamed['streamed']:.1f} MB: {streamed['step']:.2f} s, {ratio:.2f}x the processor time")
        print(said(streamed))
    if args.onnx:
        peer, ratio = figures["onnxruntime"], f"ratio {figures['rss_ratio']:.2f}"
        print(
            f"onnxruntime, float32, batch {peer['batch']}: {peer['step']:.2f} s, "
            f"peak RSS {peer['peak_rss']:,.0f} MB; {ratio}"
        )


if __name__ == "__main__":
    main()
