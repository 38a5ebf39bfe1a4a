"""The command line's parser: words that it does not take are errors like all others, and not a page of usage."""

from __future__ import annotations

import argparse
import difflib
from typing import Any, NoReturn

from ondevice.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print its usage and leave. Parsers of its subcommands are of this class.

    `hint` is the fix where nothing better is known.
    """

    hint = ""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse says of a word, "argument --steps: invalid...", as ours."""
        place, colon, what = message.removeprefix("argument ").partition(": ")
        if not (colon and message.startswith("argument ")):
            place, what = "", message
        raise UsageError(f"{what}.", where=place, fix=self.hint or f"see `{self.prog} --help`")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse what is none of an argument's choices, and say which is nearest."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        near = difflib.get_close_matches(str(value), choices, 1)
        where = argparse.ArgumentError(action, "").argument_name or ""
        what = f"there is no such choice (got {str(value)!r}, expected {', '.join(choices)})."
        fix = f"write {near[0]}" if near else self.hint or f"see `{self.prog} --help`"
        raise UsageError(what, where=where, fix=fix)
