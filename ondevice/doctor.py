"""Run every kernel of a bundle on a device, each at every shape that the plans have, and compare what it gives with
what a device gives that is trusted: the answer to "the picture is black on this GPU".

ondevice doctor sd14.ondevice --device gpu --out avoid.json
ondevice convert sd14 --avoid avoid.json
ondevice doctor sd14.ondevice --device adb
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ondevice import cli, flags
from ondevice.base.bars import tqdm
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.compiler.jobs import only
from ondevice.compiler.report import entries
from ondevice.diffusion.files import check_outputs, write_output
from ondevice.errors import UsageError
from ondevice.measure.doctor import report
from ondevice.measure.doctor.examine import examine
from ondevice.measure.doctor.launches import Launch, launches
from ondevice.measure.doctor.numpy_runner import NumpyRunner
from ondevice.measure.doctor.reference import reference_for
from ondevice.measure.doctor.runner import LaunchRunner, check_needs
from ondevice.measure.phones.bench import Asked
from ondevice.measure.phones.doctor import Compared, examine_phone, golden_of
from ondevice.measure.phones.several import is_phone, phones_of
from ondevice.run.opencl import choose_device
from ondevice.target.avoid import dump_avoided

NUMPY = "numpy"  # of --reference
HELP = "whether a device computes a bundle's kernels as it should, and which to avoid"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("bundle", metavar="BUNDLE", help="what `convert` wrote")
    parser.add_argument(
        "--device",
        metavar="DEVICE",
        help="what to look at: an OpenCL device (number, part of its name, cpu or gpu), or a phone: adb, adb:SERIAL",
    )
    parser.add_argument(
        "--reference",
        metavar="DEVICE",
        help="what to compare with: a device, or numpy: what the ops mean, computed in float64, where that is known "
        "(default: another CPU device, else numpy, and the device itself with its compiler told not to optimize)",
    )
    parser.add_argument("--player", type=Path, metavar="FILE", help="of a phone: od_player for it (default: built)")
    parser.add_argument("--keep", action="store_true", help="of a phone: leave what was pushed there for the next time")
    flags.add_plans(parser)
    flags.add_component(parser)
    parser.add_argument("--size", metavar="WxH", help="only the plans of this picture size")
    flags.add_kernels(parser)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where to list the programs to avoid, for `convert --avoid FILE`"
    )
    parser.add_argument(
        "--golden",
        type=Path,
        metavar="FILE",
        help="compare nothing, and write what the reference gives: for `od_player doctor BUNDLE --golden FILE`",
    )


def run(args: argparse.Namespace) -> int:
    """Print what was found; exit code 13 where a launch is wrong, 12 where the driver refused one."""
    check_outputs({"--out": args.out, "--golden": args.golden}, bundle=Path(args.bundle))
    bundle = open_bundle(args.bundle)
    if args.kernels == "ours":
        bundle.require_own_kernels()
    phone = args.device is not None and is_phone(args.device)
    if not phone:
        flags.refuse(args, ["--player", "--keep"], "it is of phones.")
    with tqdm(desc="launches", file=sys.stderr, leave=False, disable=None) as bar:
        if args.golden is not None:
            return _golden(args, bundle, bar)
        compared = _on_phone(args, bundle, bar) if phone else _here(args, bundle, bar)
    findings, device = compared.findings, compared.device
    if args.json:
        print(json.dumps(report.to_json(findings, device, compared.reference, bundle.model["source"]), indent=1))
    else:
        print(report.to_text(findings, device["name"], compared.called))
    if args.out is not None:
        digests = {name: bundle.manifest.files[f"kernels/{name}.cl"].sha256 for name in bundle.manifest.kernels}
        listed = dump_avoided(device, report.to_avoid(findings, digests))
        write_output(args.out, lambda file: file.write(listed))
    if error := report.failure(findings, device["name"], "" if args.out is None else str(args.out)):
        raise error
    return 0


def _here(args: argparse.Namespace, bundle: Bundle, bar: tqdm) -> Compared:
    device = choose_device(args.device)
    bundle = flags.with_plans(bundle, args, device)
    found = launches_of(bundle, args)
    needs = {need for launch in found for need in launch.plan.needs}
    numpy = args.reference == NUMPY
    reference, called = reference_for(device.found, None if numpy else args.reference, needs)
    tested, trusted = LaunchRunner(bundle, device), LaunchRunner(bundle, reference)
    for runner in (tested, trusted):
        check_needs(runner, found)
    if not numpy and reference.found != device.found:
        findings = list(examine(found, tested, trusted, progress_of(bar)))
        return Compared(findings, device.facts(), reference.facts(), called)
    meaning = NumpyRunner(bundle, trusted)
    findings = list(examine(found, tested, meaning, progress_of(bar)))
    others = f", else {called}" if len(meaning.meant) < len(found) else ""
    called = f"NumPy in float64 ({len(meaning.meant)} of them){others}"
    return Compared(findings, device.facts(), reference.facts(), called)


def _on_phone(args: argparse.Namespace, bundle: Bundle, bar: tqdm) -> Compared:
    (adb, *others) = phones_of([args.device])
    if others:
        raise UsageError("several phones are named.", where="--device", fix="look at one at a time: adb:SERIAL")
    asked = Asked(0, plans=args.plans or "", player=args.player, keep=args.keep)

    def chosen(ours: Bundle) -> list[Launch]:
        return launches_of(ours, args)

    return examine_phone(adb, bundle, asked, chosen, args.reference, progress_of(bar), _say)


def _golden(args: argparse.Namespace, bundle: Bundle, bar: tqdm) -> int:
    """Write what the reference gives, for a player that compares its own results with it."""
    flags.refuse(args, ["--device", "--out", "--json"], "a golden file is of the reference, and nothing is compared.")
    bundle = flags.with_plans(bundle, args)
    golden, called = golden_of(bundle, launches_of(bundle, args), args.reference, progress_of(bar))
    for one in golden.unknown:
        _say(f"left out: {one.launch.where}: {one.why}")
    data = golden.dump()
    write_output(args.golden, lambda file: file.write(data))
    _say(f"{len(golden.rows)} launches of {called}")
    print(args.golden)
    return 0


def progress_of(bar: tqdm) -> Callable[[int, int], None]:
    """What moves a bar to a count of a total."""

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def launches_of(bundle: Bundle, args: argparse.Namespace) -> list[Launch]:
    """The distinct launches of the plans that --size and --component name."""
    size = flags.size_of(args)
    chosen = only(entries(bundle, size) if size else list(bundle.plans), args.component)
    return launches((entry.file, bundle.plan(entry.component, **entry.sizes)) for entry in chosen)


if __name__ == "__main__":
    raise SystemExit(cli.main_for("doctor"))
