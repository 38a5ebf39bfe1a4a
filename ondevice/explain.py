"""Say which fusion rules apply to a model, how often, and why matches were left alone.

ondevice explain sd14 --random-weights 0
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from ondevice import cli
from ondevice.compiler import facts, jobs, plannable, training_size
from ondevice.convert import add_model_arguments, open_model
from ondevice.converters import build
from ondevice.rewrite import FAMILIES, Outcome, rewrite

HELP = "which fusion rules apply to a model, and which do not and why"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    add_model_arguments(parser)
    parser.add_argument("--size", metavar="WxH", help="picture size in pixels (default: the training size)")
    parser.add_argument("--without", nargs="+", default=(), choices=FAMILIES, metavar="RULE", help=f"leave out: {', '.join(FAMILIES)}")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Print a table a component."""
    checkpoint = open_model(args)
    about, model = facts(checkpoint), build(checkpoint)
    size = cli.parse_size(args.size) if args.size else training_size(about)
    report: dict[str, Any] = {}
    for job in plannable(model, jobs(about["vae_scale"], [size])):
        if job.component not in report:  # the UNet's batch changes no fusion
            graph = model.graph(job.component, **job.sizes)
            before = len(graph.graph)
            report[job.component] = {"rules": rewrite(graph, without=args.without), "nodes": [before, len(graph.graph)]}
    if args.json:
        rows = {name: part | {"rules": [_row(outcome) for outcome in part["rules"]]} for name, part in report.items()}
        print(json.dumps(rows, indent=1))
        return 0
    for name, part in report.items():
        print(f"{name}: {part['nodes'][0]} nodes before, {part['nodes'][1]} after")
        for outcome in part["rules"]:
            if outcome.applied or outcome.skipped or outcome.off:
                print(f"  {outcome.rule:<16} {'switched off' if outcome.off else f'applied {outcome.applied}'}")
            for reason, count in outcome.skipped.items():
                print(f"  {'':<16} skipped {count}: {reason}")
    return 0


def _row(outcome: Outcome) -> dict[str, Any]:
    row = {"rule": outcome.rule, "family": outcome.family, "applied": outcome.applied, "off": outcome.off}
    return row | {"skipped": dict(outcome.skipped)}


if __name__ == "__main__":
    raise SystemExit(cli.main_for("explain"))
