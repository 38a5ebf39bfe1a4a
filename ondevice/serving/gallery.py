"""The pictures and films that a server drew: PNG and WebP files in one folder, each with what it was drawn with inside,
so that the folder is all there is and is read back at the next start.

Names that a request gives are looked up in what was read; none of them is ever made into a path.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ondevice.diffusion.infotext import read_infotext
from ondevice.diffusion.picture_file import publish
from ondevice.diffusion.picture_texts import read_texts
from ondevice.errors import UsageError

log = logging.getLogger(__name__)
MOST = 2000  # pictures that are shown, the newest ones; the rest stay in the folder
_OURS = {"negative": "negative_prompt", "guidance": "guidance_scale"}  # of the words of flags
ENDINGS = (".png", ".webp")
_NUMBERED = re.compile(r"(\d{1,9})\b.*\.(?:png|webp)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture: its file's name, its size in pixels, its parameters as they were written (`Picture.parameters` and
    what metadata say beside them), and the same as WebUI's text."""

    name: str
    width: int
    height: int
    parameters: dict[str, Any]
    text: str

    def to_json(self) -> dict[str, Any]:
        """As a page gets it."""
        return {
            "name": self.name,
            "width": self.width,
            "height": self.height,
            "parameters": self.parameters,
            "text": self.text,
        }


class Gallery:
    """The folder, which is made if it is not there. Any thread may use it.

    Raises:
        UsageError: it cannot be made, read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._turn = folder, threading.Lock()
        fix = "name another folder with --gallery"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = sorted((entry for entry in os.scandir(folder) if entry.name.endswith(ENDINGS)), key=_age)
        except OSError as error:
            what = f"no folder for pictures ({error.strerror or error})."
            raise UsageError(what, where=f"--gallery: {folder}", fix=fix) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError("pictures cannot be written there.", where=f"--gallery: {folder}", fix=fix)
        numbers = [int(match[1]) for entry in found if (match := _NUMBERED.fullmatch(entry.name))]
        self._last = max(numbers, default=0)
        read = (read_entry(Path(entry.path)) for entry in found[-MOST:] if entry.is_file(follow_symlinks=False))
        self._entries = {entry.name: entry for entry in read if entry is not None}

    def add(self, file: bytes, ending: str = ENDINGS[0]) -> Entry:
        """Write a picture's file, with one of ENDINGS, under a name that nobody has.

        Raises:
            UsageError: the folder does not take it; says where it is kept.
        """
        self._last += 1
        path = publish(self.folder / f"{self._last:06}{ending}", file, numbered=True)
        entry = read_entry(path)
        assert entry is not None, "it was written just now"
        with self._turn:
            self._entries[entry.name] = entry
            while len(self._entries) > MOST:
                del self._entries[next(iter(self._entries))]
        return entry

    def find(self, name: str) -> Path | None:
        """The file of a picture that is shown, if there is one of that name and it is still there."""
        with self._turn:
            known = name in self._entries
        path = self.folder / name if known else None
        return path if path is not None and path.is_file() else None

    def entry(self, name: str) -> Entry | None:
        """What is known of a picture."""
        with self._turn:
            return self._entries.get(name)

    def page(self, count: int, before: str | None = None) -> list[Entry]:
        """At most `count` pictures, the newest first; `before`: those that are older than the one of that name."""
        with self._turn:
            names = list(self._entries)[::-1]
            start = names.index(before) + 1 if before in self._entries else 0
            return [self._entries[name] for name in names[start : start + count]]


def _age(entry: os.DirEntry[str]) -> tuple[int, str]:
    try:
        return entry.stat(follow_symlinks=False).st_mtime_ns, entry.name
    except OSError:  # it is gone
        return 0, entry.name


def read_entry(path: Path) -> Entry | None:
    """What a PNG or WebP file says of itself; None for what is no picture. A file may come from anywhere."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=["PNG", "WEBP"]) as image:
            size, texts = image.size, dict(image.info)  # the texts before the pixels: none of these is decoded
        text, written = texts.get("parameters", ""), texts.get("ondevice", "{}")
        if path.suffix == ".webp":
            read = read_texts(path)
            text, written = read.infotext or "", read.own or "{}"
        own = json.loads(written)
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        log.warning("%s: not shown in the gallery (%s)", path.name, str(error)[:120] or type(error).__name__)
        return None
    text = text if isinstance(text, str) else ""
    about = own if isinstance(own, dict) else {}
    return Entry(path.name, *size, about or (_of_webui(text) if text else {}), text)


def _of_webui(text: str) -> dict[str, Any]:
    """What WebUI's text says, by the names that our own parameters have."""
    read = read_infotext(text)
    return {_OURS.get(name, name): value for name, value in read.fields.items()} | read.options
