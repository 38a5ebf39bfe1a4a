"""A step of the network on one core, on two as one device, and on two halves that share it (docs/parallel.md).

ondevice convert sd14 --random-weights 0 --size 256x256 --parallel tensor
python -m benchmarks.parallel sd14.ondevice [--device cpu] [--rounds 5] [--json]

All take turns in one process; of each the least time counts. A step is one with guidance: two passes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.diffusion.memory_budget import default_size, denoiser, most_passes
from ondevice.diffusion.parallel import exchanged, layout_of, shared
from ondevice.run.check import NUMPY
from ondevice.run.discovery import find_device
from ondevice.run.opencl import OpenCLDevice
from ondevice.run.session import Session
from ondevice.run.several import find_devices

Run = Callable[[], np.ndarray]


def given(bundle: Bundle, component: str, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Small random inputs of a plan."""
    plan, rng = bundle.plan(component, **sizes), np.random.default_rng(0)
    operands = [plan.operands[index] for index in plan.inputs]
    made = {one.name: rng.standard_normal(one.shape).astype(NUMPY[one.dtype]) for one in operands}
    return made | {"timestep": np.full(1, 500, np.float32)}


def steps(bundle: Bundle, word: str) -> tuple[dict[str, Run], dict[str, Any]]:
    """What runs a step, by its name; and what devices exchange."""
    component, passes = denoiser(bundle), most_passes(bundle)
    sizes = next(dict(one.sizes) for one in bundle.plans if (one.component, one.sizes["batch"]) == (component, passes))
    inputs, scale = given(bundle, component, sizes), bundle.pipeline.latents.scale
    place = tuple(side // scale for side in default_size(bundle))
    port = next(bundle.plan(component, **sizes).operands[i].name for i in bundle.plan(component, **sizes).outputs)
    halves = [OpenCLDevice(found) for found in find_devices(f"{word}/2")]
    names = [device.name for device in halves]
    runners: dict[str, Any] = {"one half": Session(bundle, halves[0])}
    runners["the whole"] = Session(bundle, OpenCLDevice(find_device(word)))
    told = {}
    for kind in ("guidance", "tensor"):
        layout = layout_of(kind, names, bundle.pipeline)
        runners[kind] = shared(bundle, layout, halves, lambda device: Session(bundle, device))
        told[kind] = exchanged(bundle, layout, *place).text()

    def run(runner: Any) -> Run:
        return lambda: runner.run(component, inputs, **sizes)[port]

    return {name: run(runner) for name, runner in runners.items()}, told


def main() -> None:
    """Print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="what `ondevice convert --parallel tensor` wrote")
    parser.add_argument("--device", default="cpu", help="what is cut in two (default cpu)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    runs, told = steps(open_bundle(args.bundle), args.device)
    results = {name: run() for name, run in runs.items()}  # builds kernels, loads weights
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - begun)
    one, first = min(taken["one half"]), results["one half"].astype(np.float64)
    rows = []
    for name, each in taken.items():
        off = float(np.abs(results[name] - first).max() / np.abs(first).max())
        rows.append({"runs on": name, "seconds": min(each), "times as fast": one / min(each), "off": off})
    if args.json:
        print(json.dumps({"rows": rows, "exchanged": told}, indent=1))
        return
    for row in rows:
        seconds, factor = f"{row['seconds'] * 1e3:9.1f} ms", f"{row['times as fast']:5.2f}x"
        print(f"{row['runs on']:<10} {seconds} {factor}  {row['off']:.1e} off  {told.get(str(row['runs on']), '')}")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # as `ondevice.run.several.was_cut` has it
