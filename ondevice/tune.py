"""Measure which tunables of the kernels are fastest on a device, at the shapes of a model or a bundle,
and write them to a file.

ondevice tune sd14 --random-weights 0 --budget 300
ondevice tune sd14.ondevice --kernel matmul --out mine.toml
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ondevice import cli, flags
from ondevice.base.paths import TUNING
from ondevice.bundle.reader import Bundle
from ondevice.compiler.jobs import Job, bundle_jobs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import build
from ondevice.converters.component import Checkpoint
from ondevice.converters.families import FAMILIES as MODELS
from ondevice.converters.random_weights import random_checkpoint
from ondevice.errors import UsageError
from ondevice.lower.kernel_file import KernelFile, load_all
from ondevice.lower.program import STORAGES
from ondevice.lower.quantize import SCHEMES
from ondevice.measure.tuner.cases import Case, Key, cases_of, key_of
from ondevice.measure.tuner.measured import Measured, about, device_family, tuning_of
from ondevice.measure.tuner.runner import CaseRunner
from ondevice.measure.tuner.tune import tune
from ondevice.plan.plan import Plan
from ondevice.run.opencl import choose_device
from ondevice.target import AUTO, target_names
from ondevice.target.tuning import Tuning, read_tuning, write_tuning

HELP = "measure which tunables are fastest on a device, and write them to a file"
BUDGET = 300.0
CPU_TIME = "processor time of the process"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    flags.add_subject(parser)
    parser.add_argument("--dtype", choices=STORAGES, help="storage of UNet and VAE (default: both)")
    flags.add_math(parser)
    flags.add_weights(parser)
    parser.add_argument(
        "--target", choices=(AUTO, *target_names()), help="whose methods and panels to measure with (default auto)"
    )
    parser.add_argument(
        "--kernel", action="append", metavar="NAME", help="only this kernel, such as matmul; may be given several times"
    )
    parser.add_argument(
        "--budget", type=float, default=BUDGET, metavar="SECONDS", help=f"time for all of it (default {BUDGET:g})"
    )
    flags.add_device(parser)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="go by processor time, on a CPU that others use at the same time: of calls, and for --budget",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="what to write (default: the package's file for such devices)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, write the file, and print its path. What an existing file has of other shapes stays in it."""
    kernels, recipe = load_all(), flags.recipe_of(args)
    if unknown := sorted(set(args.kernel or ()) - kernels.keys()):
        raise UsageError(
            f"there is no kernel {unknown[0]} (there are {', '.join(kernels)}).",
            where="--kernel",
            fix="name one of these",
        )
    if not 0 < args.budget < float("inf"):
        raise UsageError(f"it is no time (got {args.budget:g}, expected seconds over 0).", where="--budget")
    opened = flags.open_subject(args)
    recipe = replace(recipe, weights=recipe.weights or _stored(opened))
    if recipe.weights and args.out is None:
        name = SCHEMES[recipe.weights].name
        what = f"rows do not say how weights are stored, so those of {name} weights must not stand among the package's."
        fix = f"name a file of its own, and give it to `ondevice convert --weights {name} --tuning`"
        raise UsageError(what, where="--out", fix=fix)
    device = choose_device(args.device)
    about_device = device.facts()
    if args.cpu_time and about_device.get("kind") != "cpu":
        raise UsageError(f"{device.name} is no CPU.", where="--cpu-time", fix="leave it out: the device has a clock")
    out = args.out or TUNING / f"{device_family(about_device, recipe.math)[0]}.toml"
    _writable(out)
    before = read_tuning(out, where="--out") if out.exists() else None
    cases = _cases(args, opened, kernels, recipe)
    if not cases:
        raise UsageError("nothing of it can be tuned.", where=args.model, fix="name other kernels with --kernel")
    _say(
        f"{len(cases)} shapes of {len({case.kernel.name for case in cases})} kernels on {device.name}; "
        "Ctrl-C keeps what was measured"
    )
    rows: list[Measured] = []
    try:
        runner = CaseRunner(device, kernels, time.process_time if args.cpu_time else None)
        clock = time.process_time if args.cpu_time else time.monotonic
        for row in tune(cases, runner, args.budget, _say, clock):
            rows.append(row)
    finally:
        _write(out, about_device | ({"clock": CPU_TIME} if args.cpu_time else {}), recipe.math, rows, kernels, before)
    print(out)
    return 0


