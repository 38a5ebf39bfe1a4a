"""Adapters (LoRA and its kin) that a picture is drawn with."""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

from ondevice.bundle.reader import Bundle
from ondevice.diffusion.adapters import LARGEST, Loaded, changed_keys, open_adapter
from ondevice.diffusion.model_files import ModelFiles
from ondevice.diffusion.pipeline import Pipeline
from ondevice.drawing import say
from ondevice.drawing.resume import digest_of
from ondevice.errors import StrictError, UsageError

FLAG = "--lora"
Asked = list[tuple[Loaded, float | None]]  # None: its own scale


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of adapters."""
    group = parser.add_argument_group("adapters")
    group.add_argument(
        FLAG,
        action="append",
        metavar="FILE_OR_NAME[:SCALE]",
        help="draw with an adapter (LoRA, LoCon, LoHa): a file, or one that the bundle carries by its name; at a scale "
        "(default: its own, of a file 1); several may be given (docs/adapters.md)",
    )


class Known:
    """Adapters that were opened, so that a batch of pictures opens each once; a file that changed is another one."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], Loaded] = {}

    def read(self, args: argparse.Namespace, files: ModelFiles) -> Asked:
        """The adapters that are asked for, each with its scale if one was given. What was found is said.

        Raises:
            UsageError: the model takes none, two have one name, or a scale is none.
            CheckpointError: a file is no adapter, or for another model.
            StrictError: with --strict, a file has modules for no weight.
        """
        given = args.lora or ()
        if given and not isinstance(files, Bundle):
            raise UsageError("it changes a bundle's weights.", where=FLAG, fix="leave it out, or draw from a bundle")
        found: Asked = []
        for one in given:
            assert isinstance(files, Bundle)
            source, scale = _split(one, files)
            adapter = self._opened(files, source)
            if any(adapter.name == other.name for other, _ in found):
                what = f"two adapters are called {adapter.name}."
                raise UsageError(what, where=FLAG, fix="rename one of the files, or name each once")
            found.append((adapter, scale))
        rest = [adapter.rest for adapter, _ in found if adapter.rest]
        if rest and args.strict:
            fix = "leave --strict out, or use adapters of this model"
            raise StrictError("; ".join(rest) + ".", where=FLAG, fix=fix)
        return found

    def _opened(self, files: Bundle, source: str) -> Loaded:
        path = Path(source).expanduser()
        stat = path.stat() if path.is_file() else None
        key = files.path, source, stat and (stat.st_mtime_ns, stat.st_size)
        if key not in self._found:
            self._found[key] = open_adapter(files, source)
            say(str(self._found[key]))
            if rest := self._found[key].rest:
                say(rest)
        return self._found[key]


def digest(adapters: Asked) -> str:
    """What these are: names, scales, and the SHA-256 of their files; what a bundle carries is the bundle's."""
    found = hashlib.sha256()
    for adapter, scale in adapters:
        found.update(repr((adapter.name, scale)).encode())
        for file in adapter.files:
            found.update(digest_of(file).encode())
    return found.hexdigest() if adapters else ""


def paths(args: argparse.Namespace) -> dict[str, Path]:
    """The files of those that are no names of carried ones, by flag."""
    found: dict[str, Path] = {}
    for given in args.lora or ():
        candidates = (Path(text).expanduser() for text in (given, given.rpartition(":")[0]) if text)
        path = next((path for path in candidates if path.exists()), None)
        for file in () if path is None else sorted(path.iterdir()) if path.is_dir() else (path,):
            found[f"{FLAG} {file}"] = file
    return found


def use(pipeline: Pipeline, adapters: Asked) -> None:
    """Draw with these from now on, and no others."""
    for adapter, _ in adapters:
        pipeline.adapters.load(adapter)
    if pipeline.takes_adapters:
        pipeline.adapters.use([one.name for one, _ in adapters], [scale for _, scale in adapters])


def between(adapters: Asked, ends: Sequence[int | None], part: float) -> list[tuple[str, float]]:
    """Names and scales at a part of the way, 0 to 1, from one adapter to another: at 0 the first of `ends` is at its
    own scale and the second at none, at 1 the other way round; all others are at their own.

    Args:
        ends: their places among `adapters`, None for an end without one.
    """
    of_ends = {place: weight for place, weight in zip(ends, (1 - part, part), strict=True) if place is not None}
    scales = [adapter.scale if scale is None else scale for adapter, scale in adapters]
    weighted = [scale * of_ends.get(place, 1.0) for place, scale in enumerate(scales)]
    return [(adapter.name, scale) for (adapter, _), scale in zip(adapters, weighted, strict=True)]


def changed(adapters: Asked, files: ModelFiles) -> frozenset[str]:
    """The stored weights that these change."""
    return changed_keys(files, [adapter for adapter, _ in adapters]) if isinstance(files, Bundle) else frozenset()


def _split(given: str, bundle: Bundle) -> tuple[str, float | None]:
    """`style:0.8` as ("style", 0.8); without a scale None. Raises UsageError where that is no number."""
    source, colon, text = given.rpartition(":")
    if not colon or given in bundle.manifest.adapters or Path(given).expanduser().exists():
        return given, None
    try:
        scale = float(text)
    except ValueError:
        return given, None  # a name with a colon in it, which is not there
    if not math.isfinite(scale) or abs(scale) > LARGEST:
        raise UsageError(f"{text!r} is no scale (expected a number such as 0.8).", where=FLAG, fix=f"use {FLAG} FILE:1")
    return source, scale
