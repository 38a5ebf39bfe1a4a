"""A tiny autoencoder's decoder beside the model's own: time in turns, dispatches, work, arena, weights.

taskset -c 0 python -m benchmarks.taesd sd14 [--size 512x512] [--dtype fp16] [--target adreno_740] [--json]
taskset -c 0 python -m benchmarks.taesd sd14 --checkpoint PATH --taesd PATH --latents FILE.npy
taskset -c 0 python -m benchmarks.taesd demo

Weights are made up where there is no checkpoint, but of a model that is inside the package. How alike the two pictures
are says nothing then: neither network knows the other's latents. With weights it is said, of latents that
`generate --save-latents` wrote.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from ondevice import flags
from ondevice.bundle.in_memory import MemoryBundle, weight_sources
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.compiler.jobs import Job, training_size
from ondevice.compiler.picture import spec_of
from ondevice.compiler.programs import programs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.converters.source import Source
from ondevice.diffusion.after import given_to_decoders
from ondevice.diffusion.image import to_pixels
from ondevice.diffusion.latents_file import read_latents
from ondevice.lower.kernel_file import load_all
from ondevice.lower.program import STORAGES
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.run.timing import in_turns, spread_of
from ondevice.target import AUTO, load_target, target_names

OURS, TINY = "vae_decoder", "taesd_decoder"


def compared(args: argparse.Namespace) -> dict[str, Any]:
    """A row for each of the two, and what they say of each other."""
    made_up = None if args.checkpoint or FAMILIES[args.model].hub_id is None else 0
    source = Source(args.model, args.checkpoint, random_weights=made_up, taesd="" if made_up == 0 else args.taesd)
    model = build(source.open())
    spec, target = spec_of(model), load_target(args.target)
    usual = training_size(model.config("unet").get("sample_size"), spec.latents.scale)
    width, height = (side // spec.latents.scale for side in (flags.parse_size(args.size) if args.size else usual))
    place = {"batch": 1, "height": height, "width": width}
    jobs = [Job(component, place) for component in (OURS, TINY)]
    made = list(programs(model, Recipe(STORAGES[args.dtype], target=target), jobs))
    plans = [compiled.plan() for compiled in made]
    rows: dict[str, dict[str, Any]] = {}
    for plan in plans:
        sizes = {operand.weight: operand.nbytes for operand in plan.operands if operand.weight is not None}
        rows[plan.component] = {
            "dispatches": len(plan.dispatches),
            "gflop": sum(dispatch.flops for dispatch in plan.dispatches) / 1e9,
            "gb_moved": sum(dispatch.reads + dispatch.writes for dispatch in plan.dispatches) / 1e9,
            "arena_mb": plan.arena / 1e6,
            "weights_mb": sum(sizes.values()) / 1e6,
        }
    found: dict[str, Any] = {"model": args.model, "size": [width, height], "dtype": args.dtype, "target": target.name}
    found |= {"made_up": made_up == 0, "decoders": rows}
    if args.runs:
        weights = {key: one for compiled in made for key, one in weight_sources(compiled.program).items()}
        session = Session(MemoryBundle(plans, weights, load_all()), choose_device(args.device))
        given = given_to_decoders(spec.latents, _latents(args, spec, height, width))
        calls = [lambda name=name: _decode(session, name, given, place) for name in (OURS, TINY)]
        times = in_turns(calls, runs=args.runs, warmup=1, budget_s=1e9)
        for name, own in zip((OURS, TINY), times, strict=True):
            rows[name] |= {"median_s": statistics.median(own), "spread": spread_of(own)}
        found["ratio"] = statistics.median(ours / tiny for ours, tiny in zip(*times, strict=True))
        if made_up is None and args.latents is not None:
            found["db"] = _decibels(
                *(to_pixels(session.run(name, {"latent_sample": given}, **place)["sample"]) for name in (OURS, TINY))
            )
    return found


def _decode(session: Session, component: str, given: np.ndarray, place: dict[str, int]) -> None:
    session.run(component, {"latent_sample": given}, **place)


def _latents(args: argparse.Namespace, spec: PipelineSpec, height: int, width: int) -> np.ndarray:
    if args.latents is not None:
        return read_latents(args.latents)
    return np.random.default_rng(0).standard_normal((1, spec.latents.channels, height, width), dtype=np.float32)


def _decibels(one: np.ndarray, other: np.ndarray) -> float:
    return 20 * math.log10(255 / math.sqrt(np.mean((one.astype(np.float64) - other) ** 2)))


def to_text(found: dict[str, Any]) -> str:
    """A Markdown table."""
    heads = ("", "dispatches", "GFLOP", "GB moved", "arena", "weights", *["s"] * ("ratio" in found))
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for name, row in found["decoders"].items():
        cells = [f"{row['dispatches']}", f"{row['gflop']:,.0f}", f"{row['gb_moved']:.2f}"]
        cells += [f"{row['arena_mb']:,.1f} MB", f"{row['weights_mb']:,.1f} MB"]
        cells += [f"{row['median_s']:.2f} (spread {row['spread']:.2f})"] if "median_s" in row else []
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if "ratio" in found:
        lines.append(f"\nthe model's own takes {found['ratio']:.1f} times as long")
    if "db" in found:
        lines.append(f"the two pictures: {found['db']:.1f} dB")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(FAMILIES))
    parser.add_argument("--checkpoint", metavar="PATH", help="the model's weights (default: made up)")
    parser.add_argument("--taesd", default="", metavar="PATH_OR_HUB_ID", help="beside them (default: as convert)")
    parser.add_argument("--latents", type=Path, metavar="FILE.npy", help="what is decoded (default: noise)")
    parser.add_argument("--size", metavar="WxH", help="in pixels (default: the size that the model was trained at)")
    parser.add_argument("--dtype", choices=STORAGES, default="fp16")
    parser.add_argument("--target", choices=(AUTO, *target_names()), default=AUTO)
    parser.add_argument("--device", help="OpenCL device (see `ondevice devices`)")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each (0: plans alone)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = compared(args)
    print(json.dumps(found, indent=1) if args.json else to_text(found))


if __name__ == "__main__":
    main()
