"""Say which fusion rules apply to a model, how often, and why matches were left alone.

ondevice explain sd14 --random-weights 0
ondevice explain sd14.ondevice
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from ondevice import cli, flags
from ondevice.base.columns import columns
from ondevice.bundle.reader import Bundle
from ondevice.compiler.fallbacks import of_rules, settle
from ondevice.compiler.jobs import largest_jobs
from ondevice.compiler.programs import programs
from ondevice.converters import build
from ondevice.errors import BundleError

HELP = "which fusion rules apply to a model or a bundle, and which do not and why"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    flags.add_subject(parser)
    flags.add_math(parser)
    flags.add_target(parser)
    flags.add_without(parser)
    flags.add_strict(parser)
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Print a table per component."""
    opened = flags.open_subject(args)
    notes: tuple[str, ...] = ()
    if isinstance(opened, Bundle):
        if not (known := opened.manifest.rewrites):
            what = "it does not say how its graphs were rewritten (it was written in format 1.0)."
            raise BundleError(what, where=opened.path.name, fix="convert the checkpoint again")
        rewrites: dict[str, dict[str, Any]] = {component: asdict(entry) for component, entry in known.items()}
    else:
        notes, model = opened.notes, build(opened)
        jobs, recipe = largest_jobs(model, flags.size_of(args)), flags.recipe_of(args)
        rewrites = {compiled.job.component: compiled.rewrite for compiled in programs(model, recipe, jobs)}
    settle([*notes, *(line for component, row in rewrites.items() for line in of_rules(component, row))], args.strict)
    if args.json:
        print(json.dumps(rewrites, indent=1))
        return 0
    for component, row in rewrites.items():
        print(f"{component}: {row['nodes'][0]:,} nodes before, {row['nodes'][1]:,} after")
        table = [("rule", "family", "matches")]
        for rule in row["rules"]:
            if rule["applied"] or rule["off"]:  # a rule that met no match at all is not worth a line
                table.append(
                    (rule["rule"], rule["family"], "switched off" if rule["off"] else f"applied {rule['applied']:,}")
                )
            table += [
                (rule["rule"], rule["family"], f"skipped {count:,}: {reason}")
                for reason, count in rule["skipped"].items()
            ]
        print("\n".join("  " + line for line in columns(table, left=3)))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.main_for("explain"))
