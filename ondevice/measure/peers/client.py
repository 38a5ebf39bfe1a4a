"""The driver's end of a worker: start it, ask it, and say what happened where it dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ondevice.errors import PeerError
from ondevice.measure.peers.peer import Peer

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ERROR_CHARS = 400


def command(verb: str, peer: Peer, folder: Path, cores: Sequence[int]) -> list[str]:
    """The command line of a worker. `-P`: no file beside the user's own may stand for a package."""
    return [
        sys.executable,
        "-P",
        "-m",
        "ondevice.measure.peers.worker",
        verb,
        peer.name,
        str(folder),
        ",".join(map(str, cores)),
    ]


class Worker:
    """A process that runs one peer.

    Every method raises PeerError with what the process said where it fails.
    """

    def __init__(self, peer: Peer, words: Sequence[str], threads: int) -> None:
        self.peer = peer
        # closed with the process
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        env, pipe = os.environ | {name: str(threads) for name in THREADS}, subprocess.PIPE
        # A group of its own: a converter that the worker started ends with it, and Ctrl-C is the driver's to handle.
        self._process = subprocess.Popen(
            words, stdin=pipe, stdout=pipe, stderr=self._errors, text=True, bufsize=1, env=env, process_group=0
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended already
                os.killpg(self._process.pid, signal.SIGKILL)
        for stream in (self._process.stdin, self._process.stdout):  # the end of its input ends it
            with contextlib.suppress(BrokenPipeError):
                if stream:
                    stream.close()
        self._process.wait()
        self._errors.close()

    def ask(self, request: str) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._failure(None) from None
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            answer = json.loads(line)
        except ValueError:
            answer = {"error": f"it answered {line.strip()[:80]!r}"} if line else None
        if not isinstance(answer, dict) or "error" in answer:
            raise self._failure(answer)
        return answer

    def finish(self) -> None:
        """Wait until it ends by itself."""
        assert self._process.stdout is not None
        lines = self._process.stdout.read().splitlines()
        if self._process.wait():
            raise self._failure(json.loads(lines[-1]) if lines else None)

    def _failure(self, answer: Any) -> PeerError:
        if isinstance(answer, dict) and "error" in answer:
            return PeerError(str(answer["error"])[:ERROR_CHARS], where=self.peer.name)
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        how = (
            f"was ended by signal {-code}{' (out of memory?)' * (code == -9)}"
            if code < 0
            else f"ended with exit code {code}"
        )
        return PeerError(f"its process {how}{': ' + lines[-1] if lines else ''}"[:ERROR_CHARS], where=self.peer.name)
