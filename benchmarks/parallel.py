"""A step of the network on one core, on two as one device, and on two halves that share it (docs/parallel.md).

ondevice convert sd14 --random-weights 0 --size 256x256 --parallel tensor
python -m benchmarks.parallel sd14.ondevice [--device cpu] [--rounds 5] [--json]

A step is one with guidance: two passes. Each way has a process of its own, as Intel's runtime lets all cores work for
a part of a CPU whose host thread waits while the others are idle: what runs on one core may run on no other. They take
turns; of each the least time counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
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
from ondevice.run.own_thread import opened
from ondevice.run.session import Session
from ondevice.run.several import find_devices

ONE, ALL = "one core", "all as one"
WAYS = (ONE, ALL, "guidance", "tensor")


def given(bundle: Bundle, component: str, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Small random inputs of a plan."""
    plan, rng = bundle.plan(component, **sizes), np.random.default_rng(0)
    operands = [plan.operands[index] for index in plan.inputs]
    made = {one.name: rng.standard_normal(one.shape).astype(NUMPY[one.dtype]) for one in operands}
    return made | {"timestep": np.full(1, 500, np.float32)}


def step(bundle: Bundle, word: str, way: str) -> tuple[Callable[[], np.ndarray], str]:
    """What runs a step in one of WAYS; and what devices exchange."""
    component, passes = denoiser(bundle), most_passes(bundle)
    sizes = next(dict(one.sizes) for one in bundle.plans if (one.component, one.sizes["batch"]) == (component, passes))
    inputs, plan = given(bundle, component, sizes), bundle.plan(component, **sizes)
    port = plan.operands[plan.outputs[0]].name
    if way in (ONE, ALL):
        runner: Any = Session(bundle, OpenCLDevice(find_device(word)))
        return lambda: runner.run(component, inputs, **sizes)[port], ""
    halves = [opened(found) for found in find_devices(f"{word}/2")]
    layout = layout_of(way, [device.name for device in halves], bundle.pipeline)
    runner = shared(bundle, layout, halves, lambda device: Session(bundle, device))
    place = tuple(side // bundle.pipeline.latents.scale for side in default_size(bundle))
    return lambda: runner.run(component, inputs, **sizes)[port], exchanged(bundle, layout, *place).text()


def serve(args: argparse.Namespace) -> None:
    """A step for each line that is read, and a line about it."""
    if args.way == ONE:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    run, told = step(open_bundle(args.bundle), args.device, args.way)
    np.save(args.out, run())  # builds kernels, loads weights
    print(json.dumps({"told": told}), flush=True)
    for _ in sys.stdin:
        begun, busy = time.perf_counter(), time.process_time()
        run()
        now = time.perf_counter() - begun, time.process_time() - busy
        print(json.dumps(dict(zip(("seconds", "processor"), now, strict=True))), flush=True)


def measured(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for each way."""
    words = [sys.executable, "-m", "benchmarks.parallel", str(args.bundle), "--device", args.device]
    pipe, rows, workers = subprocess.PIPE, [], {}
    for way in WAYS:
        out = folder / f"{way}.npy"
        command = [*words, "--way", way, "--out", str(out)]
        workers[way] = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)
        rows.append({"way": way, **answer(workers[way]), "seconds": [], "processor": [], "out": np.load(out)})
    for _ in range(args.rounds):
        for row in rows:
            worker = workers[row["way"]]
            worker.stdin.write("\n")
            for name, value in answer(worker).items():
                row[name].append(value)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    least = min(rows[0]["seconds"])
    first = rows[0]["out"].astype(np.float64)
    for row in rows:
        row["off"] = float(np.abs(row.pop("out") - first).max() / np.abs(first).max())
        row["seconds"], row["processor"] = min(row["seconds"]), min(row["processor"])
        row["times as fast"] = least / row["seconds"]
    return rows


def answer(worker: Any) -> dict[str, Any]:
    """The next line of a worker."""
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"a worker ended with exit code {worker.wait()}")
    found: dict[str, Any] = json.loads(line)
    return found


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="what `ondevice convert --parallel tensor` wrote")
    parser.add_argument("--device", default="cpu", help="what is cut in two (default cpu)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        serve(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(args, Path(folder))
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        numbers = f"{row['seconds'] * 1e3:9.1f} ms {row['times as fast']:6.2f}x {row['processor'] * 1e3:9.1f} ms busy"
        print(f"{row['way']:<10} {numbers}  {row['off']:.1e} off  {row['told']}")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # as `ondevice.run.several.was_cut` has it
