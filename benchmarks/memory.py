"""Memory of one step: arena, and peak RSS beside onnxruntime's on the same graph, or with streamed weights, and what
these cost in time.

taskset -c 0 python -m benchmarks.memory sd14.ondevice [--stream [BYTES]] [--turns N] [--onnx FOLDER] [--json]

Every figure is of a process of its own, but of --turns, which runs N steps with weights whole and N with streamed ones
in turns, and nothing else. FOLDER is what `ondevice convert sd14 --random-weights 0 --format onnx` writes. Run it
twice: the first run fills the cache of kernels, and compiling takes memory too. A whole picture:
benchmarks/memory_picture.py.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.startup import probe


def status() -> dict[str, float]:
    """MB of this process: the most ever resident; now, of its own memory; now, of mapped files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    names = {"peak_rss": "VmHWM", "own": "RssAnon", "mapped": "RssFile"}
    return {name: int(lines[field].split()[0]) * 1024 / 1e6 for name, field in names.items()}


def opened(bundle_path: str, through: int | None, batch: int = 0) -> tuple[Any, Callable[[], None]]:
    """A session and a call of the loop on it, all passes at once or `batch` of them, as `generate` runs it; `through`:
    bytes of weights at a time as `Session.stream_weights` takes them."""
    from ondevice.bundle.reader import open_bundle  # here: onnxruntime's process is without them
    from ondevice.run.opencl import choose_device
    from ondevice.run.session import Session

    bundle = open_bundle(Path(bundle_path))
    session = Session(bundle, choose_device("cpu"))
    session.stream_weights(through)
    todo = []
    for role in bundle.pipeline.denoise[0].roles:
        have = [entry.sizes for entry in bundle.plans if entry.component == role.component]
        have = [sizes for sizes in have if batch in (0, sizes.get("batch", batch))]
        sizes = max(have, key=lambda sizes: sizes.get("batch", 1))
        plan = bundle.plan(role.component, **sizes)
        ports = [plan.operands[i].name for i in plan.inputs]
        inputs = {port: bundle.port_zeros(role.component, sizes, port) for port in ports}
        todo.append((role.component, inputs, sizes))

    def call() -> None:
        for component, inputs, sizes in todo:
            session.run(component, inputs, **sizes)

    return session, call


def step(bundle_path: str, through: int | None = None, once: bool = False) -> dict[str, Any]:
    """Two steps at the largest batch, as `opened` has them; or `once`, the first."""
    from ondevice.bundle.reader import open_bundle

    session, call = opened(bundle_path, through)
    bundle = open_bundle(Path(bundle_path))
    component = bundle.pipeline.denoise[0].roles[-1].component
    sizes = max((one.sizes for one in bundle.plans if one.component == component), key=lambda sizes: sizes["batch"])
    plan = bundle.plan(component, **sizes)
    if not once:
        call()
    took = timed(call)
    facts = {"sizes": dict(sizes), "arena": plan.arena / 1e6, "dtype": plan.dtype, "dispatches": len(plan.dispatches)}
    return took | facts | {"streamed": session.streamed_bytes / 1e6} | status()


def timed(call: Callable[[], None]) -> dict[str, float]:
    """Seconds by the clock and of processor."""
    begun = time.perf_counter(), time.process_time()
    call()
    return {"step": time.perf_counter() - begun[0], "cpu": time.process_time() - begun[1]}


def turns(bundle_path: str, rounds: int, batch: int = 0) -> dict[str, Any]:
    """Steps with weights whole and streamed in turns, in one process; the first of each warms up."""
    calls = {name: opened(bundle_path, through, batch)[1] for name, through in (("whole", None), ("streamed", 0))}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            found[name].append(timed(call))
    return {name: rows[1:] for name, rows in found.items()}


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


PROBES: dict[str, Callable[..., dict[str, Any]]] = {"step": step, "turns": turns, "onnx": onnx_step}


def taken(found: dict[str, list[dict[str, float]]]) -> str:
    """The least of each, for people."""
    least = {name: {key: min(row[key] for row in rows) for key in ("step", "cpu")} for name, rows in found.items()}
    whole, streamed = least["whole"], least["streamed"]
    return "; ".join(
        f"{what}: whole {whole[key]:.2f} s, streamed {streamed[key]:.2f} s ({streamed[key] / whole[key]:.2f}x)"
        for key, what in (("cpu", "a step's processor time"), ("step", "by the clock"))
    )


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
    parser.add_argument("--once", action="store_true", help="of a step the first alone, without one that warms up")
    parser.add_argument("--turns", type=int, metavar="N", help="only the time of steps, with and without, in turns")
    parser.add_argument("--batch", type=int, default=0, metavar="N", help="passes of a step of --turns (default: all)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--probe", choices=PROBES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe:
        more = [args.turns, args.batch] if args.probe == "turns" else [] if args.stream is None else [args.stream]
        more += [True] if args.once else []
        print(json.dumps(PROBES[args.probe](str(args.bundle), *more)))
        return
    if args.turns:
        took = probe("benchmarks.memory", args.bundle, "turns", "--turns", str(args.turns), "--batch", str(args.batch))
        print(json.dumps(took) if args.json else taken(took))
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
    print(f"step, {at}, {ours['dtype']}: {ours['step']:.2f} s, arena {ours['arena']:.1f} MB")
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
