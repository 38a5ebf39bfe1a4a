"""Programs that a device computes wrongly: files that `ondevice doctor --out FILE` writes, `ondevice convert --avoid
FILE` plans around, and players refuse to run (docs/doctor.md)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ondevice.errors import UsageError

FORMAT, VERSION = "ondevice-avoid", 1
MOST_BYTES = 4 << 20
MOST_PROGRAMS = 4_096
MOST_DEFINES = 64
_INT32 = 1 << 31
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Defines = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class AvoidedProgram:
    """A kernel built with these defines (sorted). `sha256` is its text's, as a newer text is another program; `why`
    says what was wrong, for people."""

    kernel: str
    sha256: str
    defines: Defines
    why: str


@dataclass(frozen=True, slots=True)
class Avoided:
    """What a file says: `device` is the name of the device that they are wrong on."""

    name: str
    device: str
    programs: Mapping[tuple[str, Defines], AvoidedProgram]

    def reason(self, kernel: str, text: str, defines: Mapping[str, int]) -> str | None:
        """Why a kernel of this text, built with these defines, is to be avoided; None where it is not."""
        found = self.programs.get((kernel, tuple(sorted(defines.items()))))
        if found is None or found.sha256 != hashlib.sha256(text.encode()).hexdigest():
            return None
        return f"it is wrong on {self.device} ({self.name})"

    def stale(self, texts: Mapping[str, str]) -> list[str]:
        """Kernels of the file that are another text by now, or gone, of those whose `texts` are given by name."""
        own = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
        return sorted({one.kernel for one in self.programs.values() if own.get(one.kernel) != one.sha256})


def dump_avoided(device: Mapping[str, Any], programs: Sequence[AvoidedProgram]) -> bytes:
    """The text of a file. `device`: facts of it, of which its name, platform, version and driver are kept."""
    kept = {key: str(device[key]) for key in ("name", "platform", "version", "driver") if key in device}
    rows = [
        json.dumps({"kernel": one.kernel, "sha256": one.sha256, "defines": dict(one.defines), "why": one.why})
        for one in programs
    ]
    head = f'{{"format": "{FORMAT}", "version": {VERSION}, "device": {json.dumps(kept)},\n"programs": ['
    return (head + "".join(f"{',' if number else ''}\n{row}" for number, row in enumerate(rows)) + "\n]}\n").encode()


def read_avoided(path: Path) -> Avoided:
    """Read and check a file. Raises UsageError."""
    try:
        if not stat.S_ISREG((info := os.stat(path)).st_mode) or info.st_size > MOST_BYTES:
            _refuse(path, f"it is not a file of at most {MOST_BYTES} bytes")
        return parse_avoided(path.read_bytes(), path)
    except OSError as error:
        _refuse(path, f"it cannot be read: {error.strerror}")


def parse_avoided(data: bytes, path: Path) -> Avoided:
    """What the bytes of a file say; `path` names it in errors. Raises UsageError."""
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        _refuse(path, "it is not JSON")
    if type(value) is not dict or value.get("format") != FORMAT:
        _refuse(path, f"it is not a list of programs to avoid (its `format` is not {FORMAT!r})")
    if value.get("version") != VERSION:
        _refuse(path, f"its version is another than {VERSION}", "write it again with this ondevice's `doctor`")
    device, rows = value.get("device"), value.get("programs")
    name = device.get("name") if type(device) is dict else None
    if type(name) is not str or not name.isprintable() or not 1 <= len(name) <= 256:
        _refuse(path, "`device.name` is not a name")
    if type(rows) is not list or len(rows) > MOST_PROGRAMS:
        _refuse(path, f"`programs` is not a list of at most {MOST_PROGRAMS}")
    programs = [_program(row, number, path) for number, row in enumerate(rows)]
    return Avoided(path.name, name, {(one.kernel, one.defines): one for one in programs})


def _program(row: Any, number: int, path: Path) -> AvoidedProgram:
    row = row if type(row) is dict else {}
    kernel, digest, defines, why = (row.get(key) for key in ("kernel", "sha256", "defines", "why"))
    if type(kernel) is not str or not _NAME.fullmatch(kernel):
        _refuse(path, f"programs[{number}].kernel is not a kernel's name")
    if type(digest) is not str or not _SHA256.fullmatch(digest):
        _refuse(path, f"programs[{number}].sha256 is not 64 hexadecimal digits")
    if type(defines) is not dict or len(defines) > MOST_DEFINES:
        _refuse(path, f"programs[{number}].defines is not an object of at most {MOST_DEFINES}")
    for key, value in defines.items():
        if not _NAME.fullmatch(key) or type(value) is not int or not -_INT32 <= value < _INT32:
            _refuse(path, f"programs[{number}].defines has what is no name with a whole number of 32 bits")
    return AvoidedProgram(kernel, digest, tuple(sorted(defines.items())), why if type(why) is str else "")


def _refuse(path: Path, why: str, fix: str = "give a file that `ondevice doctor --out FILE` wrote") -> NoReturn:
    raise UsageError(f"{why}.", where=str(path), fix=fix) from None
