"""A picture as an object of JSON, by the words of `generate`'s flags: `{"prompt": "a cat", "steps": 20, "size":
"512x512"}`. A line of a batch is one, and so is what a picture's file says (docs/sessions.md)."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ondevice.base.words import Parser
from ondevice.drawing import adapters, control, films, pictures, refiner, replay_flag, sampler, seed, text
from ondevice.errors import UsageError

GROUPS: tuple[ModuleType, ...] = (text, sampler, seed, pictures, films, control, adapters, refiner, replay_flag)
"""The flags that say what one picture is. All others are of the run that draws it."""

NOT_HERE = {"count": "write a line for each seed"}
_LONGEST = 1 << 16  # letters of a value
_ADDED = ("set", "number")  # names with values: those of a line are added to those that were there


@functools.cache
def _parser() -> Parser:
    parser = Parser(prog="", add_help=False, allow_abbrev=False)
    parser.hint = "write it as its flag takes it (`ondevice generate --help`)"
    parser.add_argument("--prompt")
    for group in GROUPS:
        group.add_arguments(parser)
    return parser


def _actions() -> dict[str, argparse.Action]:
    """The flags by their words."""
    return {option[2:].replace("-", "_"): action for action in _parser()._actions for option in action.option_strings}


def nothing_given() -> argparse.Namespace:
    """What the flags are where none is given."""
    return _parser().parse_args([])


def words_given(args: argparse.Namespace) -> set[str]:
    """The words of the flags that were given."""
    plain = vars(nothing_given())
    return {word for word, action in _actions().items() if getattr(args, action.dest, None) != plain[action.dest]}


def args_of(words: Mapping[str, Any], base: argparse.Namespace) -> argparse.Namespace:
    """`base` with what an object says; what it leaves out, or says is null, stays as it is there.

    Raises:
        UsageError: a word that is none, or a value that its flag does not take.
    """
    actions, line = _actions(), []
    args = argparse.Namespace(**vars(base))
    chosen = set()
    for key, value in words.items():
        word = key.replace("-", "_")
        if word in NOT_HERE or word not in actions:
            known = ", ".join(name for name in actions if name not in NOT_HERE)
            fix = NOT_HERE.get(word, "leave it out")
            where = key[:60] if key.strip() else "a line"
            raise UsageError(f"no such word (expected one of {known}).", where=where, fix=fix)
        if value is None:
            continue
        action = actions[word]
        chosen.add(action.dest)
        if isinstance(action, argparse._AppendAction) and word not in _ADDED:
            setattr(args, action.dest, None)
        line += _written(word, action, value)
    if "sigmas" in chosen and "steps" not in chosen:
        args.steps = None  # there are as many as levels
    for group in _parser()._mutually_exclusive_groups:
        among = {action.dest for action in group._group_actions}
        if among & chosen:  # what is said here stands in the place of what was said there
            for action in group._group_actions:
                setattr(args, action.dest, action.default)
    try:
        return _parser().parse_args(line, args)
    except argparse.ArgumentError as error:  # those of types and choices, in some versions
        _parser().error(str(error))


def _written(word: str, action: argparse.Action, value: Any) -> list[str]:
    """A value as on a command line."""
    flag = f"--{word.replace('_', '-')}"

    def refused(expected: str) -> UsageError:
        return UsageError(f"not a value (got {str(value)[:60]!r}, expected {expected}).", where=word, fix="mend it")

    if action.nargs == 0:
        if not isinstance(value, bool):
            raise refused("true or false")
        return [flag] * value
    if isinstance(action, argparse._AppendAction):
        if isinstance(value, Mapping):
            return [f"{flag}={name}={_plain(one)}" for name, one in value.items()]
        found = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) or type(one) in (int, float) for one in found):
            raise refused("a text or a number, or a list of these")
        return [f"{flag}={one}" for one in found]
    if isinstance(value, list) and value and all(type(one) in (int, float) for one in value):
        return [f"{flag}={','.join(map(repr, value))}"]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise refused("a text or a number")
    if len(str(value)) > _LONGEST:
        raise refused(f"at most {_LONGEST} letters")
    return [f"{flag}={value}"]


def _plain(value: Any) -> str:
    """A value behind NAME=: words as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
