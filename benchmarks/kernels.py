"""Time the ops of Stable Diffusion 1.4, and of a step of 3 and of films, as plans run them:
`python -m benchmarks.kernels [part of a name] [--storage f16] [--math bf16] [--markdown]`.

Prints GFLOP/s and GB/s (the least bytes the op could move), and what part they are of the device's peak and of a large
copy, both measured in turns with the op. Pin it to a core for figures per core (`taskset -c 0`).
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kernel_cases import Case, cases
from benchmarks.roofline import Limits, Reached
from ondevice.base import machine
from ondevice.base.publish import append_lines
from ondevice.bundle.in_memory import MemoryBundle, weight_sources
from ondevice.lower.kernel_file import KernelFile, load_all
from ondevice.lower.program import DTYPES
from ondevice.plan import plan
from ondevice.run.device import Device
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.run.timing import Timing, made_up
from ondevice.target import AUTO, FP32, MATHS, load_target

HEAD = "| op | kernels | storage | ms | GFLOP/s | of peak | GB/s | of copy |\n|---|---|---|---:|---:|---:|---:|---:|"


def run(
    device: Device,
    kernels: dict[str, KernelFile],
    limits: Limits,
    case: Case,
    storage: str,
    math: str,
    target: str,
    budget_s: float,
) -> tuple[Timing, Reached, str]:
    """Time one case on made-up values, by the device's own clock; what part of its limits that is;
    and the names of its kernels.

    A plan takes and gives float32: the casts at its borders are no part of the case.
    """
    program = case.lowered(storage, load_target(target), kernels, math)
    dispatch_plan = plan(program, storage=storage)
    session = Session(MemoryBundle([dispatch_plan], weight_sources(program), kernels), device, trace=True)
    inputs: dict[str, np.ndarray] = made_up(dispatch_plan)

    def call() -> float:
        session.profile.clear()
        session.run("case", inputs)
        assert session.profile.launches is not None
        return sum(launch.end - launch.start for launch in session.profile.launches[0] if launch.row.op != "Cast")

    name, moved = f"{case.name} {storage if math == FP32 else f'{storage}/{math}'}", case.nbytes(DTYPES[storage])
    timing, reached = limits.compare(name, call, flops=case.flops, moved_bytes=moved, budget_s=budget_s)
    names = dict.fromkeys(row.kernel for row in session.profile.rows.values() if row.op != "Cast")
    return timing, reached, " + ".join(names)


def row_of(timing: Timing, reached: Reached, names: str, about: dict[str, Any]) -> dict[str, Any]:
    """A result as plain data."""
    return {
        **timing.row(),
        "kind": "kernel",
        "name": f"kernel: {timing.name}",
        "kernels": names,
        "reached": reached.row(),
        **about,
    }


def text_of(timing: Timing, reached: Reached, names: str) -> str:
    """A result as a line."""
    flops = f"{timing.gflop_per_s:8.1f} GFLOP/s {reached.of_peak:4.0%}"
    rates = f"{flops} {timing.gb_per_s:7.2f} GB/s {reached.of_copy:4.0%}"
    return f"{timing.name:48s} {names:42s} {timing.median_ms:9.2f} ms {rates}  spread {reached.spread:.2f}" + (
        "" if reached.counts else " (does not count)"
    )


def markdown_of(timing: Timing, reached: Reached, names: str) -> str:
    """A result as a table's row."""
    name, _, storage = timing.name.rpartition(" ")
    flops = f"{timing.gflop_per_s:,.1f} | {reached.of_peak:.0%}" if timing.gflop_per_s else " | "
    rates = f"{flops} | {timing.gb_per_s:,.1f} | {reached.of_copy:.0%}"
    return f"| {name} | {names} | {storage} | {timing.median_ms:,.2f}{'' if reached.counts else ' (busy)'} | {rates} |"


def main(argv: list[str] | None = None) -> None:
    """Time what was asked for, one line per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filter", nargs="?", default="", help="only cases whose name contains this")
    parser.add_argument("--storage", choices=("f32", "f16"), nargs="+", default=("f32", "f16"))
    parser.add_argument("--math", choices=MATHS, nargs="+", default=(FP32,), help="what products are multiplied in")
    parser.add_argument("--plain", action="store_true", help="also the ops that only graphs without fusions hold")
    parser.add_argument("--target", default=AUTO, help="whose tunables (default auto: this machine's CPU)")
    parser.add_argument("--device", help="as `ondevice devices` lists them")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds of timed calls per case")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per line")
    form.add_argument("--markdown", action="store_true", help="a table for a page")
    parser.add_argument(
        "--rows", type=Path, metavar="FILE.jsonl", help="append the results there, one JSON object per line"
    )
    args = parser.parse_args(argv)
    device, kernels = choose_device(args.device), load_all()
    limits, facts = Limits(device), device.facts()
    about = {"target": load_target(args.target).name, "machine": machine.facts(device=facts)}
    if not args.json:
        print(
            f"{facts['name']}, {facts['platform']}, {facts['driver']}, {about['machine']['cores']} cores\n", flush=True
        )
    print(HEAD, flush=True) if args.markdown else None
    for case in cases(args.plain):
        for storage, math in product(args.storage, args.math):
            if args.filter not in case.name:
                continue
            found = run(device, kernels, limits, case, storage, math, args.target, args.budget)
            line = json.dumps(row_of(*found, about))
            print(line if args.json else (markdown_of if args.markdown else text_of)(*found), flush=True)
            if args.rows:
                append_lines(args.rows, [line])


if __name__ == "__main__":
    main()
