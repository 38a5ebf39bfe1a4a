"""Turn a Stable Diffusion checkpoint into a bundle.

python -m ondevice.convert demo
python -m ondevice.convert sd14 --checkpoint PATH_OR_HUB_ID --size 512x512,768x512
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from ondevice import cli, flags, format_flags
from ondevice.base.bars import tqdm
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.bundle.writer import writable_target
from ondevice.compiler import compile_bundle, costs
from ondevice.compiler.jobs import BAND, CHUNK, MOST_CHUNKS, Frames
from ondevice.compiler.rounding import said
from ondevice.diffusion.parallel import FLAG as PARALLEL
from ondevice.diffusion.parallel import ranks_of
from ondevice.diffusion.samplers import SAMPLERS
from ondevice.errors import UsageError
from ondevice.export.options import FORMATS, Format
from ondevice.export.writing import export, writable_folder
from ondevice.target import set_names

HELP = "turn a checkpoint into a bundle"
NOT_IN_GRAPHS = dict.fromkeys(("--target", "--tuning", "--tune-for"), "is tuned for no target")
NOT_IN_GRAPHS |= {"--math": "leaves it to its runtime what products are multiplied in"}
NOT_IN_GRAPHS |= {PARALLEL: "runs whole on one device"}
NOT_IN_GRAPHS |= {"--carry-lora": "carries no adapters beside its weights"}
NOT_IN_GRAPHS |= dict.fromkeys(("--frames", "--decode-chunk"), "is of a picture")
NOT_IN_GRAPHS |= {"--avoid": "has no kernels", "--chunks": "reads texts of one length", "--tile-vae": "is in one piece"}
NOT_IN_GRAPHS |= {"--weights-of": "has --weights for all of them"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    flags.add_model_arguments(parser)
    parser.add_argument(
        "--size",
        default="",
        metavar="WxH,...",
        help="picture sizes in pixels (default: the size the model was trained at)",
    )
    flags.add_plan_arguments(parser, set_names(), format_flags.WEIGHTS)
    parser.add_argument(
        "--weights-of",
        nargs="+",
        default=(),
        metavar="COMPONENT",
        help="the components whose weights --weights means, such as text_encoder_3 (default: all)",
    )
    parser.add_argument(
        "--format",
        default="bundle",
        choices=["bundle", *FORMATS],
        help="what to write (default bundle); else a folder of graphs after the fusions (docs/export.md)",
    )
    parser.add_argument(
        "--tile-vae",
        type=int,
        nargs="?",
        const=BAND,
        default=0,
        metavar="ROWS",
        help=(
            f"add plans that decode in bands of ROWS rows ({BAND} where no number is given), for `generate --tile-vae`"
            "; without this flag where decoding in one piece takes 128 MB and more than a step"
        ),
    )
    parser.add_argument(
        "--frames",
        type=_counts,
        default=(),
        metavar="N,...",
        help="frames of the films that the bundle draws (default: as many as the model was trained with)",
    )
    parser.add_argument(
        "--decode-chunk",
        type=int,
        default=None,
        metavar="N",
        help=f"frames that it decodes at once (default {CHUNK}): fewer need less memory, and change the frames where "
        "chunks meet",
    )
    parser.add_argument(
        "--chunks",
        type=int,
        default=1,
        metavar="N",
        help=f"make plans for prompts of up to N times 75 tokens, 1 to {MOST_CHUNKS} (default 1)",
    )
    parser.add_argument(
        "--carry-lora",
        action="append",
        default=[],
        metavar="FILE[:NAME]",
        help=(
            "carry an adapter beside the weights, for `generate --lora NAME` (default name: the file's); several may "
            "be given"
        ),
    )
    parser.add_argument(
        "--sampler",
        choices=SAMPLERS,
        help="what the bundle draws with by default (default: the checkpoint's own, or the nearest)",
    )
    parser.add_argument(
        PARALLEL,
        default="",
        metavar="tensor[:N]",
        help="add plans for N devices (2 where no number is given) that share the network of each step, for `generate "
        "--parallel tensor`",
    )
    format_flags.add_arguments(parser)
    flags.add_avoid(parser)
    flags.add_strict(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="what to write (default MODEL.ondevice, or MODEL-onnx)")
    parser.add_argument("--force", action="store_true", help="replace an existing bundle or folder of graphs")


def run(args: argparse.Namespace) -> int:
    """Write the bundle, or the folder in another format, and print its path."""
    sizes = [flags.parse_size(text) for text in args.size.split(",")] if args.size else []
    format = FORMATS.get(args.format)
    if format is None:
        _refuse_of_others(args)
    else:
        _refuse_of_bundles(args, format)
    out = args.out or Path(f"{args.model}.ondevice" if format is None else f"{args.model}-{format.name}")
    (writable_target if format is None else writable_folder)(out, args.force)  # before a download, not after it
    recipe = replace(flags.recipe_of(args), film=Frames(args.frames, args.decode_chunk), ranks=ranks_of(args.parallel))
    checkpoint = flags.source_of(args).open()
    for line in (*checkpoint.adapters, *checkpoint.said):
        _say(line)
    with Bar() as bar:
        how = {"sizes": sizes, "strict": args.strict, "force": args.force, "progress": bar.show}
        if format is None:
            out = compile_bundle(checkpoint, out, recipe, sampler=args.sampler, **how)
        else:
            out = export(checkpoint, out, format, format_flags.options_of(args, format, args.sampler), **how)
    if format is None:
        _say_costs(open_bundle(out))
    print(out)
    return 0


def _counts(text: str) -> tuple[int, ...]:
    """'14,25' -> (14, 25). Raises argparse.ArgumentTypeError where they are no numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of frames (expected such as 14)") from None


