"""What to draw, in words."""

from __future__ import annotations

import argparse
from typing import Any

from ondevice.diffusion.text.texts import EMPHASES
from ondevice.errors import UsageError

WEIGHTED = "mean"  # how texts are read where nobody says it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of texts. (The prompt is a verb's argument, or a word of a line of a batch.)"""
    group = parser.add_argument_group("text")
    group.add_argument("--negative", metavar="TEXT", help="what not to draw (default: what the model was trained with)")
    add_reading(group)


def add_reading(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare the flags that say how texts are read."""
    parser.add_argument(
        "--emphasis",
        choices=EMPHASES,
        help=(
            "what (word:1.2), [word], BREAK and AND in texts mean: how weights act on a text's states, by the mean or "
            "as the package compel does; none: nothing, signs are text (default mean)"
        ),
    )
    parser.add_argument(
        "--long",
        choices=("chunk", "truncate"),
        help=(
            "of texts that are longer than the model takes at once: read them in chunks, or only their beginning "
            "(default: as many chunks as the bundle has plans for)"
        ),
    )


def fields(args: argparse.Namespace, read: bool = True) -> dict[str, Any]:
    """The request's texts; `read`: whether the model reads any. Raises UsageError where there is nothing to draw."""
    if args.prompt is None and read:
        raise UsageError("it was not said what to draw.", where="prompt", fix='give a prompt; "" is one, too')
    ways = {"emphasis": args.emphasis or WEIGHTED, "long": args.long or "fit"}
    return {"prompt": args.prompt or "", "negative_prompt": args.negative, **ways}
