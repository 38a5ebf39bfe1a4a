"""What `train` reads: captions of pictures, settings, part files and lists of them, shards and their names, rows that
part files are made of; and what a run has left: a checkpoint's state, and a log."""

from __future__ import annotations

import argparse
import gzip
import io
import itertools
import json
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from benchmarks.fuzz.mutate.data import havoc
from benchmarks.fuzz.mutate.values import json_value, lines_of, words_of_line
from benchmarks.fuzz.reader import Reader, Words, holds
from ondevice.diffusion.png import encode_png
from ondevice.errors import OnDeviceError
from ondevice.train import lora
from ondevice.train.films import films_of
from ondevice.train.labels import labels_of
from ondevice.train.part_files import LONGEST, Sample, Stream, parts_of, samples_of
from ondevice.train.part_writer import Asked, write_parts
from ondevice.train.pictures import METADATA, Cut, captioned
from ondevice.train.records import read_state, steps_of
from ondevice.train.settings import NEEDED, add_flags, settings_of
from ondevice.train.shards import Shards

_PICTURE = encode_png(np.linspace(0, 255, 35 * 3).reshape(5, 7, 3).astype(np.uint8), {})
_SHARDS = Shards()


def _lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _read_captions(data: bytes, folder: Path) -> None:
    (folder / "a.png").write_bytes(_PICTURE)
    (folder / METADATA).write_bytes(data)
    for one in captioned(folder, "data_dir"):
        holds(folder in one.path.parents and one.path.is_file(), "a picture is none of the folder's")
        holds(isinstance(one.caption, str), "a caption is no text")


def _read_films(data: bytes, folder: Path) -> None:
    (folder / "a.png").write_bytes(_PICTURE)
    (folder / METADATA).write_bytes(data)
    for one in films_of(folder, 7):
        holds(folder in one.path.parents and one.path.is_file(), "a film is none of the folder's")
        holds(type(one.motion) is int and one.motion >= 0 and type(one.fps) is int, "a film's numbers are none")


