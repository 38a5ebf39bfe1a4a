"""LoRA files that a server may draw with, by name: those of a folder, and those that the bundle carries.

A name that a request gives is looked up in what the folder holds; it is never made into a path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ondevice.errors import UsageError

ENDING = ".safetensors"
MOST = 2000  # files of the folder
LARGEST = 10.0  # scale
_IN_PROMPT = re.compile(r"<(lora|lyco):([^<>:]{1,200})(?::([^<>:]{1,40}))?(?::[^<>]{0,80})?>")
_OTHER = re.compile(r"<(hypernet):[^<>]{1,200}>")


class Adapters:
    """What may be asked for.

    Args:
        folder: of .safetensors files; None: there is none.
        carried: names that the bundle itself has, which come first.

    Raises:
        UsageError: there is no such folder.
    """

    def __init__(self, folder: Path | None, carried: Sequence[str] = ()) -> None:
        self._folder, self._carried = folder, tuple(carried)
        self._files()

    def names(self) -> list[str]:
        """All of them; the folder is read anew."""
        return [*self._carried, *(name for name in self._files() if name not in self._carried)]

    def file(self, name: str) -> Path | None:
        """The file of an adapter; None for one that the bundle carries.

        Raises:
            UsageError: there is none of that name.
        """
        if name in self._carried:
            return None
        files = self._files()
        if name not in files:
            have = ", ".join([*self._carried, *files][:20]) or "none"
            what = f"no such LoRA (got {name[:100]!r}, expected one of {have})."
            raise UsageError(what, where="adapters", fix=f"put {ENDING} files into the folder of --lora-dir")
        return files[name]

    def _files(self) -> dict[str, Path]:
        if self._folder is None:
            return {}
        try:
            with os.scandir(self._folder) as entries:
                paths = sorted(Path(entry.path) for entry in entries if entry.name.endswith(ENDING) and entry.is_file())
        except OSError as error:
            what = f"no folder of adapters ({error.strerror or error})."
            raise UsageError(what, where=f"--lora-dir: {self._folder}", fix="name another, or leave it out") from None
        return {path.name.removesuffix(ENDING): path for path in paths[:MOST]}


def from_prompt(prompt: str) -> tuple[str, list[tuple[str, float | None]]]:
    """A prompt without WebUI's `<lora:NAME:SCALE>`, and what these say: names and scales.

    Raises:
        UsageError: a scale is none, or another kind of network is named so.
    """
    if other := _OTHER.search(prompt):
        raise UsageError("only LoRA are drawn with here.", where=other[0][:80], fix="leave it out of the prompt")
    found: list[tuple[str, float | None]] = []
    for _, name, text in _IN_PROMPT.findall(prompt):
        try:
            scale = float(text or 1)
        except ValueError:
            scale = float("nan")
        if not abs(scale) <= LARGEST:
            what = f"no scale of a LoRA (got {text[:40]!r}, expected -{LARGEST:g} to {LARGEST:g})."
            raise UsageError(what, where=f"<lora:{name[:60]}>", fix="write such as 0.8")
        found.append((name, scale))
    return _IN_PROMPT.sub("", prompt), found
