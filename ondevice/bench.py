"""Measure: what the fusions save, how long a bundle's components take on a device,
or how other runtimes do on the same weights; or predict what a device takes that is not here.

ondevice bench sd14 --random-weights 0 --ablation --latency
ondevice bench sd14 --random-weights 0 --predict adreno_740
ondevice bench sd14.ondevice --component unet --trace unet.json
ondevice bench sd14 --random-weights 0 --peers --component unet --cores 0
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from ondevice import cli, flags
from ondevice.base import machine
from ondevice.base.publish import FULL, append_lines
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.compiler.jobs import largest_jobs, only
from ondevice.compiler.report import entries
from ondevice.converters import build
from ondevice.converters.component import Checkpoint
from ondevice.diffusion.files import check_outputs, write_output
from ondevice.errors import UsageError
from ondevice.measure import ablation, latency
from ondevice.measure.peers import figures
from ondevice.measure.peers.driver import Comparison
from ondevice.measure.peers.peer import COMPARED, PEERS, Task, cores_of, named
from ondevice.measure.phones import result as of_phones
from ondevice.measure.phones.bench import Asked
from ondevice.measure.phones.bench import bench as measure_phone
from ondevice.measure.phones.expected import expected_of
from ondevice.measure.phones.result import of_row, read_results
from ondevice.measure.phones.several import is_phone, only_phones, phones_of, together, words_of
from ondevice.measure.predict import paper, prediction
from ondevice.measure.predict import table as predicted
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.run.timing import Timing, time_plan
from ondevice.run.trace import to_trace
from ondevice.target import Target, load_target

HELP = "what the fusions save, how long a bundle's components take or would take on a phone, or how other runtimes do"
REPEAT = 5
STEPS = 20  # of a predicted picture, as in published figures
ROUNDS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    flags.add_subject(parser)
    flags.add_plan_arguments(parser)
    parser.add_argument(
        "--ablation",
        action="store_true",
        help="a table of the plans, one family of rules added at a time; needs a model",
    )
    parser.add_argument("--latency", action="store_true", help="with --ablation: the paper's steps, timed on a device")
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE.json",
        help="of a bundle: when each launch ran, for Perfetto or chrome://tracing",
    )
    parser.add_argument("--markdown", action="store_true", help="print that table as Markdown")
    flags.add_component(parser)
    parser.add_argument(
        "--repeat", type=int, metavar="N", help=f"runs to time, after one that is not (default {REPEAT}, at least 3)"
    )
    flags.add_kernels(parser)
    parser.add_argument(
        "--device",
        action="append",
        metavar="DEVICE",
        help="OpenCL device: number, part of its name, cpu or gpu (see `ondevice devices`); adb, adb:SERIAL (may be "
        "given several times) or adb:all: phones; apple: what an app exported, a FILE named in the bundle's place",
    )
    parser.add_argument("--player", type=Path, metavar="FILE", help="of phones: od_player for them (default: built)")
    parser.add_argument("--keep", action="store_true", help="of phones: leave what was pushed there for the next time")
    flags.add_plans(parser)
    parser.add_argument(
        "--peers", action="store_true", help="other runtimes on the same weights, in turns with ours; needs a model"
    )
    parser.add_argument(
        "--only", metavar="NAME,...", help=f"peers to run, the first in turns with each other one: {', '.join(PEERS)}"
    )
    parser.add_argument(
        "--cores",
        metavar="N,...",
        help="numbers of the cores that each peer may use (default: all that this process may)",
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help=f"turns of each peer that count (default {ROUNDS}, at least 3)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="where converted models are kept for the next time (default MODEL.peers)",
    )
    parser.add_argument("--strict", action="store_true", help="fail where a peer cannot take part")
    parser.add_argument("--apart", action="store_true", help="load one peer at a time: for models that fill the memory")
    parser.add_argument(
        "--predict",
        metavar="TARGET",
        help="what a picture would take on such a device, by a model of its time; with --ablation the paper's steps",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help=f"with --predict: calls of the denoiser (default {STEPS})"
    )
    parser.add_argument(
        "--rows", type=Path, metavar="FILE.jsonl", help="append the results there, one JSON object per line"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")


PEER_FLAGS = ("--only", "--cores", "--rounds", "--work", "--strict", "--apart")


def run(args: argparse.Namespace) -> int:
    """Print the table asked for."""
    _check(args)
    if args.device and (args.device == ["apple"] or any(is_phone(one) for one in args.device)):
        return _phones(args)
    if len(args.device or ()) > 1:
        what = f"{len(args.device)} devices are named."
        raise UsageError(what, where="--device", fix="name one; only phones (adb:SERIAL) are measured side by side")
    flags.refuse(args, ["--player", "--keep"], "it is of phones.")
    args.device = args.device[0] if args.device else None
    target = None if args.predict is None else prediction.predictable(args.predict)
    if args.rows is not None:
        _check_rows(args.rows)
    if args.steps is not None and args.steps < 1:
        raise UsageError(f"a picture takes 1 step or more (got {args.steps}).", where="--steps", fix="use 20")
    for flag, given in (("--repeat", args.repeat), ("--rounds", args.rounds)):
        if given is not None and given < 3:
            raise UsageError(f"a median needs 3 runs or more (got {given}).", where=flag, fix="use 3 or more")
    opened = flags.open_subject(args)
    if target is not None:
        return _predict(args, opened, target)
    if isinstance(opened, Bundle):
        if args.kernels == "ours":
            opened.require_own_kernels()
        return _of_bundle(args, opened)
    flags.refuse(args, ["--kernels"], "a model is compiled with this ondevice's kernels.")
    flags.refuse(args, ["--plans"], "a model is compiled for one target, which --target names.")
    if args.peers:
        return _peers(args, opened)
    if args.ablation:
        return _ablation(args, opened)
    what = f"only a bundle can be timed (got the model {args.model})."
    raise UsageError(
        what, fix=f"write one with `ondevice convert {args.model}`, or ask for --ablation, --peers or --predict"
    )


def _check(args: argparse.Namespace) -> None:
    """Refuse flags that would be ignored."""
    if args.peers and args.ablation:
        raise UsageError("they are two tables.", where="--peers and --ablation", fix="ask for one at a time")
    if args.predict:
        flags.refuse(
            args, ["--target", "--tuning", "--tune-for"], "--predict names the target, and nothing was measured on it."
        )
        flags.refuse(args, ["--math"], "what is predicted multiplies as its target stores.")
        flags.refuse(
            args,
            [
                "--device",
                "--kernels",
                "--plans",
                "--latency",
                "--peers",
                "--repeat",
                "--rows",
                "--trace",
                "--component",
            ],
            "a prediction is of a picture's plans; nothing runs.",
        )
    elif not (args.device and is_phone(args.device[0])):
        flags.refuse(args, ["--steps"], "it goes only with --predict, and with phones.")
    if args.ablation:
        flags.refuse(args, ["--without"], "the ablation goes through all rules.")
        if not args.latency:
            flags.refuse(args, ["--device", "--repeat", "--rows"], "the ablation is of plans; nothing runs.")
    else:
        flags.refuse(args, ["--markdown", "--latency"], "it is a form of the ablation's table.")
    if args.peers:
        flags.refuse(
            args,
            ["--without", "--target", "--tuning", "--tune-for", "--dtype", "--math", "--weights"],
            "the peers run whole models at precisions of their own.",
        )
        flags.refuse(args, ["--device"], "the peers run on the CPU.")
        flags.refuse(args, ["--repeat"], "the peers take turns; --rounds says how many.")
    else:
        flags.refuse(args, PEER_FLAGS, "it goes only with --peers.")
    if args.peers or args.ablation:
        flags.refuse(args, ["--trace"], "it is of a bundle's components.")


def _predict(args: argparse.Namespace, opened: Checkpoint | Bundle, target: Target) -> int:
    size = flags.size_of(args)
    if isinstance(opened, Bundle):
        if args.ablation:
            _refuse_bundle("ablation", opened)
        found = prediction.of_bundle(opened, target, args.steps or STEPS, size)
    else:
        recipe = replace(flags.recipe_of(args), target=target)
        if args.ablation:
            steps = paper.paper_ablation(opened, recipe, size)
            text = paper.to_markdown(steps) if args.markdown else paper.to_text(steps)
            print(json.dumps(paper.to_json(steps), indent=1) if args.json else text)
            return 0
        found = prediction.of_model(opened, recipe, args.steps or STEPS, size)
    print(json.dumps(predicted.to_json(found), indent=1) if args.json else predicted.to_text(found))
    return 0


def _ablation(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    # Without a flag the table of plans is the same on any machine, not that of this one's CPU; what is timed is what
    # this machine gets.
    recipe, part = flags.recipe_of(args), {"size": flags.size_of(args), "component": args.component}
    if not (args.latency or args.target or args.tuning or args.tune_for):
        recipe = replace(recipe, target=load_target("host"))
    if args.latency:
        device = choose_device(args.device)
        timed = list(latency.timed_ablation(checkpoint, device, recipe, **part, repeat=args.repeat or REPEAT, say=_say))
        about = {"model": args.model, "target": recipe.target.name, "machine": machine.facts(device=device.facts())}
        if not args.json:
            print(latency.to_markdown(timed) if args.markdown else latency.to_text(timed))
        name = f"{args.model} with {args.weights} weights" if args.weights else args.model
        _finish(args, [one.row(name, recipe.target.name) | about for one in timed])
        return 0
    steps = list(ablation.ablation(checkpoint, recipe, **part))
    text = ablation.to_markdown(steps) if args.markdown else ablation.to_text(steps)
    print(json.dumps(ablation.to_json(steps), indent=1) if args.json else text)
    return 0


def _of_bundle(args: argparse.Namespace, bundle: Bundle) -> int:
    for flag in ("ablation", "peers"):
        if getattr(args, flag):
            _refuse_bundle(flag, bundle)
    if args.trace is not None:
        check_outputs({"--trace": args.trace})
    device = choose_device(args.device)
    bundle = flags.with_plans(bundle, args, device)
    session = Session(bundle, device, profile=True, trace=args.trace is not None)
    chosen = only(entries(bundle, flags.size_of(args)), args.component)
    repeat = REPEAT if args.repeat is None else args.repeat
    timings = [time_plan(session, bundle.plan(entry.component, **entry.sizes), repeat) for entry in chosen]
    if args.trace is not None:
        write_output(args.trace, lambda file: file.write(json.dumps(to_trace(session.profile)).encode()))
    about = {"machine": machine.facts(device=session.profile.device)}
    rows = [timing.row() for timing in timings]
    source = bundle.model["source"]
    kept = [
        {**row, "kind": "bundle", "name": f"bundle: {source} {row['name']}", "model": source, **about} for row in rows
    ]
    try:
        if args.json:
            kernels = session.profile.by("component", "op", "kernel", "math")
            print(json.dumps({"timings": rows, "kernels": kernels, **session.profile.to_json(), **about}))
        else:
            _print_timings(timings, session)
    finally:
        _append(args.rows, kept)
    return 0


def _refuse_bundle(flag: str, bundle: Bundle) -> NoReturn:
    what = "a bundle holds its plans and no graph, so no rule can be left out."
    what = what if flag == "ablation" else "a bundle holds its plans, and the other runtimes need the weights."
    fix = f"name the model it was made from, such as `ondevice bench {bundle.model['family']} --{flag}`"
    raise UsageError(what, where=f"--{flag}", fix=fix)


def _print_timings(timings: Sequence[Timing], session: Session) -> None:
    for timing in timings:
        rates = f"{timing.gflop_per_s:,.1f} GFLOP/s, {timing.gb_per_s:,.1f} GB/s"
        doubt = "" if timing.counts else "; the machine was busy: does not count"
        print(
            f"{timing.name}: {timing.median_ms:,.1f} ms, {rates} (median of {timing.runs}, "
            f"spread {timing.spread:.2f}{doubt})"
        )
    print(session.profile.to_table("component", "op", "kernel"))


OF_HERE = ("--ablation", "--latency", "--peers", "--trace", "--component", "--size", "--predict")


def _phones(args: argparse.Namespace) -> int:
    """Measure a bundle on phones, or read what an app measured."""
    flags.refuse(args, OF_HERE, "it is of this machine's devices, and phones draw whole pictures.")
    if args.rows is not None:
        _check_rows(args.rows)
    if args.device == ["apple"]:
        flags.refuse(args, ["--player", "--keep", "--repeat", "--steps", "--plans"], "an app's file is only read.")
        found = read_results(Path(args.model))
        _finish(args, [one.row() for one in found])
        if not args.json:
            print("\n\n".join(of_phones.to_text(one) for one in found))
        return 0
    only_phones(args.device)
    if args.repeat is not None and args.repeat < 3:
        raise UsageError(f"a median needs 3 runs or more (got {args.repeat}).", where="--repeat", fix="use 3 or more")
    bundle = open_bundle(args.model)
    phones = phones_of(args.device)
    if len(phones) > 1:
        passed = {flag: flags.given(args, flag) for flag in ("--repeat", "--steps", "--plans", "--player", "--keep")}
        rows, failure = together(phones, [args.model, *words_of(passed)])
        _finish(args, rows)
        if not args.json:
            for row in rows:
                print(of_phones.to_text(of_row(row), of_phones.Predicted(**row["predicted"])) + "\n")
        if failure:
            raise failure
        return 0
    asked = Asked(args.repeat or REPEAT, 1, args.steps or 0, args.plans or "", args.player, args.keep)
    result = measure_phone(phones[0], bundle, asked, _say)
    expected = expected_of(bundle, result)
    _finish(args, [result.row() | {"predicted": expected.to_json()}])
    if not args.json:
        print(of_phones.to_text(result, expected))
    return 0


def _peers(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    chosen, cores = named(args.only), cores_of(args.cores)
    jobs = [job for job in largest_jobs(build(checkpoint), flags.size_of(args)) if job.component in COMPARED]
    rows: list[dict[str, Any]] = []
    for job in only(jobs, args.component):
        task = Task(flags.source_of(args).resolved(), job.component, job.sizes | {"batch": 1})
        work = args.work or Path(f"{args.model}.peers")
        comparison = Comparison(task, work, cores, strict=args.strict, apart=args.apart, say=_say)
        found = comparison.run(chosen, args.rounds or ROUNDS)
        about = {"machine": machine.facts(cores), "skipped": comparison.skipped, "apart": args.apart}
        rows += [one.row(task, chosen[0].name) | about for one in found]
        if not args.json:
            print(figures.to_text(task, cores, found, comparison.skipped, args.apart), flush=True)
    _finish(args, rows)
    return 0


def _finish(args: argparse.Namespace, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append the rows to --rows, and print them where JSON was asked for. Where one fails, the other is done."""
    try:
        if args.json:
            print(json.dumps(list(rows), indent=1))
    finally:
        _append(args.rows, rows)


def _append(path: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    if path is None:
        return
    try:
        append_lines(path, [json.dumps(row) for row in rows])
    except OSError as error:
        fix = "free space on this disk" if error.errno in FULL else "name a file in a writable folder"
        raise UsageError(f"cannot be written: {error.strerror}; no row was added.", where=str(path), fix=fix) from None


def _check_rows(path: Path) -> None:
    """Say so now, not after minutes of measuring, where rows cannot be appended."""
    if path.is_dir() or not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise UsageError("no rows can be appended there.", where=str(path), fix="name a file in a writable folder")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(cli.main_for("bench"))
