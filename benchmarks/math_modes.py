"""What each `--math` costs in numbers, against fp32: pictures of the demo model, and one step and one decode of a
full-size model with made-up weights and latents.

python -m benchmarks.math_modes [--prompts 20] [--dtype fp16] [--model sd14] [--size 512x512]

dB are of pictures' pixels (peak signal to noise, 255 the peak); errors are in parts of the largest value of the output
in fp32. Every output is looked at for NaN and infinity. A math that does not pay on this machine is computed as on the
first target on which it does: its numbers are those of that machine but for the order of sums.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shapes.pictures import held_out_prompts
from ondevice import flags
from ondevice.bundle.in_memory import MemoryBundle, weight_sources
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.compiler.jobs import largest_jobs
from ondevice.compiler.programs import programs
from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.source import Source
from ondevice.diffusion.image import to_pixels
from ondevice.diffusion.pipeline import Pipeline
from ondevice.graph.inputs import inputs_of
from ondevice.lower.kernel_file import load_all
from ondevice.lower.program import STORAGES
from ondevice.run.check import NUMPY
from ondevice.run.guard import GuardedSession
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import AUTO, FP32, MATHS, Target, load_target, target_names

PARTS = ("unet", "vae_decoder")


def target_for(mode: str, asked: str) -> Target:
    """The target that was asked for, or the first on which this math pays."""
    targets = [load_target(asked), *map(load_target, target_names())]
    return targets[0] if mode == FP32 else next(one for one in targets if mode in one.maths)


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    """Of two pictures, uint8; infinite where they are the same."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return math.inf if error == 0 else 20 * math.log10(255 / math.sqrt(error))


def drawn(recipe: Recipe, prompts: int, device: str | None) -> list[np.ndarray]:
    """The demo model's pictures of held-out prompts, picture i with seed i."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = open_bundle(compile_bundle(open_checkpoint(None, family="demo"), Path(folder) / "demo", recipe))
        paint = Pipeline.of(bundle, GuardedSession(bundle, choose_device(device)))
        return [paint(spec.caption, seed=number).pixels for number, spec in enumerate(held_out_prompts(prompts))]


def outputs(recipe: Recipe, args: argparse.Namespace) -> Iterator[tuple[str, int, np.ndarray]]:
    """(component, nodes in the recipe's math, output) of a full-size model on made-up weights and inputs."""
    model, size = build(Source(args.model, random_weights=0).open()), flags.size_of(args)
    for job in largest_jobs(model, size):
        if job.component not in PARTS:
            continue
        (compiled,) = programs(model, recipe, [job])
        plan = compiled.plan()
        stored = {plan.operands[number].name: NUMPY[plan.operands[number].dtype] for number in plan.inputs}
        given = inputs_of(model.graph(job.component, **job.sizes))
        inputs = {name: array.astype(stored[name]) for name, array in given.items()}
        bundle = MemoryBundle([plan], weight_sources(compiled.program), load_all())
        (output,) = Session(bundle, choose_device(args.device)).run(job.component, inputs, **job.sizes).values()
        if not np.isfinite(output).all():
            raise SystemExit(f"{job.component} in {recipe.math}: a value is NaN or infinite")
        yield job.component, compiled.program.in_math.applied, output


def compared(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each math."""
    rows: list[dict[str, Any]] = []
    exact: dict[str, Any] = {}
    for mode in MATHS:
        recipe = Recipe(STORAGES[args.dtype], target=target_for(mode, args.target), math=mode)
        row: dict[str, Any] = {"math": mode, "dtype": args.dtype, "target": recipe.target.name}
        if args.prompts:
            pictures = drawn(replace(recipe, tile_vae=0), args.prompts, args.device)
            found = [decibels(a, b) for a, b in zip(exact.setdefault("demo", pictures), pictures, strict=True)]
            row["demo_db"] = {"least": min(found), "mean": float(np.mean(found)), "prompts": args.prompts}
        if not args.skip_full:
            for component, nodes, output in outputs(recipe, args):
                row[component] = {"nodes": nodes, **off(output, exact.setdefault(component, output))}
        rows.append(row)
    return rows


def off(output: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """How far an output is from one in fp32, in parts of its largest value; of pictures in dB, too."""
    apart, largest = output.astype(np.float64) - exact, float(np.abs(exact).max())
    found = {"largest": float(np.abs(apart).max()) / largest, "rms": float(np.sqrt(np.mean(apart**2))) / largest}
    return found | ({"db": decibels(to_pixels(output), to_pixels(exact))} if output.shape[1] == 3 else {})


def to_text(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    heads = ["`--math`", "demo, least and mean", "UNet step: largest error, rms", "decode: largest error, rms, dB"]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for row in rows:
        demo, unet, decoder = (row.get(name) for name in ("demo_db", *PARTS))
        cells = [f"{_db(demo['least'])}, {_db(demo['mean'])}" if demo else "", _errors(unet), _errors(decoder)]
        lines.append(f"| `{row['math']}` ({row['target']}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def _errors(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    db = f", {_db(found['db'])}" if "db" in found else ""
    return f"{found['largest']:.1e}, {found['rms']:.1e}{db} ({found['nodes']} nodes)"


def _db(value: float) -> str:
    return "the same" if value == math.inf else f"{value:.1f} dB"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=20, help="of the demo model (0: none)")
    parser.add_argument("--dtype", choices=STORAGES, default="fp16")
    parser.add_argument("--model", choices=sorted(FAMILIES), default="sd14", help="at full size, with made-up weights")
    parser.add_argument("--size", metavar="WxH", help="of its pictures, in pixels (default: as it was trained)")
    parser.add_argument("--skip-full", action="store_true", help="the demo model alone")
    parser.add_argument("--target", choices=(AUTO, *target_names()), default=AUTO)
    parser.add_argument("--device", help="OpenCL device (see `ondevice devices`)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    rows = compared(args)
    print(json.dumps(rows, indent=1) if args.json else to_text(rows))


if __name__ == "__main__":
    main()
