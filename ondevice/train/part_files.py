"""Part files: a sample a line, `caption TAB anything TAB base64 of a picture file`, gzipped where the name ends in .gz.

The format of PaddleMIX's recipes (ppdiffusers' examples/stable_diffusion, where it holds Laion400M), with its lists: a
`.filelist` has the path of a part a line, a `.filelist.list` that of a `.filelist`. A part is read as a stream, in
memory that does not grow with it, and read again and again: parts that are read to their end are followed by the next,
and all of them by another order of the same.
"""

from __future__ import annotations

import binascii
import gzip
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ondevice.base.paths import is_file
from ondevice.errors import UsageError

LIST, LISTS = ".filelist", ".filelist.list"
LONGEST = 64 << 20
"""Bytes of a line: a picture file of 48 MB."""
_MOST_PARTS = 1 << 22
_MOST_PATH = 1 << 16  # bytes of a line of a list
_NAMED = 3  # lines of a part that are named each; the others are counted
Said = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture's file, not decoded, what it shows, and where it stands: for messages.

    Args:
        whole: height and width that the picture had before it was made smaller, where that is known.
    """

    caption: str
    picture: bytes
    where: str
    whole: tuple[int, int] | None = None


def parts_of(path: Path, flag: str = "file_list") -> list[Path]:
    """The part files that a `.filelist`, a `.filelist.list` or a part itself names, each as often as it is named.

    A relative path is one from the working folder, as in the scripts that the format is from, or else from the folder
    of the list.

    Raises:
        UsageError: a list cannot be read, names a file that is not there, names none, or more than four million.
    """
    found = list(_listed(path, flag))
    if not found:
        raise UsageError("it names no part file.", where=f"--{flag} {path}", fix="name one a line")
    return found


def _listed(path: Path, flag: str) -> Iterator[Path]:
    if not path.name.endswith((LIST, LISTS)):
        if not path.is_file():
            raise UsageError("there is no such file.", where=f"--{flag} {path}", fix="give a list of part files")
        yield path
        return
    count = 0
    for number, line in _lines_of(path, flag):
        inner = next((one for one in (Path(line), path.parent / line) if is_file(one)), None)
        if inner is None:
            what = f"there is no file {line}, neither here nor beside the list."
            raise UsageError(what, where=f"{path}, line {number}", fix="correct the path, or take the line out")
        if path.name.endswith(LISTS) and not inner.name.endswith(LIST):
            what = f"a list of lists names files that end in {LIST} (got {line})."
            raise UsageError(what, where=f"{path}, line {number}", fix=f"name the list itself {path.stem}")
        if path.name.endswith(LIST) and inner.name.endswith((LIST, LISTS)):
            what = f"a list of parts names another list (got {line})."
            raise UsageError(what, where=f"{path}, line {number}", fix=f"let its name end in {LISTS}")
        for part in _listed(inner, flag) if path.name.endswith(LISTS) else (inner,):
            if (count := count + 1) > _MOST_PARTS:
                raise UsageError(f"it names more than {_MOST_PARTS} parts.", where=str(path), fix="make them larger")
            yield part


def _lines_of(path: Path, flag: str) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line of a list that is not empty."""
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(_MOST_PATH + 1):
                number += 1
                text = line.decode("utf-8").strip()
                if len(line) > _MOST_PATH or "\0" in text:
                    raise UsageError("it is no path.", where=f"{path}, line {number}", fix="name a file a line")
                if text:
                    yield number, text
    except OSError as error:
        what = f"it cannot be read ({error.strerror})."
        raise UsageError(what, where=f"--{flag} {path}", fix="give a list of part files") from error
    except UnicodeDecodeError as error:
        what = "it is no text of UTF-8."
        raise UsageError(what, where=f"{path}, line {number}", fix="name a file a line") from error


def samples_of(part: Path, said: Said) -> Iterator[Sample]:
    """The samples of a part, in its order. What cannot be read is told to `said`, and left out: a line, or from where
    it is damaged on the rest of the part."""
    bad = number = 0
    try:
        with _opened(part) as file:
            while line := file.readline(LONGEST + 1):
                number += 1
                try:
                    yield _sample(line, f"{part}, line {number}")
                except ValueError as error:
                    if (bad := bad + 1) <= _NAMED:
                        said(f"{part}, line {number}: {error}; left out")
                    while len(line) > LONGEST and not line.endswith(b"\n"):  # the rest of a line that is too long
                        line = file.readline(LONGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        said(f"{part}: it cannot be read from line {number + 1} on ({error}); left out")
    if bad > _NAMED:
        said(f"{part}: {bad - _NAMED} more of its lines left out")


def _opened(part: Path) -> BinaryIO:
    return gzip.open(part, "rb") if part.suffix == ".gz" else part.open("rb")  # type: ignore[return-value]


def _sample(line: bytes, where: str) -> Sample:
    """Raises ValueError for a line that is none."""
    if len(line) > LONGEST:
        raise ValueError(f"the line is longer than {LONGEST >> 20} MB")
    columns = line.rstrip(b"\r\n").split(b"\t", 3)
    if len(columns) < 3:
        raise ValueError(f"the line has {len(columns)} of 3 columns")
    try:
        picture = binascii.a2b_base64(columns[2])
    except binascii.Error as error:
        raise ValueError(f"its picture is no base64 ({error})") from error
    if not picture:
        raise ValueError("its picture is empty")
    try:
        return Sample(columns[0].decode("utf-8"), picture, where)
    except UnicodeDecodeError as error:
        raise ValueError("its caption is no UTF-8") from error


@dataclass(frozen=True, slots=True)
class Stream:
    """The endless sequence of samples of one of several readers, each of which has parts of its own.

    Args:
        parts: of all readers.
        reader, readers: which of how many this is.
        seed: of the order of parts in each pass, and of samples.
        buffer: samples among which the next is drawn; 1: they come as they lie in the parts.
        said: is told what is left out.
        read: the samples of a part.
        flag: what names the parts: for messages.
    """

    parts: Sequence[Path] | Sequence[str]
    reader: int = 0
    readers: int = 1
    seed: int = 0
    buffer: int = 1
    said: Said = print
    read: Callable[[Any, Said], Iterator[Sample]] = samples_of
    flag: str = "file_list"

    def __post_init__(self) -> None:
        if len(self.parts) < self.readers:
            what = f"there are fewer part files than readers (got {len(self.parts)}, expected {self.readers} or more)."
            fix = "split the data into more parts, or start fewer processes and --dataloader_num_workers"
            raise UsageError(what, where=f"--{self.flag}", fix=fix)

    def __iter__(self) -> Iterator[Sample]:
        """Raises UsageError where a whole pass over the parts gives no sample."""
        kept: list[Sample] = []
        draw = random.Random(f"samples {self.seed} {self.reader}")
        for sample in self._in_order():
            if len(kept) < self.buffer:
                kept.append(sample)
                continue
            place = draw.randrange(self.buffer)
            chosen, kept[place] = kept[place], sample
            yield chosen

    def _in_order(self) -> Iterator[Sample]:
        own = list(self.parts[self.reader :: self.readers])
        passes = 0
        while True:
            order = own.copy()
            random.Random(f"parts {self.seed} {self.reader} {passes}").shuffle(order)
            found = False
            for part in order:
                for sample in self.read(part, self.said if passes == 0 else _silent):
                    found = True
                    yield sample
            if not found:
                what = f"none of {len(own)} part files has a sample that can be read."
                raise UsageError(what, where=str(own[0]), fix="make them again")
            passes += 1


def _silent(_: str) -> None:
    """What is left out has been said in the first pass."""
