"""Everything that is claimed of matrix units, measured on this machine by one command, on one core:

python -m benchmarks.matrix_units --work FOLDER [--cores 0] [--only machine,kernels,...] [--rows FILE.jsonl]

machine: which unit there is, whether it may be used, and which target is chosen and why.
kernels: each op in each math beside the peak of fp32 and a copy (`benchmarks.kernels`).
step, decode: UNet and VAE decoder of SD 1.4 with made-up weights, ours in bf16 in turns with OpenVINO at its default
    and with ours in fp32; ours in fp32 in turns with bf16x3, whose error is to be 2e-5 at most (`ondevice bench`).
picture: 20 steps with guidance, in turns with OpenVINO (`benchmarks.picture_turns`).
numbers: decibels and errors of each math (`benchmarks.math_modes`).

FOLDER holds what is converted, about 20 GB, and serves the next time. On a machine without a unit the parts say what
they leave out and why.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import kernels, math_modes, picture_turns
from ondevice import cli
from ondevice.base.matrix_unit import matrix_unit
from ondevice.measure.peers.peer import cores_of
from ondevice.target import FP32, host_choice, load_target

MODEL = ("sd14", "--random-weights", "0")
OPENVINO = "openvino-default"


def verb(*words: str) -> None:
    """One of ours; its failure ends this command."""
    print(f"$ ondevice {' '.join(words)}", flush=True)
    if code := cli.main([*words]):
        raise SystemExit(code)


def about_machine(args: argparse.Namespace) -> None:
    """What there is, and what is chosen."""
    unit, (name, why) = matrix_unit(), host_choice()
    print(f"matrix unit: {unit.name or 'none'} ({unit.why})\n--target auto is {name}: {why}", flush=True)
    verb("devices")


def of_kernels(args: argparse.Namespace) -> None:
    """Ops in each math that pays here."""
    maths = [FP32, *load_target(host_choice()[0]).maths]
    kernels.main(["--markdown", "--storage", "f32", "f16", "--math", *maths, *rows(args)])


def of_component(component: str) -> Callable[[argparse.Namespace], None]:
    """Ours in bf16, and in bf16x3, each beside what it is to beat."""

    def measure(args: argparse.Namespace) -> None:
        common = ["--peers", "--component", component, "--cores", args.cores, "--rounds", str(args.rounds), *rows(args)]
        maths = load_target(host_choice()[0]).maths
        for math, names in (("bf16", f"ours-bf16,{OPENVINO},ours-fp16,ours"), ("bf16x3", "ours,ours-bf16x3")):
            if math in maths:
                verb("bench", *MODEL, *common, "--only", names, "--work", str(args.work / "peers"))
            else:
                print(f"{math} is left out: it does not pay on {host_choice()[0]} ({host_choice()[1]})", flush=True)

    return measure


def of_picture(args: argparse.Namespace) -> None:
    """A picture of 20 steps, ours in bf16."""
    bundle, graphs = args.work / "sd14-bf16.ondevice", args.work / "sd14-onnx"
    if not bundle.exists():
        verb("convert", *MODEL, "--math", "bf16", "--out", str(bundle))
    if not graphs.exists():
        words = ("--format", "onnx", "--without", "all", "--dtype", "fp32")
        verb("convert", *MODEL, *words, "--out", str(graphs))
    picture_turns.main([str(bundle), str(graphs), "--cores", args.cores, *rows(args)])


def of_numbers(args: argparse.Namespace) -> None:
    """Decibels and errors."""
    math_modes.main([])


def rows(args: argparse.Namespace) -> Sequence[str]:
    return ["--rows", str(args.rows)] if args.rows else []


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "machine": about_machine,
    "kernels": of_kernels,
    "step": of_component("unet"),
    "decode": of_component("vae_decoder"),
    "picture": of_picture,
    "numbers": of_numbers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, required=True, metavar="FOLDER", help="what is converted, for the next time"
    )
    parser.add_argument("--cores", default="0", metavar="N,...", help="cores that everything may use (default 0)")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each peer that count (default 9)")
    parser.add_argument("--rows", type=Path, metavar="FILE.jsonl", help="append every result there")
    args = parser.parse_args()
    if unknown := [part for part in args.only.split(",") if part not in PARTS]:
        parser.error(f"--only: there is no part {unknown[0]!r} (expected some of {', '.join(PARTS)})")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores_of(args.cores))
    args.work.mkdir(parents=True, exist_ok=True)
    for part in args.only.split(","):
        print(f"\n## {part}\n", flush=True)
        PARTS[part](args)


if __name__ == "__main__":
    sys.exit(main())
