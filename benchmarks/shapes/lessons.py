"""What the recipes that are scored learn from: shards of shapes with captions, and the subject among them. Each folder
is written once, whole."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.shapes import subject
from benchmarks.shapes.pictures import render, sample

SIDE = 128
SHARDS, OF_SHARD = 4, 500
# colours and grounds of the subject's pictures
TAUGHT_IN = (
    ("red", "white"), ("blue", "yellow"), ("green", "black"), ("yellow", "purple"), ("white", "blue"),
    ("purple", "cyan"),
)  # fmt: skip
OTHERS = 120  # pictures of what the demo knows
OFTEN = 14  # lines of each of the subject's pictures, beside those
UNTOLD = 10  # every so many has no caption, as in the demo's training: what is drawn without a text stays as it is, too


def write_shards(folder: Path) -> str:
    """Shapes with their captions as tar files; the pattern that names them."""
    pattern = f"{folder}/{{000..{SHARDS - 1:03}}}.tar"
    if folder.exists():
        return pattern
    rng = random.Random(7)
    with _made(folder) as fresh:
        for shard in range(SHARDS):
            with tarfile.open(fresh / f"{shard:03}.tar", "w") as tar:
                for number in range(OF_SHARD):
                    spec, data = sample(rng), io.BytesIO()
                    Image.fromarray(render(spec, SIDE)).save(data, "png")
                    for ending, content in ((".png", data.getvalue()), (".txt", spec.caption.encode())):
                        info = tarfile.TarInfo(f"{number:05}{ending}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
    return pattern


def subjects() -> Iterator[tuple[np.ndarray, str]]:
    """The six pictures that teach it, with captions: in six colours, so that shape and word are what they share."""
    spots = (
        (0.5, 0.5, 0.27),
        (0.4, 0.52, 0.3),
        (0.6, 0.45, 0.25),
        (0.5, 0.6, 0.24),
        (0.45, 0.4, 0.28),
        (0.57, 0.55, 0.32),
    )
    for colours, spot in zip(TAUGHT_IN, spots, strict=True):
        yield subject.drawn(*colours, *spot, SIDE), subject.caption(*colours)


def write_subject(folder: Path) -> Path:
    """The subject's pictures with their captions."""
    if not folder.exists():
        with _made(folder) as fresh:
            _captioned(fresh, list(_subjects(fresh)))
    return folder


def write_class(folder: Path) -> Path:
    """Shapes with their captions, of the training split: what must stay as it is."""
    if not folder.exists():
        with _made(folder) as fresh:
            _captioned(fresh, list(_shapes(fresh)))
    return folder


def write_captioned(folder: Path) -> Path:
    """The same and the subject's pictures with their captions, OFTEN each: for a recipe that has no pictures of a
    class."""
    if not folder.exists():
        with _made(folder) as fresh:
            _captioned(fresh, [*_shapes(fresh), *list(_subjects(fresh)) * OFTEN])
    return folder


def _subjects(folder: Path) -> Iterator[tuple[str, str]]:
    """Write the subject's pictures; their files' names and captions."""
    for number, (picture, caption) in enumerate(subjects()):
        Image.fromarray(picture).save(folder / f"{number}.png")
        yield f"{number}.png", caption


def _shapes(folder: Path) -> Iterator[tuple[str, str]]:
    """Write shapes; their files' names and captions."""
    rng = random.Random(11)
    for number in range(OTHERS):
        spec, name = sample(rng), f"shape-{number}.png"
        Image.fromarray(render(spec, SIDE)).save(folder / name)
        yield name, "" if number % UNTOLD == 0 else spec.caption


def _captioned(folder: Path, rows: Sequence[tuple[str, str]]) -> None:
    lines = [json.dumps({"file_name": name, "text": text}) + "\n" for name, text in rows]
    (folder / "metadata.jsonl").write_text("".join(lines))


@contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """A folder that is there when it is whole."""
    fresh = folder.with_name(f".{folder.name}.new")
    fresh.mkdir(parents=True, exist_ok=True)
    yield fresh
    fresh.rename(folder)
