"""What to draw, in words."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the prompt and the flags of texts."""
    group = parser.add_argument_group("text")
    group.add_argument("prompt", help="what to draw")
    group.add_argument("--negative", metavar="TEXT", help="what not to draw (default: what the model was trained with)")


def fields(args: argparse.Namespace) -> dict[str, Any]:
    """The request's texts."""
    return {"prompt": args.prompt, "negative_prompt": args.negative}