def _read_labels(data: bytes, folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(data)
    found = labels_of(folder / "a.jsonl", "caption")
    holds(len(found.captions) == len(found.places) > 0, "a caption says nothing")
    for places in found.places:
        for place, words in zip(places, found.words.values(), strict=True):
            holds(0 <= place < len(words), "a word is none of its name's")


_SETTINGS = {
    "data_dir": "a", "output_dir": "b", "pretrained_model_name_or_path": "demo", "rank": 8, "learning_rate": 1e-4,
    "target_modules": ["to_k", "to_q"], "random_flip": True, "snr_gamma": None, "lr_scheduler_name": "cosine",
    "n_epochs": 3.0, "seed": "7", "mixed_precision": "bf16",
}  # fmt: skip


def _read_settings(data: bytes, folder: Path) -> None:
    path = folder / "c.json"
    path.write_bytes(data)
    parser = argparse.ArgumentParser()
    add_flags(parser, lora.SETTINGS)
    found = settings_of(parser.parse_args([str(path)]), lora.SETTINGS)
    for one in itertools.chain(*lora.SETTINGS.values()):
        value = getattr(found, one.name)
        holds(value is not NEEDED, f"{one.name} is needed and missing")
        for single in value if one.several else (value,):
            holds(value == one.default or type(single) is one.kind, f"{one.name} is of another type")
            if one.kind in (int, float) and value is not None and value != one.default:
                holds(one.low <= single <= one.high, f"{one.name} is out of range")


def _check(samples: list[Sample]) -> None:
    for one in samples:
        holds(isinstance(one.caption, str) and one.picture, "a sample has no caption or picture")
        try:
            piece = Cut(8).read(io.BytesIO(one.picture), one.where, np.random.default_rng(0), one.whole)
        except OnDeviceError:
            continue
        holds(piece.pixels.shape == (3, 8, 8) and all(0 < side < 1 << 20 for side in piece.whole), "a piece is none")


def _read_part(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        path, said = folder / name, []
        path.write_bytes(data)
        found = list(itertools.islice(samples_of(path, said.append), 1000))
        _check(found)
        holds(all(len(one.picture) <= LONGEST for one in found), "a picture is larger than its line may be")
        again = list(itertools.islice(Stream([path], buffer=2, said=said.append), 3))
        holds({one.picture for one in again} <= {one.picture for one in found}, "a stream has other samples")

    return read


def _parts() -> list[bytes]:
    import base64

    coded = base64.b64encode(_PICTURE)
    return [b"a cat\t_\t%b\na dog\t\t%b\n" % (coded, coded), "größe\tx\t".encode() + coded + b"\textra\r\n\nbad\n"]


def _zipped(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """The same inside, or the bytes of the file changed."""
    if rng.random() < 0.5:
        return havoc(data, rng, other, words)
    try:
        return gzip.compress(havoc(gzip.decompress(data), rng, other, words), 1, mtime=0)
    except (OSError, EOFError, ValueError, zlib.error):
        return havoc(data, rng, other, words)


def _read_list(data: bytes, folder: Path) -> None:
    (folder / "part-0").write_bytes(b"a")
    (folder / "x.filelist").write_bytes(b"part-0\n")
    for name in ("y.filelist", "y.filelist.list"):
        (folder / name).write_bytes(data)
        try:
            found = parts_of(folder / name)
        except OnDeviceError:
            continue
        holds(found and all(one.is_file() for one in found), "a part is no file")


def _shard(*files: tuple[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return made.getvalue()


def _shards() -> list[bytes]:
    about = json.dumps({"caption": "a dog", "original_width": 640, "original_height": 480}).encode()
    small = io.BytesIO()
    Image.new("RGB", (4, 6)).save(small, "JPEG")
    one = _shard(("a/1.png", _PICTURE), ("a/1.txt", b"a cat"), ("a/2.jpg", small.getvalue()), ("a/2.json", about))
    return [one, _shard(("1.PNG", _PICTURE), ("1.json", b"{}"), ("x", b""), ("2.txt", b"alone"))]


def _tar(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """Bytes changed, a content under its header changed, or members of two files put together."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    kind = rng.random()
    if kind < 0.4 or not blocks:
        return havoc(data, rng, other, words)
    at = rng.randrange(len(blocks))
    if kind < 0.7:
        header = bytearray(blocks[at].ljust(512, b"\0"))
        changed = havoc(bytes(header), rng, other, words)[:512].ljust(512, b"\0")
        header[:] = changed
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)  # as a tar file's check wants it
        blocks[at] = bytes(header)
    else:
        begin = 512 * rng.randrange(len(other) // 512 + 1)
        blocks[at:at] = [other[begin : begin + 1024]]
    return b"".join(blocks)


def _read_shard(data: bytes, folder: Path) -> None:
    path, said = folder / "a.tar", []
    path.write_bytes(data)
    _check(list(itertools.islice(_SHARDS.samples_of(str(path), said.append), 1000)))


def _read_names(data: bytes, folder: Path) -> None:
    (folder / "0.tar").write_bytes(b"")
    text = data.decode("utf-8", "replace")
    found = _SHARDS.named(f"{folder}/{text}" if "::" not in text else text, "train_shards_path_or_url")
    holds(all(Path(one).is_file() for one in found), "a shard is no file")


def _read_rows(data: bytes, folder: Path) -> None:
    (folder / "a.png").write_bytes(_PICTURE)
    (folder / "rows.jsonl").write_bytes(data)
    shutil.rmtree(folder / "out", ignore_errors=True)  # of the input before
    said: list[str] = []
    lists = write_parts(Asked(folder / "rows.jsonl", per_part=2), folder / "out", said.append)
    for part in parts_of(lists):
        found = list(samples_of(part, said.append))
        holds(found, "a part that was written cannot be read")
        _check(found)


_STATE = {
    "format": 1, "recipe": "lora", "step": 6, "seed": 7, "settings": {"rank": 4}, "averaged": 6,
    "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
}  # fmt: skip


def _read_state(data: bytes, folder: Path) -> None:
    (folder / "state.json").write_bytes(data)
    found = read_state(folder / "state.json", "lora")
    holds(all(type(found[key]) is int and 0 <= found[key] < 1 << 63 for key in ("step", "seed")), "a number is none")
    holds(found["averaged"] is None or type(found["averaged"]) is int, "the average's steps are no number")
    holds(all(type(one) in (int, float) for one in (found["scaler"] or {}).values()), "the scaler's are none")


def _read_log(data: bytes, folder: Path) -> None:
    (folder / "log.jsonl").write_bytes(data)
    found = list(steps_of(folder / "log.jsonl", 5))
    holds(all(0 <= row["step"] <= 5 for row in found), "a row is of another step")
    json.dumps(found, default=str)


READERS = (
    Reader(
        "captions",
        lambda: [_lines({"file_name": "a.png", "text": "a cat"}, {"file_name": "b.png", "text": "ö"})],
        lines_of(json_value),
        _read_captions,
    ),
    Reader("films", lambda: [_lines({"file_name": "a.png", "motion_bucket_id": 3, "fps": 7})], lines_of(json_value),
           _read_films),
    Reader("labels", lambda: [_lines({"caption": "a red cat", "colour": "red"}, {"colour": "", "caption": "b"})],
           lines_of(json_value), _read_labels),
    Reader("training_settings", lambda: [json.dumps(_SETTINGS).encode()], json_value, _read_settings),
    Reader("part", _parts, havoc, _read_part("part-0"), memory=64 << 20),
    Reader("part_gz", lambda: [gzip.compress(one, mtime=0) for one in _parts()], _zipped, _read_part("part-0.gz"),
           memory=256 << 20),
    Reader("part_list", lambda: [b"part-0\nx.filelist\n", b"x.filelist\n", b"part-0\r\n\n"], havoc, _read_list),
    Reader("shard", _shards, _tar, _read_shard, memory=64 << 20),
    Reader("shard_names", lambda: [b"{0..0}.tar", b"{0,0}.tar", b"{00..2}.tar::pipe:ls", b"0.tar"], words_of_line,
           _read_names, memory=256 << 20),
    Reader("caption_rows", lambda: [_lines({"caption": "a cat", "image": "a.png"}, {"caption": "b", "image": "c"})],
           lines_of(json_value), _read_rows),
    Reader("training_state", lambda: [json.dumps(_STATE).encode()], json_value, _read_state),
    Reader("training_log", lambda: [_lines({"step": 1, "loss": 0.5}, {"begun": 0}, {"step": 7, "loss": 1.0})],
           lines_of(json_value), _read_log),
)  # fmt: skip
