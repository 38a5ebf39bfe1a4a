"""The flag that draws a picture again from what its file says."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FLAG = "--from"


class WithoutPrompt(argparse.Action):
    """Keeps the value; a verb that has a prompt needs none then."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        for action in parser._actions:
            if action.dest == "prompt" and not action.option_strings:
                action.required = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --from."""
    group = parser.add_argument_group("from a picture")
    group.add_argument(
        FLAG,
        dest="from_picture",
        type=Path,
        action=WithoutPrompt,
        metavar="PICTURE",
        help=(
            "draw a picture again from the parameters in its file, ours or AUTOMATIC1111's; flags given beside it, and "
            "a prompt, win; what cannot be had is said, and refused with --strict"
        ),
    )
