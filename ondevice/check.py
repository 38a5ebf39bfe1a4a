"""Run every component that another format has on that format's runtime, and compare what it gives with ours.

ondevice check demo --format tflite
ondevice check sd14-onnx --checkpoint PATH_OR_HUB_ID
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from ondevice import cli, flags, format_flags
from ondevice.base.bars import tqdm
from ondevice.converters.families import FAMILIES
from ondevice.converters.source import Source
from ondevice.errors import BundleError, NumericError, UsageError
from ondevice.export import checking
from ondevice.export.manifest import MANIFEST
from ondevice.export.opened import Export, open_export
from ondevice.export.options import FORMATS, Format
from ondevice.export.runtimes import runtime_of
from ondevice.export.writing import export

HELP = "whether a format's own runtime computes each component as ours, and the first op that deviates"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument(
        "model",
        metavar="MODEL_OR_FOLDER",
        help=f"what `convert --format` wrote, or one of {', '.join(sorted(FAMILIES))}, which is converted first",
    )
    parser.add_argument("--format", choices=list(FORMATS), help="what the model is converted to, or the folder holds")
    parser.add_argument("--size", metavar="WxH", help="of a model: picture size in pixels (default: the training size)")
    flags.add_weight_arguments(parser)
    flags.add_dtype(parser)
    flags.add_weights(parser, format_flags.WEIGHTS)
    flags.add_without(parser)
    format_flags.add_arguments(parser)
    flags.add_component(parser)
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Print how far each component is apart; exit code 13 where one is beyond its format's bound."""
    if args.model not in FAMILIES:
        opened = _opened(args)
        return _check(args, opened, _source_of(args, opened))
    if args.format is None:
        fix = f"add --format {' or '.join(FORMATS)}"
        raise UsageError("a model has no format by itself.", where="--format", fix=fix)
    format, source = FORMATS[args.format], flags.source_of(args)
    runtime_of(format.name).load()  # before the work, not after it
    with tempfile.TemporaryDirectory(prefix="ondevice-check-") as place:
        return _check(args, _converted(args, format, source, Path(place)), source)


def _converted(args: argparse.Namespace, format: Format, source: Source, place: Path) -> Export:
    """The model in another format, in a folder that lasts as long as the check."""
    size, options = flags.size_of(args), format_flags.options_of(args, format)
    checkpoint = source.open()
    with tqdm(desc=f"writing {format.what}", file=sys.stderr, leave=False, disable=None) as bar:

        def show(what: str, done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        path = export(checkpoint, place / "export", format, options, sizes=[size] if size else (), progress=show)
    return open_export(path)


def _opened(args: argparse.Namespace) -> Export:
    """The folder. Raises UsageError for flags that say how one is written."""
    if not (Path(args.model) / MANIFEST).is_file():
        what = f"{args.model!r} is neither a model family ({', '.join(sorted(FAMILIES))}) nor an export."
        raise UsageError(what, fix="name a family, or a folder that `convert --format` wrote")
    own = [f"--{name}" for name in format_flags.given_of(args)]
    flags.refuse(args, ["--size", "--dtype", "--weights", "--without", *own], "a folder has been written already.")
    opened = open_export(args.model)
    if args.format not in (None, opened.kind):
        what = f"{args.model} holds {FORMATS[opened.kind].what} (got {args.format})."
        raise UsageError(what, where="--format", fix=f"use --format {opened.kind}, or leave it out")
    return opened


def _source_of(args: argparse.Namespace, opened: Export) -> Source:
    """The weights that a folder was converted from. Raises UsageError where nobody names them."""
    family = opened.model["family"]
    if family not in FAMILIES:
        what = f"is of the family {family}, which this version does not know."
        raise BundleError(what, where=MANIFEST, fix="install a newer ondevice, or convert the model again")
    inside = FAMILIES[family].hub_id is None
    if not inside and args.checkpoint is None and args.random_weights is None:
        what = "an export is compared with the weights that it was converted from, and none are named."
        raise UsageError(what, where="--checkpoint", fix="name them as for convert, or --random-weights and its seed")
    args.model = family
    return flags.source_of(args)


def _check(args: argparse.Namespace, opened: Export, source: Source) -> int:
    components = list(dict.fromkeys(entry.component for entry in opened.manifest.entries))
    if args.component not in (None, *components):
        what = f"there is no {args.component} (it has {', '.join(components)})."
        raise UsageError(what, where="--component", fix="name one of these")
    rows = []
    with tqdm(desc="components", total=len(components), file=sys.stderr, leave=False, disable=None) as bar:
        for row in checking.compare(opened, source.open(), args.component):
            rows.append(row)
            bar.update()
    if args.json:
        print(json.dumps(checking.to_json(opened, rows), indent=1))
    else:
        print("\n".join(checking.to_text(opened, rows)))
    wrong = [row for row in rows if not row.holds]
    if wrong:
        first = f", first at {checking.said(wrong[0].first)}" if wrong[0].first else ""
        what = f"{len(wrong)} of {len(rows)} components deviate; {wrong[0].component}{first}."
        fix = "convert it again; where it is the same, that op is what to look at"
        raise NumericError(what, where=os.path.basename(opened.path), fix=fix)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.main_for("check"))
