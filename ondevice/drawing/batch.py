"""Draws every line of a file into a folder, with one session for all (docs/sessions.md).

Whenever it is killed nothing is half-written, and the same command goes on: a line whose picture is there, and is
right, is left as it is.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice import __version__, flags
from ondevice.diffusion.files import check_outputs
from ondevice.diffusion.picture_file import encoded, format_of, publish
from ondevice.drawing import drawer, films, line, outputs, say
from ondevice.drawing.batch_file import JOURNAL, Journal, Line, read_lines
from ondevice.drawing.resume import digest_of
from ondevice.errors import BatchError, OnDeviceError, UsageError

OF_ONE = {
    "--from": 'a line may have it: {"from": "a.png"}',
    "--checkpoint-every": "a batch goes on by itself, line by line",
    "--resume": "a batch goes on by itself",
    **dict.fromkeys(("--save-noise", "--save-latents"), "a line has one file"),
    **dict.fromkeys(("--profile", "--profile-out", "--trace"), "it is of one picture"),
}
"""Flags of `generate` that mean nothing for many pictures, and why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that say how a batch is drawn."""
    group = parser.add_argument_group("batch")
    group.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="draw with Ray: on this machine, or on the cluster at an address (needs the extra `ray`)",
    )
    group.add_argument("--workers", type=int, metavar="N", help="of Ray, each with a session of its own (default 2)")


@dataclass(frozen=True, slots=True)
class Work:
    """A line that is to be drawn: its flags, and the hash of all that its picture depends on."""

    line: Line
    args: argparse.Namespace
    key: str


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a line: its files' names and bytes, or why there are none."""

    work: Work
    files: list[tuple[str, bytes]]
    error: OnDeviceError | None = None


def run(args: argparse.Namespace, file: Path) -> int:
    """Draw the lines of `file` into the folder --out; say on stdout what became of each, as JSON.

    Raises:
        UsageError: the file or the folder cannot be used.
        BatchError: some lines were not drawn.
        OnDeviceError: of a line, under --strict.
    """
    folder = _folder(args)
    rows, draws = list(read_lines(file)), drawer.Drawer(args)
    draws.open(args.bundle)
    journal, counts = Journal(folder), {"drawn": 0, "kept": 0, "failed": 0}

    def told(number: int, status: str, **more: Any) -> None:
        counts[status] += 1
        print(json.dumps({"line": number, "status": status, **more}), flush=True)

    def failed(number: int, error: OnDeviceError) -> None:
        if args.strict:
            raise error
        say(f"error: line {number}: {error}")
        told(number, "failed", error=str(error))

    todo = []
    for row in rows:
        try:
            if not isinstance(row, Line):
                raise row[1]
            work = _prepared(row, args, draws, folder)
        except OnDeviceError as error:
            failed(row.number if isinstance(row, Line) else row[0], error)
            continue
        if kept := journal.files(work.key):
            told(row.number, "kept", files=kept)
        else:
            todo.append(work)
    for result in _results(todo, args, draws):
        if result.error is not None:
            failed(result.work.line.number, result.error)
            continue
        written = {}
        for name, data in result.files:
            publish(folder / name, data)
            written[name] = hashlib.sha256(data).hexdigest()
        journal.add(result.work.line, result.work.key, written)
        told(result.work.line.number, "drawn", files=list(written))
    print(json.dumps(counts), flush=True)
    if counts["failed"]:
        what = f"{counts['failed']} of {len(rows)} lines were not drawn."
        raise BatchError(what, where=str(file), fix="mend them and run the same command again: the others are kept")
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuse flags of one picture. Raises UsageError that names the flag."""
    for flag, why in OF_ONE.items():
        flags.refuse(args, [flag], f"many pictures are drawn; {why}.")
    if args.count != 1:
        raise UsageError("many pictures are drawn.", where="--count", fix=line.NOT_HERE["count"])
    if args.ray is None:
        flags.refuse(args, ["--workers"], "there is no Ray.")
    elif args.workers is not None and not 1 <= args.workers <= 1024:
        raise UsageError(f"no such number (got {args.workers}, expected 1 to 1024).", where="--workers", fix="use 2")


def draw(work: Work, draws: drawer.Drawer) -> list[tuple[str, bytes]]:
    """The files of a line, by name. Raises OnDeviceError where it cannot be drawn."""
    asked = draws.asked(work.args)
    outputs.check_for(work.args, asked.model.files.pipeline, asked.size, asked.request.numbers)
    (drawn,) = draws.draw(asked)
    draws.forget_mended()
    path, about = work.args.out, (drawn.parameters, drawn.scheduler)
    if drawn.picture.frames is None:
        assert drawn.picture.pixels is not None, "no other model goes on"
        return [(path.name, encoded(path, drawn.picture.pixels, *about))]
    return [(name.name, data) for name, data in films.files_of(path, list(drawn.picture.frames), drawn.rate, *about)]


def _folder(args: argparse.Namespace) -> Path:
    """--out as a folder that is there. Raises UsageError."""
    if args.out is None:
        raise UsageError("it is not said where the pictures go.", where="--out", fix="name a folder")
    folder = Path(args.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"no folder can be made there ({error.strerror})."
        raise UsageError(what, where=str(folder), fix="name another with --out") from None
    check_outputs({"--out": folder / JOURNAL}, bundle=args.bundle)
    return folder


def _prepared(row: Line, args: argparse.Namespace, draws: drawer.Drawer, folder: Path) -> Work:
    """The work of a line. Raises OnDeviceError for what cannot be asked for."""
    asked = draws.completed(line.args_of(row.words, args))
    asked.out = folder / row.file
    if not films.may_be_film(asked.out):
        format_of(asked.out)
    drawer.check(asked)
    inputs = drawer.inputs(asked)
    check_outputs({"--out": asked.out}, inputs, args.bundle)
    return Work(row, asked, _key(asked, draws, inputs))


def _key(args: argparse.Namespace, draws: drawer.Drawer, inputs: dict[str, Path | None]) -> str:
    """SHA-256 of all that a picture depends on: what is asked for, the contents of the files that it is drawn from, the
    models, and this version."""
    plain = {**vars(line.nothing_given()), "tile_vae": None, "max_memory": None, "runtime": None, "plans": None}
    asked = {name: str(getattr(args, name, None)) for name in plain}
    files = {flag: _digest(path) for flag, path in inputs.items() if path is not None and path.is_file()}
    models = [drawer.digest_of_model(draws.open(path).files) for path in (args.bundle, args.refiner) if path]
    whole = json.dumps([asked, files, models, args.out.name, __version__], sort_keys=True)
    return hashlib.sha256(whole.encode(errors="replace")).hexdigest()


def _digest(path: Path) -> str:
    """SHA-256 of a file that many lines may name."""
    stat = path.stat()
    return _digest_of(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(4096)
def _digest_of(path: Path, _changed: int, _size: int) -> str:
    return digest_of(path)


def _results(todo: Iterable[Work], args: argparse.Namespace, draws: drawer.Drawer) -> Iterator[Result]:
    """What becomes of each."""
    if args.ray is not None:
        from ondevice.drawing import ray_workers  # Ray is an extra

        yield from ray_workers.results(list(todo), args)
        return
    for work in todo:
        try:
            yield Result(work, draw(work, draws))
        except OnDeviceError as error:
            yield Result(work, [], error)
