"""The command line: `ondevice <verb>` and `python -m ondevice.<verb>` are the same.

Results go to stdout; log and progress to stderr. Exit codes are those of ondevice/errors.py; 128 + its number after a
signal (130: Ctrl-C).

Nothing that takes time is imported here before signals are taken over: they are heard from the first moment.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from ondevice import __version__
from ondevice.base.process import signals, streams
from ondevice.errors import OnDeviceError, UsageError

TYPE_CHECKING = False  # as typing's, which takes as long to import as all of this
if TYPE_CHECKING:
    import argparse

VERBS = signals.VERBS
INTERRUPTED = 130
LEVELS = ("debug", "info", "warning", "error")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv` and run the verb it names; returns the exit code.

    Without `argv` the process is the verb's own: words come from sys.argv, and signals and streams are taken over.
    """
    return _guarded(lambda: _parsed(argv), own=argv is None)


def main_for(verb: str, argv: Sequence[str] | None = None) -> int:
    """`python -m ondevice.<verb>`."""
    return _guarded(lambda: _parsed_for(verb, argv), own=argv is None)


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    from ondevice.base.words import Parser

    parser = Parser(
        prog="ondevice", description="Stable Diffusion checkpoints into dispatch plans that phone GPUs replay."
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    words = sys.argv[1:] if argv is None else argv
    one, first = [word for word in words[:1] if word in VERBS], words[0] if words else ""
    told = bool(one) or (first.startswith("-") and first != "--version")  # else nothing that they say is shown
    for verb in one or VERBS:
        if told:  # a verb that is not need not be imported
            module = importlib.import_module(f"ondevice.{verb}")
            _describe(verbs.add_parser(verb, help=module.HELP, description=module.__doc__), verb)
        else:
            verbs.add_parser(verb)
    return parser.parse_args(argv)


def _parsed_for(verb: str, argv: Sequence[str] | None) -> argparse.Namespace:
    from ondevice.base.words import Parser

    module = importlib.import_module(f"ondevice.{verb}")
    parser = Parser(prog=f"python -m ondevice.{verb}", description=module.__doc__)
    _describe(parser, verb)
    return parser.parse_args(argv)


def _describe(parser: argparse.ArgumentParser, verb: str) -> None:
    import argparse

    module = importlib.import_module(f"ondevice.{verb}")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


def _guarded(parse: Callable[[], argparse.Namespace], *, own: bool = True) -> int:
    """Parse and run; every error of ours is a line and an exit code, and so is a signal."""
    if own:
        signals.install()
        streams.install()
    try:
        code = _answer(parse)
    except KeyboardInterrupt as stop:
        signals.cleaning()
        code = signals.exit_code(stop)
        from ondevice.base.publish.hidden import release_all

        release_all()
        print(signals.SAID, file=sys.stderr)
    signals.over(code)
    waiting = sys.modules.get("ondevice.run.waiting")  # not there where nothing ran on a device
    # a driver works on what nobody waits for any more, and the interpreter's end would wait for it
    if waiting and waiting.stuck():
        streams.finish()
        os._exit(code)
    if own:
        streams.finish()
        several = sys.modules.get("ondevice.run.several")
        if several and several.was_cut():
            os._exit(code)
    return code


def _answer(parse: Callable[[], argparse.Namespace]) -> int:
    """The exit code. Raises KeyboardInterrupt on a signal."""
    try:
        _log_to_stderr()
        try:
            args = parse()
        except SystemExit:  # --help was printed
            sys.stdout.flush()
            raise
        signals.running()
        try:
            code = int(args.run(args))
        except Exception:
            signals.raise_again()
            raise
        sys.stdout.flush()
        return code
    except OnDeviceError as error:
        return _say(error)
    except BrokenPipeError:  # `ondevice devices | head -1`
        streams.give_up()
        return 0
    except OSError as error:
        try:
            os.getcwd()
        except OSError:
            return _say(UsageError("the working directory no longer exists.", fix="change to a folder that does"))
        if "temporary directory" in str(error):  # as tempfile says it
            return _say(UsageError("there is no temporary folder.", fix="set TMPDIR to a folder that can be written"))
        raise


def _say(error: OnDeviceError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _log_to_stderr() -> None:
    from ondevice.base.process import log  # with logging, which need not be there when a signal is first heard

    level = os.environ.get("ONDEVICE_LOG", "warning").lower()
    if level not in LEVELS:
        raise UsageError(f"{level!r} is not a log level (expected one of {', '.join(LEVELS)}).", where="ONDEVICE_LOG")
    log.install(level)
