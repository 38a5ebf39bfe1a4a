"""The command line's parser: words that it does not take are errors like all others, and not a page of usage."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
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

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's; a word that is left over is refused by the parser of the subcommand that it was given to,
        and the flag that it is nearest to is named."""
        found, left = self.parse_known_args(args, namespace)
        if left:
            self._subcommand(found).unknown(left)
        return found

    def _subcommand(self, found: argparse.Namespace) -> Parser:
        """The parser that took the last words: of the subcommand that was chosen, or this one."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return action.choices[getattr(found, action.dest)]._subcommand(found)
        return self

    def unknown(self, words: Sequence[str]) -> NoReturn:
        """Refuse words that the parser has no place for. Raises UsageError."""
        known = [name for name in self._option_string_actions if name.startswith("--")]
        near = difflib.get_close_matches(words[0].partition("=")[0], known, 1)
        fix = f"write {near[0]}" if near else self.hint or f"see `{self.prog} --help`"
        raise UsageError(f"unrecognized arguments: {' '.join(words)}.", fix=fix)

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