def _refuse_of_bundles(args: argparse.Namespace, format: Format) -> None:
    """Refuse what means nothing without kernels."""
    given = {flag: flags.given(args, flag) for flag in NOT_IN_GRAPHS}
    given["--chunks"] = args.chunks if args.chunks != 1 else None
    if flag := next((flag for flag, got in given.items() if got), None):
        what = f"a graph in another format {NOT_IN_GRAPHS[flag]} (got {given[flag]})."
        raise UsageError(what, where=flag, fix=f"leave {flag} out, or write a bundle")
    format_flags.options_of(args, format, args.sampler)


def _refuse_of_others(args: argparse.Namespace) -> None:
    """Refuse what only other formats have, and components of no weights."""
    if args.weights_of and not args.weights:
        what = "it says whose weights are in few bits, and nothing says how many."
        raise UsageError(what, where="--weights-of", fix="add --weights int8")
    if args.weights and args.weights not in flags.WEIGHTS:
        what = f"bundles cannot have it (got {args.weights}, expected one of {', '.join(flags.WEIGHTS)})."
        raise UsageError(what, where="--weights", fix="choose another, or write packages with --format coreml")
    for row in FORMATS.values():
        if flag := next((f"--{name}" for name in row.flags if getattr(args, name.replace("-", "_"))), None):
            raise UsageError(
                f"it is of {row.what}.", where=flag, fix=f"leave {flag} out, or write those with --format {row.name}"
            )


def _say_costs(bundle: Bundle) -> None:
    """On stderr, where there is one: what weights in few bits cost, and plans for several targets."""
    rounded = said(bundle.model)
    for line in [*([rounded] if rounded else []), *costs.to_text(bundle, costs.costs(bundle))]:
        _say(line)


def _say(line: str) -> None:
    """On stderr, where there is one."""
    if sys.stderr is not None:
        print(line, file=sys.stderr)


class Bar:
    """One progress bar a phase, on stderr; silent where that is not a terminal."""

    def __init__(self) -> None:
        self._phase, self._done = "", 0
        self._bar = tqdm(disable=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, what: str, done: int, total: int) -> None:
        """Move the bar of phase `what` to `done` of `total`."""
        if what != self._phase:
            self._bar.close()
            self._phase, self._done = what, 0
            self._bar = tqdm(
                desc=what, total=total, file=sys.stderr, unit="", unit_scale=total > 10_000, leave=False, disable=None
            )
        self._bar.update(done - self._done)
        self._done = done


if __name__ == "__main__":
    raise SystemExit(cli.main_for("convert"))
