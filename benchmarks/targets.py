"""A UNet step under several targets: `python -m benchmarks.targets host host-avx2 [--size 256x256]
[--dtype fp16] [--untuned]`.

Each distinct dispatch is timed alone under all of them, taking turns, by the device's own clock; the table sums them as
often as a step at batch 2 launches them. With Intel's CPU runtime, CL_CONFIG_CPU_TARGET_ARCH=core-avx2 makes a machine
with wider vectors one with AVX2.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from dataclasses import replace

from ondevice.compiler import Job, Recipe
from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.converters.random_weights import random_checkpoint
from ondevice.flags import parse_size
from ondevice.lower.kernel_file import load_all
from ondevice.lower.tunables import tunables
from ondevice.measure.tuner.cases import STEPS, Case, cases_of
from ondevice.measure.tuner.runner import CaseRunner, Ready
from ondevice.run.opencl import choose_device
from ondevice.run.timing import in_turns
from ondevice.target import Target, load_target

STORAGE = {"fp16": "f16", "fp32": "f32"}


def ready(case: Case, runner: CaseRunner, target: Target) -> Ready | None:
    """The case under a target. Methods are those of the first target, so that all run the same calls."""
    return runner.ready(replace(case, target=target), tunables(case.kernel, case.at, target).values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", help="names of ondevice/targets")
    parser.add_argument("--size", default="256x256", help="picture size in pixels")
    parser.add_argument("--dtype", choices=STORAGE, default="fp16")
    parser.add_argument("--untuned", action="store_true", help="add the first target without its measured files")
    parser.add_argument("--kernel", action="append", default=[], help="only this one; may be given several times")
    parser.add_argument("--device", help="as `ondevice devices` lists them")
    arguments = parser.parse_args()
    kernels, targets = load_all(), {name: load_target(name) for name in arguments.targets}
    first = next(iter(targets.values()))
    if arguments.untuned:
        targets[f"{first.name}, untuned"] = replace(first, tuning=())
    width, height = parse_size(arguments.size)
    job = Job("unet", {"batch": 2, "height": height // 8, "width": width // 8})
    model = build(random_checkpoint(FAMILIES["sd14"], 0))
    runner = CaseRunner(choose_device(arguments.device), kernels)
    sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * len(targets))
    for case in cases_of(
        model, [(job, STORAGE[arguments.dtype])], kernels, Recipe(target=first), only=arguments.kernel
    ):
        ready_cases = [ready(case, runner, target) for target in targets.values()]
        runs = [one.run for one in ready_cases if one is not None]
        if len(runs) < len(targets):
            print(f"left out: {case}")
            continue
        for number, times in enumerate(in_turns(runs, runs=15, warmup=1, budget_s=0.5)):
            sums[case.kernel.name][number] += statistics.median(times) * case.runs / STEPS
        runner.forget()
    print(f"{'seconds per step':24s}" + "".join(f"{name:>18s}" for name in targets))
    for name, row in sorted(sums.items(), key=lambda item: -item[1][0]):
        print(f"{name:24s}" + "".join(f"{seconds:18.4f}" for seconds in row))
    print(f"{'all':24s}" + "".join(f"{sum(row[i] for row in sums.values()):18.4f}" for i in range(len(targets))))


if __name__ == "__main__":
    main()
