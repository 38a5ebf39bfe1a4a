"""Memory and start-up of one UNet step: peak RSS beside onnxruntime's on the same graph, seconds to the first step, launch overhead.

taskset -c 0 python -m benchmarks.memory sd14.ondevice [--onnx FOLDER] [--json]

Every figure is of a process of its own. FOLDER is what `ondevice convert sd14 --random-weights 0 --format onnx` writes. Run it twice: the
first run fills the cache of kernels. Start-up is from the process's start to the end of the first step, less the device's time in that
step's kernels, which are the first to touch the mapped weights; another process measures what reading those takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

PAGE = 4096


def status() -> dict[str, float]:
    """MB of this process: the most ever resident; now, of its own memory; now, of mapped files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    names = {"peak_rss": "VmHWM", "own": "RssAnon", "mapped": "RssFile"}
    return {name: int(lines[field].split()[0]) * 1024 / 1e6 for name, field in names.items()}


def step(bundle_path: str, started: float) -> dict[str, Any]:
    """Two steps of the UNet at its largest batch, as `generate` runs them."""
    from ondevice.generate import Session, choose_device, open_bundle  # here: what they take to import is part of the start-up

    imported = time.time()
    bundle = open_bundle(Path(bundle_path))
    session = Session(bundle, choose_device("cpu"), profile=True)
    sizes = max((entry.sizes for entry in bundle.plans if entry.component == "unet"), key=lambda sizes: sizes["batch"])
    plan = bundle.plan("unet", **sizes)
    inputs = {plan.operands[i].name: np.zeros(plan.operands[i].shape, np.float32) for i in plan.inputs}
    session.run("unet", inputs, **sizes)
    first = time.time()
    device = sum(row.seconds for row in session.profile.rows.values())
    told: dict[str, Any] = {"import": imported - started, "to_first_step": first - started, "start_up": first - started - device}
    session.profile.clear()
    begun = time.perf_counter()
    session.run("unet", inputs, **sizes)
    told["step"] = time.perf_counter() - begun
    device = sum(row.seconds for row in session.profile.rows.values())
    overhead = {
        "launches": len(plan.dispatches),
        "overhead": told["step"] - device,
        "overhead_share": (told["step"] - device) / told["step"],
    }
    return told | overhead | status() | {"sizes": dict(sizes), "arena": plan.arena / 1e6, "dtype": plan.dtype}


def pages(bundle_path: str, started: float) -> dict[str, Any]:
    """Seconds to touch every page of the UNet's weights."""
    from ondevice.bundle.reader import open_bundle

    bundle = open_bundle(Path(bundle_path))
    sizes = max((entry.sizes for entry in bundle.plans if entry.component == "unet"), key=lambda sizes: sizes["batch"])
    plan = bundle.plan("unet", **sizes)
    shards = [bundle.shard(name) for name in {bundle.weight(x.weight)[0] for x in plan.operands if x.weight is not None}]
    begun = time.perf_counter()
    touched = sum(int(shard[::PAGE].sum(dtype=np.int64)) for shard in shards)
    return {"seconds": time.perf_counter() - begun, "mb": sum(shard.nbytes for shard in shards) / 1e6, "sum": touched}


def onnx_step(folder: str, started: float) -> dict[str, Any]:
    """One step in onnxruntime, one thread, everything else at its default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = onnxruntime.InferenceSession(str(Path(folder) / "unet" / "model.onnx"), options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    inputs = {value.name: np.zeros(value.shape, types[value.type]) for value in model.get_inputs()}
    model.run(None, inputs)
    begun = time.perf_counter()
    model.run(None, inputs)
    return {"step": time.perf_counter() - begun, "batch": model.get_inputs()[0].shape[0]} | status()


PROBES = {"step": step, "pages": pages, "onnx": onnx_step}


def probe(name: str, subject: Path) -> dict[str, Any]:
    """What a probe says in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.memory", str(subject), "--probe", name, "--started", repr(time.time())]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--onnx", type=Path, metavar="FOLDER", help="compare with onnxruntime on these graphs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--probe", choices=PROBES, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe:
        print(json.dumps(PROBES[args.probe](str(args.bundle), args.started)))
        return
    ours, weights = probe("step", args.bundle), probe("pages", args.bundle)
    told: dict[str, Any] = {"ours": ours, "weights": weights}
    if args.onnx:
        told["onnxruntime"] = probe("onnx", args.onnx)
        told["rss_ratio"] = ours["peak_rss"] / told["onnxruntime"]["peak_rss"]
    if args.json:
        print(json.dumps(told, indent=1))
        return
    at = " ".join(f"{name}={size}" for name, size in ours["sizes"].items())
    print(f"UNet step, {at}, {ours['dtype']}: {ours['step']:.2f} s, arena {ours['arena']:.1f} MB")
    print(f"peak RSS {ours['peak_rss']:,.0f} MB: {ours['own']:,.0f} of its own, {ours['mapped']:,.0f} of mapped files")
    print(f"start to first step {ours['to_first_step']:.2f} s, of it imports {ours['import']:.2f} s")
    read = f"{weights['mb']:,.0f} MB of weights are read in {weights['seconds']:.2f} s"
    print(f"start-up beside the first step's kernels {ours['start_up']:.2f} s; {read}")
    print(f"launch overhead {ours['overhead'] * 1e3:.0f} ms for {ours['launches']} launches, {ours['overhead_share']:.2%} of the step")
    if args.onnx:
        peer, ratio = told["onnxruntime"], f"ratio {told['rss_ratio']:.2f}"
        print(f"onnxruntime, float32, batch {peer['batch']}: {peer['step']:.2f} s, peak RSS {peer['peak_rss']:,.0f} MB; {ratio}")


if __name__ == "__main__":
    main()
