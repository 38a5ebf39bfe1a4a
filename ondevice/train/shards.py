"""WebDataset shards: tar files in which the files of a sample have one name and several endings, read as a stream.

A picture is .jpg, .jpeg, .png or .webp; a caption is .txt, or `caption` of .json, in which `original_width` and
`original_height` may say how large the picture was before it was made smaller. Shards are named as the scripts of
latent consistency distillation name them: paths with `{00000..00031}` or `{a,b}`, several behind `::`; http and https
addresses and `pipe:COMMAND`, which runs a program, where that was asked for.
"""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ondevice.base.paths import is_file
from ondevice.errors import UsageError
from ondevice.train.part_files import LONGEST, Said, Sample

PICTURES, TEXT, JSON = (".jpg", ".jpeg", ".png", ".webp"), ".txt", ".json"
PIPE, WEB = "pipe:", ("http://", "https://")
_MOST_SHARDS = 1 << 17
_MOST_TEXT = 1 << 25  # characters of all their names
_MOST = 1 << 20  # bytes of a caption
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_PATIENCE = 60.0  # seconds for an address to answer
_NAMING = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
"""Members that hold names and facts of the next one, which tarfile reads as a whole."""


class _Member(tarfile.TarInfo):
    """A member, of which no more is read with its header than a caption may have."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _NAMING and self.size > _MOST:
            raise tarfile.ReadError(f"a name in it is longer than {_MOST >> 20} MB")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("it has a file with holes")
        return super()._proc_member(tar)  # type: ignore[misc]

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise tarfile.ReadError("it has a file with holes")


@dataclass(frozen=True, slots=True)
class Shards:
    """What may be read, and how.

    Args:
        addresses: whether http and https addresses are opened.
        pipes: whether programs are run.
    """

    addresses: bool = False
    pipes: bool = False

    def named(self, text: str, flag: str) -> list[str]:
        """The shards that a pattern names. Raises UsageError for one that is not there, or was not asked for."""
        found = [one for pattern in text.split("::") for one in _expanded(pattern, flag)]
        for one in found:
            if one.startswith(PIPE) and not self.pipes:
                what = f"the data is what a program writes (got {one})."
                raise UsageError(what, where=f"--{flag}", fix="give --allow_pipes if you trust it, or paths")
            if one.startswith(WEB) and not self.addresses:
                what = f"the data is at an address (got {one})."
                raise UsageError(what, where=f"--{flag}", fix="give --allow_urls, or paths")
            if not one.startswith((PIPE, *WEB)) and not is_file(Path(one)):
                raise UsageError(f"there is no file {one}.", where=f"--{flag}", fix="give a path of tar files")
        return found

    def samples_of(self, shard: str, said: Said) -> Iterator[Sample]:
        """The samples of a shard, in its order. What cannot be read is told to `said`, and left out: a file, or from
        where it is damaged on the rest of the shard."""
        files: dict[str, bytes] = {}
        current = ""
        try:
            with _opened(shard) as stream, tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Member) as tar:
                for member in tar:
                    folder, _, name = member.name.rpartition("/")
                    stem, dot, ending = name.partition(".")
                    if not member.isfile() or not stem or not dot:
                        continue
                    if (key := f"{folder}/{stem}") != current:
                        yield from _sample(files, f"{shard}, {current}", said)
                        files, current = {}, key
                    most = _MOST if ending in ("txt", "json") else LONGEST
                    if member.size > most:
                        said(f"{shard}, {member.name}: it is larger than {most >> 20} MB; left out")
                    elif f".{ending.lower()}" in (*PICTURES, TEXT, JSON) and (file := tar.extractfile(member)):
                        files[f".{ending.lower()}"] = file.read(most)
            yield from _sample(files, f"{shard}, {current}", said)
        except (OSError, EOFError, tarfile.TarError, ValueError, subprocess.SubprocessError) as error:
            said(f"{shard}: it cannot be read on after {current or 'its beginning'} ({error}); left out")


def _expanded(pattern: str, flag: str) -> list[str]:
    found = [pattern]
    while match := next((found_in for one in found if (found_in := _BRACES.search(one))), None):
        if bounds := _RANGE.fullmatch(match[1]):
            numbers = range(int(bounds[1]), int(bounds[2]) + 1)
            words = [f"{number:0{len(bounds[1])}}" for number in numbers[: _MOST_SHARDS + 1]]
        else:
            words = match[1].split(",")
        count = len(found) * len(words)
        if not words or count > _MOST_SHARDS or count * len(pattern) > _MOST_TEXT:
            what = f"it names no shards, or too many (got {match[0]}, expected up to {_MOST_SHARDS})."
            raise UsageError(what, where=f"--{flag}", fix="write such as {00000..00031}")
        found = [one.replace(match[0], word, 1) for one in found for word in words]
    return found


@contextmanager
def _opened(shard: str) -> Iterator[IO[bytes]]:
    if shard.startswith(PIPE):
        with subprocess.Popen(shard.removeprefix(PIPE), shell=True, stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            try:
                yield program.stdout
            finally:
                program.stdout.close()
                program.terminate()
        return
    if shard.startswith(WEB):
        with urllib.request.urlopen(shard, timeout=_PATIENCE) as answer:
            yield answer
        return
    with open(shard, "rb") as file:
        yield file


def _sample(files: dict[str, bytes], where: str, said: Said) -> Iterator[Sample]:
    """The sample of a name's files, where they make one."""
    if not files:
        return
    picture = next((files[ending] for ending in PICTURES if ending in files), None)
    about = _about(files.get(JSON, b"{}"))
    try:
        caption = files[TEXT].decode("utf-8").strip() if TEXT in files else about.get("caption")
    except ValueError:
        caption = None
    if picture and isinstance(caption, str):
        whole: list[Any] = [about.get(f"original_{side}") for side in ("height", "width")]
        known = all(type(one) is int and 0 < one < 1 << 20 for one in whole)
        yield Sample(caption, picture, where, (whole[0], whole[1]) if known else None)
    else:
        said(f"{where}: it has no {'caption' if picture else 'picture'}; left out")


def _about(data: bytes) -> dict[str, Any]:
    """What a sample's .json says; nothing where it is no object."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
