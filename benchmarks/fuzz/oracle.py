"""What is a finding. A reader returns something that holds together or refuses in one sentence of ours;
it does nothing else, and soon."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import traceback
import warnings
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.fuzz.reader import Broken, Reader
from ondevice.errors import OnDeviceError

ACCEPTED, REFUSED, FINDING = "accepted", "refused", "finding"
SECONDS = 2.0  # of CPU, an input
MESSAGE = 500  # characters of an error
ROOM = 1 << 30  # bytes of address space beyond what a worker has when it begins
ROOT = Path(__file__).resolve().parents[2]
_HERE = str(Path(__file__).resolve().parent)


class _TooSlow(BaseException):
    """Not an Exception: readers that catch all of those must not swallow it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an input led to. Of a finding, `kind` and `place` tell it from others, `what` says it in words."""

    outcome: str
    kind: str = ""
    place: str = ""
    what: str = ""

    @property
    def signature(self) -> tuple[str, str]:
        """Two findings with the same one are taken for the same fault."""
        return self.kind, self.place


class Judge:
    """Gives inputs to readers, one after the other, in this process.
    While it is entered it has the process's warnings, log and SIGPROF."""

    def __init__(self, folder: Path, *, seconds: float = SECONDS) -> None:
        self.folder, self.seconds = folder, seconds
        self._said: list[tuple[str, str, str]] = []  # kind, place, what
        self._status = os.open("/proc/self/status", os.O_RDONLY) if os.path.exists("/proc/self/status") else None
        self._made: set[str] = set()  # folders, one per reader
        self._highest = 0  # bytes: the high-water mark so far
        self._back = ExitStack()

    def __enter__(self) -> Judge:
        log, back = logging.getLogger(), self._back
        back.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always")
        warnings.showwarning = self._warned
        back.callback(signal.signal, signal.SIGPROF, signal.signal(signal.SIGPROF, self._interrupt))
        back.callback(log.handlers.__setitem__, slice(None), log.handlers[:])
        log.handlers[:] = [_Log(self._said)]
        self.forget_peak()
        return self

    def __exit__(self, *_: object) -> None:
        self._back.close()

    def judge(self, reader: Reader, data: bytes) -> Verdict:
        """Run one input."""
        self._said.clear()
        folder = self.folder / reader.name
        if reader.name not in self._made:
            folder.mkdir(parents=True, exist_ok=True)
            self._made.add(reader.name)
        before = self._memory(b"VmRSS:")
        try:
            signal.setitimer(signal.ITIMER_PROF, self.seconds)
            try:
                verdict = self._run(reader, data, folder)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        except _TooSlow as error:
            verdict = Verdict(FINDING, "slow", _place(error), f"took over {self.seconds:g} s of CPU")
        if verdict.outcome == FINDING:
            return verdict
        if self._said:
            return Verdict(FINDING, *self._said[0])
        # The high-water mark of the process: where it did not rise an earlier input went higher, which was
        # within bounds then.
        peak = self._memory(b"VmHWM:")
        risen, self._highest = peak > self._highest, peak
        taken, allowed = peak - before, reader.memory + reader.growth * len(data)
        if risen and taken > allowed:
            self.forget_peak()
            return Verdict(FINDING, "memory", reader.name, f"took {taken >> 20} MB (expected at most {allowed >> 20})")
        return verdict

    def forget_peak(self) -> None:
        """Let the high-water mark of the process's memory begin anew:
        seeds, and inputs that were found out, are not to hide others."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._highest = self._memory(b"VmHWM:")

    def _run(self, reader: Reader, data: bytes, folder: Path) -> Verdict:
        try:
            reader.read(data, folder)
        except reader.refuses as error:
            return _refused(error) or Verdict(REFUSED)
        except Broken as error:
            return Verdict(FINDING, "broken", _place(error, own=True), str(error)[:300])
        except Exception as error:
            what = "".join(traceback.format_exception_only(error)).strip()[:300]
            return Verdict(FINDING, type(error).__name__, _place(error), what)
        return Verdict(ACCEPTED)

    def _memory(self, key: bytes) -> int:
        """Bytes that this process holds or held, 0 where there is no /proc.
        Not ru_maxrss: a process inherits its parent's over exec."""
        if self._status is None:
            return 0
        return int(os.pread(self._status, 1 << 13, 0).partition(key)[2].split(None, 1)[0]) << 10

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        raise _TooSlow

    def _warned(self, message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        self._said.append(("warning", f"{_short(filename)}:{lineno}", f"{category.__name__}: {message}"[:300]))


class _Log(logging.Handler):
    """What is logged must be text that a terminal or a file can take."""

    def __init__(self, said: list[tuple[str, str, str]]) -> None:
        super().__init__()
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        """Write it to nowhere."""
        place = f"{_short(record.pathname)}:{record.lineno}"
        try:
            text = record.getMessage()
            text.encode()
        except (TypeError, ValueError, UnicodeError) as error:
            self.said.append(("log", place, f"{type(error).__name__}: {error}"[:300]))
            return
        if len(text) > 4 * MESSAGE:
            self.said.append(("log", place, f"a message of {len(text):,} characters: {text[:80]!r}..."))


def _refused(error: Exception) -> Verdict | None:
    """What is wrong with the sentence, if anything."""
    text, place = str(error), _place(error)
    if len(text) > MESSAGE:
        return Verdict(FINDING, "long message", place, f"{len(text):,} characters: {text[:160]!r}...")
    if not text.isprintable():
        mark = next(letter for letter in text if not letter.isprintable())
        return Verdict(FINDING, "unprintable message", place, f"{mark!a} in {text[:200]!a}")
    if not text or (isinstance(error, OnDeviceError) and not error.where):
        return Verdict(FINDING, "no place", place, f"names no place: {text[:200]!r}")
    return None


def _place(error: BaseException, *, own: bool = False) -> str:
    """Where in the project an error was raised; with `own`, which line of the harness asked for what does not hold."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename.startswith(str(ROOT)) and "/.venv" not in frame.filename]
    chosen = [
        frame for frame in inside if (frame.name != "holds" if own else not frame.filename.startswith(_HERE))
    ] or inside
    return f"{_short(chosen[-1].filename)}:{chosen[-1].name}:{chosen[-1].lineno}" if chosen else "?"


def _short(path: str) -> str:
    return os.path.relpath(path, ROOT) if path.startswith(str(ROOT)) else "/".join(Path(path).parts[-2:])


def bound_memory() -> None:
    """From here on this process may map `ROOM` bytes more; beyond that allocations fail."""
    with suppress(OSError, ValueError, StopIteration):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
        limit = (int(line.split()[1]) << 10) + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def quiet() -> None:
    """What libraries print from C goes to nowhere from here on; what Python prints goes where it went."""
    sys.stderr = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
