"""Show what a model becomes, stage by stage: ops, dispatches, bytes moved, FLOPs, memory.

ondevice show sd14 --random-weights 0 --after plan
ondevice show sd14.ondevice --after lower --component unet --list
ondevice show sd14.ondevice --kernels metal --out sources/
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ondevice import cli, flags
from ondevice.base.matrix_unit import matrix_unit
from ondevice.bundle.reader import Bundle
from ondevice.compiler import costs, report, sources
from ondevice.compiler.fallbacks import settle
from ondevice.compiler.shares import shared_plans
from ondevice.diffusion import memory_budget, memory_table, parallel_table
from ondevice.diffusion.parallel import FLAG as PARALLEL
from ondevice.diffusion.parallel import ranks_of
from ondevice.errors import UsageError
from ondevice.target import FP32

if TYPE_CHECKING:
    from ondevice.converters.component import Checkpoint

HELP = "what a model becomes, stage by stage: ops, bytes moved, FLOPs, memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    flags.add_subject(parser)
    flags.add_plan_arguments(parser)
    flags.add_strict(parser)
    parser.add_argument(
        "--after",
        default="plan",
        choices=report.STAGES,
        help="the stage to show (default plan); a bundle has lower and plan",
    )
    flags.add_component(parser)
    flags.add_plans(parser)
    parser.add_argument(
        PARALLEL,
        metavar="tensor[:N]",
        help="of a model: what N devices (default 2) that share the network of each step have of it each, and what "
        "goes between them; of a bundle this is shown where it has plans for them",
    )
    parser.add_argument(
        "--kernels",
        choices=sources.ENDINGS,
        help="of a bundle: the programs that its plans launch, as a driver of this dialect builds them",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write --kernels there, a file per program")
    parser.add_argument("--list", action="store_true", help="every node or dispatch, one per line")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Print a report per component, and what a picture needs."""
    if args.after in ("graph", "rewrite"):
        flags.refuse(
            args,
            ["--target", "--tuning", "--tune-for", "--math"],
            f"nothing is chosen for a target before `lower` (got --after {args.after}).",
        )
        flags.refuse(args, ["--weights"], f"weights are stored from `lower` on (got --after {args.after}).")
    if args.after == "graph":
        flags.refuse(args, ["--without"], "no rule has run after `graph`; it is the plain graph.")
    if args.kernels:
        flags.refuse(args, ["--size", "--list", "--json"], "the sources of all plans are shown as they are.")
    else:
        flags.refuse(args, ["--out"], "only sources are written, with --kernels.")
    opened, size = flags.open_subject(args), flags.size_of(args)
    if isinstance(opened, Bundle):
        flags.refuse(args, [PARALLEL], "a bundle has the plans that it was converted with.")
        opened = flags.with_plans(opened, args)
    else:
        flags.refuse(args, ["--plans"], "a model is compiled for one target, which --target names.")
        if args.after != "plan":
            flags.refuse(args, [PARALLEL], f"what devices exchange is seen in plans (got --after {args.after}).")
    if args.kernels:
        return _show_kernels(opened, args)
    if isinstance(opened, Bundle):
        reports = report.of_bundle(opened, args.after, size=size, component=args.component)
        notes: tuple[str, ...] = ()
    else:
        reports = report.of_model(opened, args.after, flags.recipe_of(args), size=size, component=args.component)
        notes = opened.notes
    settle([*notes, *(line for part in reports for line in part.fallbacks)], args.strict)
    picture = report.picture_memory(reports, opened) if args.after == "plan" and args.component is None else {}
    drawn = memory_budget.latent_sizes(opened, size) if picture and isinstance(opened, Bundle) else []
    rows = memory_table.table(opened, drawn) if drawn and isinstance(opened, Bundle) else []
    each = memory_table.components(opened, drawn) if drawn and isinstance(opened, Bundle) else []
    ways = [{"size": list(place), **asdict(need)} for place, need in rows]
    shared = _shared(opened, args) if picture or args.parallel else []
    per_target = costs.costs(opened) if picture and isinstance(opened, Bundle) else []
    if args.json:
        whole = {"components": [part.to_json(rows=args.list) for part in reports], "picture": picture, "ways": ways}
        whole |= {"memory": [row.to_json() for row in each], "parallel": [row.to_json() for row in shared]}
        print(json.dumps(whole | {"targets": [asdict(cost) for cost in per_target]}, indent=1, default=sorted))
        return 0
    print("\n\n".join(report.to_text(part, rows=args.list) for part in reports))
    for what, need in picture.items():
        arena, weights, total = (f"{need[name] / 1e6:,.1f} MB" for name in ("arena", "weights", "total"))
        print(
            f"\n{what} needs {total} on the device: "
            f"{weights} weights and an arena of {arena} that all components share",
            end="",
        )
    print("\n" if picture else "", end="")
    for line in (*memory_table.to_text(rows), *memory_table.components_to_text(each), *parallel_table.to_text(shared)):
        print(line)
    if picture and isinstance(opened, Bundle):
        for line in costs.to_text(opened, per_target):
            print(line)
        if others := sorted({row.math for part in reports for row in part.rows} - {FP32}):
            print(f"\n{here(others)}")
        print(f"\nnumbers that a picture is drawn with: {numbers(opened)}")
        print(f"pictures that it takes: {pictures(opened)}")
    return 0


def _shared(opened: Checkpoint | Bundle, args: argparse.Namespace) -> list[parallel_table.Shared]:
    """What devices have of each component that they share: by the plans of a bundle, or of a model as asked for."""
    if isinstance(opened, Bundle):
        return parallel_table.table(opened)
    if not args.parallel:
        return []
    recipe = replace(flags.recipe_of(args), ranks=ranks_of(args.parallel))
    plans = shared_plans(opened, recipe, flags.size_of(args), args.component)
    return [parallel_table.of_plans(whole, shares) for whole, shares in plans]


def _show_kernels(opened: Checkpoint | Bundle, args: argparse.Namespace) -> int:
    """Print or write the programs of a bundle."""
    if not isinstance(opened, Bundle):
        fix = f"convert it first, and name the folder: `ondevice convert {args.model}`"
        raise UsageError("sources are a bundle's (got a model).", where="--kernels", fix=fix)
    made = sources.sources(opened, args.kernels, args.component)
    if args.out:
        print(sources.write_sources(made, args.kernels, args.out))
    else:
        print("\n".join(source.headed() for source in made), end="")
    return 0


def here(maths: Sequence[str]) -> str:
    """How this machine's CPU computes products that are in another math than float32."""
    unit = matrix_unit()
    how = f"by {unit.name}" if unit.name else f"in plain C, more slowly than in {FP32}"
    return f"products in {' and '.join(maths)}: this machine's CPU computes them {how} ({unit.why})"


def numbers(bundle: Bundle) -> str:
    """The pipeline's numbers and their defaults, as `generate` takes them with flags of their own or with --number."""
    return ", ".join(
        f"{name} {number.default}" for name, number in bundle.pipeline.numbers.items() if number.default is not None
    )


def pictures(bundle: Bundle) -> str:
    """The pictures that the pipeline takes, as `generate` takes them with flags of their own or with --picture."""
    taken = {name: given for name, given in bundle.pipeline.pictures.items() if not given.of}
    return ", ".join(name + (" (or none)" if given.optional else "") for name, given in taken.items()) or "none"


if __name__ == "__main__":
    raise SystemExit(cli.main_for("show"))
