"""Measure: what the fusions save by the plans alone, or how long a bundle's components take on a device.

ondevice bench sd14 --random-weights 0 --ablation
ondevice bench sd14.ondevice --component unet
"""

from __future__ import annotations

import argparse
import json

from ondevice import ablation, cli, subject
from ondevice.bundle.reader import Bundle
from ondevice.convert import add_plan_arguments, target_of
from ondevice.errors import UsageError
from ondevice.report import entries, only
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.run.timing import time_plan

HELP = "what the fusions save, or how long a bundle's components take"
REPEAT = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    subject.add_arguments(parser)
    add_plan_arguments(parser)
    parser.add_argument("--ablation", action="store_true", help="a table of the plans, one family of rules added at a time; needs a model")
    parser.add_argument("--markdown", action="store_true", help="print that table as Markdown")
    parser.add_argument("--component", metavar="NAME", help="only this one, such as unet")
    parser.add_argument("--repeat", type=int, metavar="N", help=f"runs to time, after one that is not (default {REPEAT}, at least 3)")
    parser.add_argument("--device", help="OpenCL device: number, part of its name, cpu or gpu (see `ondevice devices`)")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table asked for."""
    if args.ablation:
        subject.refuse(args, ["--without"], "the ablation goes through all rules.")
        subject.refuse(args, ["--device", "--repeat"], "the ablation is of plans; nothing runs.")
    else:
        subject.refuse(args, ["--markdown"], "it is a form of the ablation's table.")
    repeat = REPEAT if args.repeat is None else args.repeat
    if repeat < 3:
        raise UsageError(f"a median needs 3 runs or more (got {repeat}).", where="--repeat", fix="use 3 or more")
    opened = subject.open_subject(args)
    if args.ablation:
        if isinstance(opened, Bundle):
            what = "a bundle holds its plans and no graph, so no rule can be left out."
            fix = f"name the model it was made from, such as `ondevice bench {opened.model['family']} --ablation`"
            raise UsageError(what, where="--ablation", fix=fix)
        # Without a flag the table is the same on any machine, not that of this one's CPU.
        target = target_of(args) if args.target or args.tuning or args.tune_for else "host"
        size, dtype = subject.size_of(args), subject.storage(args)
        steps = list(ablation.ablation(opened, size=size, dtype=dtype, target=target, component=args.component))
        text = ablation.to_markdown(steps) if args.markdown else ablation.to_text(steps)
        print(json.dumps(ablation.to_json(steps), indent=1) if args.json else text)
        return 0
    if not isinstance(opened, Bundle):
        what = f"only a bundle can be timed (got the model {args.model})."
        raise UsageError(what, fix=f"write one with `ondevice convert {args.model}`, or ask for --ablation")
    session = Session(opened, choose_device(args.device), profile=True)
    chosen = only(entries(opened, subject.size_of(args)), args.component)
    timings = [time_plan(session, opened.plan(entry.component, **entry.sizes), repeat) for entry in chosen]
    if args.json:
        rows = [timing.row() for timing in timings]
        print(json.dumps({"timings": rows, "kernels": session.profile.by("component", "op", "kernel"), **session.profile.to_json()}))
        return 0
    for timing in timings:
        rates = f"{timing.gflop_per_s:,.1f} GFLOP/s, {timing.gb_per_s:,.1f} GB/s"
        doubt = "" if timing.counts else "; the machine was busy: does not count"
        print(f"{timing.name}: {timing.median_ms:,.1f} ms, {rates} (median of {timing.runs}, spread {timing.spread:.2f}{doubt})")
    print(session.profile.to_table("component", "op", "kernel"))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.main_for("bench"))
