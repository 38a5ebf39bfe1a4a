"""Run every kernel of a bundle on a device, each at every shape that the plans have, and compare what it gives with
what a device gives that is trusted: the answer to "the picture is black on this GPU".

ondevice doctor sd14.ondevice --device gpu --out avoid.json
ondevice convert sd14 --avoid avoid.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from ondevice import cli, flags
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.compiler.jobs import only
from ondevice.compiler.report import entries
from ondevice.diffusion.files import check_outputs, write_output
from ondevice.measure.doctor import report
from ondevice.measure.doctor.examine import examine
from ondevice.measure.doctor.launches import Launch, launches
from ondevice.measure.doctor.reference import reference_for
from ondevice.measure.doctor.runner import LaunchRunner, check_needs
from ondevice.run.opencl import choose_device
from ondevice.target.avoid import dump_avoided

HELP = "whether a device computes a bundle's kernels as it should, and which to avoid"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("bundle", metavar="BUNDLE", help="what `convert` wrote")
    flags.add_device(parser)
    parser.add_argument(
        "--reference",
        metavar="DEVICE",
        help="what to compare with (default: another CPU device, else the device itself with its compiler told not to "
        "optimize)",
    )
    flags.add_plans(parser)
    flags.add_component(parser)
    parser.add_argument("--size", metavar="WxH", help="only the plans of this picture size")
    flags.add_kernels(parser)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where to list the programs to avoid, for `convert --avoid FILE`"
    )


def run(args: argparse.Namespace) -> int:
    """Print what was found; exit code 13 where a launch is wrong, 12 where the driver refused one."""
    check_outputs({"--out": args.out}, bundle=Path(args.bundle))
    bundle = open_bundle(args.bundle)
    if args.kernels == "ours":
        bundle.require_own_kernels()
    device = choose_device(args.device)
    bundle = flags.with_plans(bundle, args, device)
    found = launches_of(bundle, args)
    needs = {need for launch in found for need in launch.plan.needs}
    reference, called = reference_for(device.found, args.reference, needs)
    tested, trusted = LaunchRunner(bundle, device), LaunchRunner(bundle, reference)
    for runner in (tested, trusted):
        check_needs(runner, found)
    with tqdm(total=len(found), desc="launches", file=sys.stderr, leave=False, disable=None) as bar:
        findings = list(examine(found, tested, trusted, lambda *_: bar.update()))
    if args.json:
        print(json.dumps(report.to_json(findings, device.facts(), reference.facts(), bundle.model["source"]), indent=1))
    else:
        print(report.to_text(findings, device.name, called))
    if args.out is not None:
        digests = {name: bundle.manifest.files[f"kernels/{name}.cl"].sha256 for name in bundle.manifest.kernels}
        listed = dump_avoided(device.facts(), report.to_avoid(findings, digests))
        write_output(args.out, lambda file: file.write(listed))
    if error := report.failure(findings, device.name, "" if args.out is None else str(args.out)):
        raise error
    return 0


def launches_of(bundle: Bundle, args: argparse.Namespace) -> list[Launch]:
    """The distinct launches of the plans that --size and --component name."""
    size = flags.size_of(args)
    chosen = only(entries(bundle, size) if size else list(bundle.plans), args.component)
    return launches((entry.file, bundle.plan(entry.component, **entry.sizes)) for entry in chosen)


if __name__ == "__main__":
    raise SystemExit(cli.main_for("doctor"))
