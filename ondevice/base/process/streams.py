"""stdout and stderr as they are found: closed, full, or in an encoding that lacks what is printed.

A result that cannot be printed is an error with an exit code; words on stderr that nobody can take must not
cost a picture.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys

from ondevice.errors import OutputError

TYPE_CHECKING = False  # as typing's, which takes as long to import as everything before the signals are taken over
if TYPE_CHECKING:
    from typing import TextIO

ESCAPE = "ondevice.escape"
_originals: list[TextIO] = []  # a stream closes its buffer once nobody holds it


class Checked(io.TextIOWrapper):
    """A stdout that says so when it takes nothing more.
    Raises OutputError; BrokenPipeError where the reader has had enough."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_print(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_print(error) from None


class Silent(io.TextIOWrapper):
    """A stderr that never fails: what it cannot take is lost."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            return


def install() -> None:
    """Give the process streams that behave, whatever it was started with."""
    codecs.register_error(ESCAPE, _escape)
    _open_missing()
    sys.stdout, sys.stderr = _wrapped(sys.stdout, 1, Checked), _wrapped(sys.stderr, 2, Silent)


def finish() -> None:
    """Before the process ends: what Python would flush then, and complain about, is flushed or dropped."""
    try:
        sys.stdout.flush()
    except (OSError, OutputError, ValueError):
        give_up()


def give_up() -> None:
    """After stdout has failed: what Python still holds for it goes nowhere, so that the process can end quietly."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):  # it is no file
        return


def cannot_print(error: OSError) -> OutputError:
    """The refusal of whatever is behind stdout."""
    fix = (
        "free space there, or send the output elsewhere"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else "send the output elsewhere"
    )
    what = f"the result cannot be printed ({error.strerror or error}); files that were written are kept."
    return OutputError(what, where="stdout", fix=fix)


def _open_missing() -> None:
    """Stand something in for closed handles 0 to 2:
    the next file opened would get the number, and a library's words with it."""
    for handle in (0, 1, 2):
        try:
            os.fstat(handle)
        except OSError:
            # Handles are given lowest first. Of handle 1 writes must fail, not vanish.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY if handle == 1 else os.O_RDWR), True)


def _wrapped(stream: TextIO | None, handle: int, kind: type[Checked] | type[Silent]) -> TextIO:
    """`stream` as `kind`; one of its own on `handle` where Python found none."""
    if stream is None:
        buffer = io.BufferedWriter(io.FileIO(handle, "w", closefd=False))
        return kind(buffer, encoding="utf-8", errors=ESCAPE, line_buffering=handle == 2)
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    _originals.append(stream)
    errors = ESCAPE if stream.errors in ("strict", "surrogateescape") else stream.errors
    return kind(
        stream.buffer,
        encoding=stream.encoding,
        errors=errors,
        newline=None if os.name == "nt" else "\n",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """A path's bytes that are no text as they are; anything else that the encoding lacks as Python escapes it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    first = error.object[error.start]
    if "\udc80" <= first <= "\udcff":
        return bytes([ord(first) - 0xDC00]), error.start + 1
    return first.encode("ascii", "backslashreplace").decode(), error.start + 1
