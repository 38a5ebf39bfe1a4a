"""Does a test notice? One change of the source at a time, in memory, in a process forked for it,
with the tests that belong to the file.

A `Break` is a piece of a file's text and what stands there instead. `notices` runs it: packages that are slow to import
are imported once, here; each child drops the project's own modules and imports them again, one of them changed. No file
is touched, so other work in the same tree goes on. Tests that start a process of their own see the unchanged source,
and do not count.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OWN = tuple(str(ROOT / folder) + os.sep for folder in ("ondevice", "converters", "shaders", "benchmarks", "tests"))
# what they notice by luck today they may not notice tomorrow
RANDOM = "not memory_check_agrees and not fuzz and not mutations"
PYTEST = ("-k", RANDOM, "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider")
PARITY = "tests/parity"  # whose tests run only where they are asked for by name
MEMORY = "/dev/shm"  # a folder in memory, where there is one
# seconds beyond what the unchanged tests take, after which a child is killed: the change made something endless
HUNG = 60.0


@dataclass(frozen=True, slots=True)
class Break:
    """In `file` (relative to the repository) the text from `start` to `end` becomes `new`."""

    file: str
    start: int
    end: int
    new: str

    @property
    def line(self) -> int:
        return read(self.file).count("\n", 0, self.start) + 1

    @property
    def old(self) -> str:
        return read(self.file)[self.start : self.end]

    def text(self) -> str:
        """The file's text with the change."""
        source = read(self.file)
        return source[: self.start] + self.new + source[self.end :]

    def __str__(self) -> str:
        old, new = (" ".join(part.split()) for part in (self.old, self.new))
        return f"{self.file}:{self.line}: {old[:110]}  ->  {new[:60] or '(nothing)'}"


def named(file: str, old: str, new: str) -> Break:
    """The break that puts `new` where `old` stands in a file, once.

    Raises:
        ValueError: it stands there never, or more than once.
    """
    if (count := read(file).count(old)) != 1:
        raise ValueError(f"{file} has {old!r} {count} times (expected once)")
    start = read(file).index(old)
    return Break(file, start, start + len(old), new)


def read(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a break: `noticed` by a failing test, or by one that hung;
    `last` is the end of what pytest printed."""

    noticed: bool
    seconds: float
    last: str


def preload(modules: Iterable[str]) -> None:
    """Import what children would each import again: third-party packages stay, ours are dropped in the child."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    for name in ("pytest", *modules):
        __import__(name)


def notices(change: Break | None, tests: Sequence[str], limit: float = 600.0) -> Verdict:
    """Run `tests` on the changed source (None: unchanged) in a forked process, for `limit` seconds at most.

    Raises:
        RuntimeError: pytest could not run them at all.
    """
    start = time.monotonic()
    with tempfile.TemporaryFile() as out:
        if (child := os.fork()) == 0:
            os.setpgid(0, 0)
            _in_child(change, tests, out.fileno())
        code = _waited(child, limit)
        out.seek(0)
        last = out.read().decode(errors="replace")[-2000:]
    if code is not None and code not in (0, 1, 2):  # 2: a test file could not be imported, which a break may cause
        raise RuntimeError(f"pytest ended with {code} on {' '.join(tests)}:\n{last}")
    return Verdict(code != 0, time.monotonic() - start, last)


def _in_child(change: Break | None, tests: Sequence[str], out: int) -> None:
    code = 70
    try:
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(ROOT)
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(OWN):
                del sys.modules[name]
        for name in [name for name in sys.modules if name.split(".")[0] in ("ondevice", "benchmarks")]:
            del sys.modules[name]  # packages without a file
        if change is not None:
            _install(ROOT / change.file, change.text())
        import pytest

        # tests sync what they write
        with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
            left_out = () if any(test.startswith(PARITY) for test in tests) else ("-m", "not parity")
            code = int(pytest.main([*PYTEST, *left_out, f"--basetemp={folder}/t", *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def _waited(child: int, limit: float) -> int | None:
    """The exit code, 1 where a signal ended it; None where it was still running and was killed."""
    end, pause = time.monotonic() + limit, 0.005
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def _install(path: Path, text: str) -> None:
    """Let whoever imports or reads `path` see `text`."""
    if path.suffix == ".py":
        get_code = SourceFileLoader.get_code

        def changed(self: SourceFileLoader, fullname: str) -> CodeType | None:
            if Path(self.path).resolve() == path:
                return compile(text, str(path), "exec", dont_inherit=True)
            return get_code(self, fullname)

        SourceFileLoader.get_code = changed  # type: ignore[method-assign]
        return
    plain = io.open

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, (str, os.PathLike)) and "w" not in mode and Path(file).resolve() == path:
            return io.BytesIO(text.encode()) if "b" in mode else io.StringIO(text)
        return plain(file, mode, *args, **kwargs)

    io.open = opened  # pathlib's  # type: ignore[assignment]


def unnoticed(changes: Sequence[Break], tests: Sequence[str], say: Any = print) -> list[Break]:
    """Those of `changes`, all of files that `tests` belong to, that no test notices; says what becomes of each.

    Raises:
        RuntimeError: the tests fail without any change.
    """
    plain = notices(None, tests)
    if plain.noticed:
        raise RuntimeError(f"the tests fail as they are:\n{plain.last}")
    missed = []
    for number, change in enumerate(changes, 1):
        verdict = notices(change, tests, plain.seconds + HUNG)
        if not verdict.noticed:
            missed.append(change)
        say(
            f"{number}/{len(changes)} {'noticed' if verdict.noticed else 'NOT NOTICED'} "
            f"{verdict.seconds:.1f} s  {change}"
        )
    return missed
