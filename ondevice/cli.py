"""The command line: `ondevice <verb>` and `python -m ondevice.<verb>` are the same.

Results go to stdout; log and progress to stderr. Exit codes are those of ondevice/errors.py; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence

from ondevice import __version__
from ondevice.errors import OnDeviceError, UsageError
from ondevice.run.waiting import stuck

VERBS = ("convert", "generate", "show", "explain", "bench", "tune", "devices", "tokens", "sampler")
INTERRUPTED = 130
LEVELS = ("debug", "info", "warning", "error")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv` (default sys.argv[1:]) and run the verb it names; returns the exit code."""
    return _guarded(lambda: _parsed(argv))


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ondevice", description="Stable Diffusion checkpoints into dispatch plans that phone GPUs replay."
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    words = sys.argv[1:] if argv is None else argv
    for verb in [words[0]] if words and words[0] in VERBS else VERBS:  # the others need not be imported
        module = importlib.import_module(f"ondevice.{verb}")
        _describe(verbs.add_parser(verb, help=module.HELP, description=module.__doc__), verb)
    return parser.parse_args(argv)


def main_for(verb: str, argv: Sequence[str] | None = None) -> int:
    """`python -m ondevice.<verb>`."""
    return _guarded(lambda: _parsed_for(verb, argv))


def _parsed_for(verb: str, argv: Sequence[str] | None) -> argparse.Namespace:
    module = importlib.import_module(f"ondevice.{verb}")
    parser = argparse.ArgumentParser(prog=f"python -m ondevice.{verb}", description=module.__doc__)
    _describe(parser, verb)
    return parser.parse_args(argv)


def _describe(parser: argparse.ArgumentParser, verb: str) -> None:
    module = importlib.import_module(f"ondevice.{verb}")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


def _guarded(parse: Callable[[], argparse.Namespace]) -> int:
    """The exit code of a verb. Leaves at once where a driver still works on what nobody waits for: the interpreter's end would wait."""
    code = _run(parse)
    if stuck():
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return code


def _run(parse: Callable[[], argparse.Namespace]) -> int:
    """Parse and run; every error of ours is a line and an exit code. Verbs are imported inside, so Ctrl-C is heard from the start."""
    try:
        _print_anything()
        _log_to_stderr()
        args = parse()
        return int(args.run(args))
    except OnDeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; nothing half-written was left behind", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `ondevice devices | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _print_anything() -> None:
    """What the terminal's encoding lacks is printed escaped: the work behind a path must not be lost for an umlaut in it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _log_to_stderr() -> None:
    level = os.environ.get("ONDEVICE_LOG", "warning").lower()
    if level not in LEVELS:
        raise UsageError(f"{level!r} is not a log level (expected one of {', '.join(LEVELS)}).", where="ONDEVICE_LOG")
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("ondevice").setLevel(level.upper())


def parse_size(text: str) -> tuple[int, int]:
    """'768x512' -> (width, height) in pixels.

    Raises:
        UsageError: it is not two whole numbers joined by an x, or they have more than nine digits.
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and width.isascii() and height.isascii()):
        raise UsageError(f"{text!r} is not a size (expected WIDTHxHEIGHT in pixels, such as 512x512).", where="--size")
    if max(len(width), len(height)) > 9:  # digits; Python itself refuses to read thousands of them
        raise UsageError(f"{text[:40]!r}... is larger than any picture.", where="--size", fix="use a size such as 512x512")
    return int(width), int(height)
