"""Ctrl-C, SIGTERM and SIGHUP end a run in one way:
cleaned up, with one line, and with exit code 128 + the signal's number.

Handlers are set as the first thing that a verb's process does. Until the verb runs there is nothing to clean up, and a
signal ends the process at once; while it runs, a signal raises `Stopped` in the main thread; once it is done, nothing
is left to interrupt. A signal that was ignored from the start (nohup, a job in the background) stays ignored. One that
comes before any line of ours, while Python itself starts, ends the process as Python does, with nothing written yet.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from itertools import pairwise

VERBS = (
    "convert", "pack", "generate", "batch", "morph", "show", "explain", "bench", "check", "tune", "doctor", "serve",
    "devices", "tokens", "sampler", "train",
)  # fmt: skip
SAID = "interrupted; nothing half-written was left behind"
STARTING, RUNNING, CLEANING, OVER = "starting", "running", "cleaning", "over"
# seconds: a terminal that closes, or a service that is stopped, sends two signals at once, and people press twice
ONE_WISH = 1.0
_AGAIN = 0.05  # seconds until a signal comes again that somebody swallowed


class Stopped(KeyboardInterrupt):
    """A signal asks the run to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class _State:
    phase = OVER
    held = 0  # depth of `held`
    waiting = 0  # the signal that came while it was held
    last = -ONE_WISH  # when a signal was answered
    asked = 0  # the signal that has asked this run to end
    code = 0  # of a run that is over


def is_verb(words: list[str]) -> bool:
    """Whether a command line of Python runs one of ours: `python -m ondevice`, or `-m ondevice.VERB`."""
    modules = {"ondevice", *(f"ondevice.{verb}" for verb in VERBS)}
    return any(
        (word in modules and before == "-m") or (word[2:] in modules and word[:2] == "-m")
        for before, word in pairwise(words)
    )


def install() -> None:
    """Take the signals over. Only the main thread of a process may."""
    _State.phase = STARTING
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _hear)
    sys.unraisablehook = _swallowed


def running() -> None:
    """From here on there may be something to clean up."""
    if _State.phase == STARTING:
        _State.phase, _State.asked = RUNNING, 0


def raise_again() -> None:
    """Raise the signal that this run got, if it got one:
    C code that it interrupts may end in an exception of its own (NumPy's tofile)."""
    if _State.phase == RUNNING and _State.asked:
        raise Stopped(_State.asked) from None


def cleaning() -> None:
    """From here on signals change nothing: a second one must not leave half of it."""
    _State.phase = CLEANING


def over(code: int) -> None:
    """The run is done, with this exit code: the first signal changes nothing,
    and a second one ends a process that hangs as it ends."""
    _State.phase, _State.code, _State.waiting = OVER, code, 0


class Held:
    """A signal that comes in the block is answered at its end."""

    def __enter__(self) -> None:
        _State.held += 1

    def __exit__(self, *_: object) -> None:
        _State.held -= 1
        if not _State.held and _State.phase == RUNNING and (number := _State.waiting):
            _State.waiting = 0
            _raise(number)


def exit_code(stop: KeyboardInterrupt) -> int:
    """128 + the number of the signal."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)


def _hear(number: int, frame: object) -> None:
    if _State.phase == STARTING:
        os.write(2, f"{SAID}\n".encode())
        os._exit(128 + number)
    if _State.phase == OVER:
        if _State.waiting:
            os._exit(_State.code)
        _State.waiting = number
    elif _State.held:
        _State.waiting = number
    elif _State.phase == RUNNING and time.monotonic() - _State.last >= ONE_WISH:
        _raise(number)


def _raise(number: int) -> None:
    _State.last, _State.asked = time.monotonic(), number
    raise Stopped(number)


def _swallowed(unraisable: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised in a destructor or a callback of an import.
    A signal must not be lost there: it comes again."""
    if not isinstance(unraisable.exc_value, Stopped):
        sys.__unraisablehook__(unraisable)
        return
    import threading  # this thread must get out of where it is first

    number, here = unraisable.exc_value.number, threading.get_ident()

    def again() -> None:
        time.sleep(_AGAIN)
        _State.last = -ONE_WISH
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(here, number)  # wakes it where it waits
        else:
            signal.raise_signal(number)

    threading.Thread(target=again, daemon=True).start()