def _stored(opened: Checkpoint | Bundle) -> str:
    """How a bundle has its larger weights, as `lower` names it."""
    dtypes = {entry.dtype for entry in opened.manifest.weights.values()} if isinstance(opened, Bundle) else set()
    return next((name for name, scheme in SCHEMES.items() if scheme.dtype in dtypes), "")


def _cases(
    args: argparse.Namespace, opened: Checkpoint | Bundle, kernels: Mapping[str, KernelFile], recipe: Recipe
) -> list[Case]:
    """What the plans of the model, or of the bundle, dispatch."""
    wanted = set(args.kernel or ())
    if not isinstance(opened, Bundle):
        model, size = build(opened), flags.size_of(args)
        jobs = bundle_jobs(model, [size] if size else [], 0, [])
        pairs: list[tuple[Job, str]] = []
        for dtype in [recipe.dtype] if args.dtype else STORAGES.values():
            of_dtype = [(job, replace(recipe, dtype=dtype).storage(model, job.component)) for job in jobs]
            pairs += [pair for pair in of_dtype if pair not in pairs]
        return cases_of(model, pairs, kernels, recipe, only=wanted, say=_say)
    # A bundle has no graph, and its calls come from one: its family's, with made-up weights, at the bundle's sizes.
    if (family := opened.model["family"]) not in MODELS:
        raise UsageError(
            f"its family {family!r} is unknown here (expected one of {', '.join(sorted(MODELS))}).", where=args.model
        )
    pairs = [(Job(entry.component, dict(entry.sizes)), entry.dtype) for entry in opened.plans]
    there = set().union(*(_keys(opened.plan(job.component, **job.sizes), kernels) for job, _ in pairs))
    cases = cases_of(build(random_checkpoint(family, 0)), pairs, kernels, recipe, only=wanted, say=_say)
    return [case for case in cases if case.key in there]


def _keys(plan: Plan, kernels: Mapping[str, KernelFile]) -> set[Key]:
    """What the plan dispatches, but for kernels that have changed since."""
    used = [
        (kernels.get(plan.kernels[d.kernel].file), dict(plan.kernels[d.kernel].defines), d.scalars)
        for d in plan.dispatches
    ]
    return {
        key_of(kernel, defines, scalars)
        for kernel, defines, scalars in used
        if kernel and len(scalars) == len(kernel.arg_types)
    }


def _write(
    out: Path,
    device: Mapping[str, Any],
    math: str,
    rows: Sequence[Measured],
    kernels: Mapping[str, KernelFile],
    before: Tuning | None,
) -> None:
    if not rows:
        _say("nothing was measured, so nothing is written")
        return
    name, match = device_family(device, math)
    write_tuning(tuning_of(name, before.match if before else match, about(device), rows, kernels, before), out)
    was, now = sum(row.cost for row in rows), sum(row.us * row.runs for row in rows)
    _say(
        f"{len(rows)} shapes in {out}: {was / 1e6:.2f} s of a picture became {now / 1e6:.2f} s "
        f"({was / max(now, 1e-9):.3f}x)"
    )


def _writable(out: Path) -> None:
    """Raise UsageError now, not after minutes of measuring."""
    folder = next(path for path in out.absolute().parents if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        fix = "choose a file of yours with --out, and give it to `ondevice convert --tuning`"
        raise UsageError(f"{out} cannot be written (its folder is not yours to write).", where="--out", fix=fix)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(cli.main_for("tune"))
