"""What runs read that go on where others ended: texts in pictures, states of loops, lines of batches and journals."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, PngImagePlugin

from benchmarks.fuzz.mutate.chunks import jpeg, png, riff
from benchmarks.fuzz.mutate.data import havoc
from benchmarks.fuzz.mutate.values import json_value
from benchmarks.fuzz.reader import Mutate, Reader, Words, holds
from ondevice.diffusion.infotext import read_infotext
from ondevice.diffusion.loop_state import MAGIC, Kept, LoopState, read_kept, write_kept
from ondevice.diffusion.parameters_read import read_parameters
from ondevice.diffusion.picture_file import encoded
from ondevice.diffusion.samplers import make_table
from ondevice.drawing.batch_file import JOURNAL, Journal, Line, read_lines
from ondevice.drawing.line import args_of, nothing_given

_folder = tempfile.TemporaryDirectory()  # gone when the process ends
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
_PARAMETERS = {
    "prompt": 'a cat, "sitting"', "negative_prompt": "dog", "sampler": "euler", "steps": 20, "guidance_scale": 7.5,
    "seed": 1, "width": 512, "height": 512, "model": "sd14", "version": "0.1", "use_karras_sigmas": True, "eta": 0.5,
    "init_image": "a.png", "pictures": "pose=b.png, depth=c.png", "sigmas": [1.0, 0.5], "strength": 0.5,
}  # fmt: skip
_TEXTS = (
    b"a cat <lora:x:1>\nNegative prompt: dog\nSteps: 20, Sampler: DPM++ 2M SDE Karras, Schedule type: Karras, "
    b'CFG scale: 7, Seed: 1, Size: 512x512, Model: "a, b", Clip skip: 2, ENSD: 31337, Variation seed: 4, RNG: CPU',
    b"x\nSteps: 5, Sampler: UniPC, UniPC order: 3, UniPC variant: bh1, Denoising strength: 0.4, Hires upscale: 2",
)


def _pictures(name: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        pixels = np.zeros((2, 3, 3), np.uint8)
        written = [encoded(Path(name), pixels, more) for more in (_PARAMETERS, _PARAMETERS | {"prompt": "猫"})]
        info, file = None, io.BytesIO()
        if name.endswith(".png"):
            info = PngImagePlugin.PngInfo()
            info.add_text("parameters", _TEXTS[0].decode(), zip=True)
            info.add_itxt("ondevice", json.dumps(_PARAMETERS), zip=True)
            Image.fromarray(pixels).save(file, "PNG", pnginfo=info)
            written.append(file.getvalue())
        return written

    return seeds


def _read_picture(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        path = folder / name
        path.write_bytes(data)
        found = read_parameters(path)
        holds(all(isinstance(word, str) for word in found.fields), "a word is no text")
        json.dumps(found.fields)
        args_of(found.fields, nothing_given())

    return read


def _read_infotext(data: bytes, _folder: Path) -> None:
    found = read_infotext(data.decode("utf-8", errors="replace"))
    holds(0 < found.fields.get("steps", 1) <= 1000, "steps are out of range")
    holds(0 <= found.fields.get("variation_strength", 0) <= 1, "a part is out of range")
    holds(not any("\n" in name for name in found.pictures), "a name of a picture has two lines")
    args_of(found.fields, nothing_given())


_TABLE = make_table("dpmpp_2m", 3, _BETAS)
_SHAPE = (1, 4, 2, 2)
_KEYS = {"request": "00", "model": "11"}


def _states() -> list[bytes]:
    seeds, path = [], Path(_folder.name) / "a.resume"
    for call in (1, 3):
        made = {0} | {row.slot for one in _TABLE.calls[:call] for row in one.rows}
        slots = tuple(np.full(_SHAPE if i in made else 0, 0.5, np.float32) for i in range(_TABLE.slots))
        write_kept(path, Kept(_KEYS, LoopState(call, slots, (32, 0.25 if call > 1 else None))))
        seeds.append(path.read_bytes())
    write_kept(path, Kept(_KEYS, files={"a.png": "22"}))
    return [*seeds, path.read_bytes()]


def _state_changed(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """The header as JSON, half the time; and a checksum that is right again."""
    place, body = len(MAGIC), data[:-32]
    length = struct.unpack("<I", body[place : place + 4].ljust(4, b"\0"))[0]
    header, rest = body[place + 4 : place + 4 + length], body[place + 4 + length :]
    if rng.random() < 0.6:
        header = json_value(header, rng, other[place + 4 : place + 4 + length], words)
        body = MAGIC + len(header).to_bytes(4, "little") + header + rest
    else:
        body = havoc(body, rng, other[:-32], words)
    return body + (hashlib.sha256(body).digest() if rng.random() < 0.9 else data[-32:])


def _read_state(data: bytes, folder: Path) -> None:
    path = folder / "a.resume"
    path.write_bytes(data)
    state = read_kept(path, _KEYS, _TABLE, _SHAPE).state
    if state is not None:
        holds(0 < state.call <= len(_TABLE.calls) and len(state.slots) == _TABLE.slots, "a call that is none")
        holds(all(slot.shape in ((0,), _SHAPE) for slot in state.slots), "a slot of another shape")


_LINES = (
    b'{"prompt": "a", "seed": 1, "size": "64x64", "name": "cat"}\n{"prompt": "x", "set": {"eta": 0}, "karras": true}',
    b'{"prompt": "y", "sigmas": [14.6, 3], "picture": {"pose": "a.png"}, "number": ["a=1"], "init_image": "b.png"}',
)


def _lines_changed(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """A line as JSON, and now and then bytes of all."""
    lines, others = data.split(b"\n"), other.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = json_value(lines[at], rng, rng.choice(others), words)
    return b"\n".join(lines) if rng.random() < 0.9 else havoc(data, rng, other, words)


def _read_lines(data: bytes, folder: Path) -> None:
    path = folder / "lines.jsonl"
    path.write_bytes(data)
    refused = None
    for row in read_lines(path):
        if not isinstance(row, Line):
            refused = row[1]
            continue
        holds(Path(row.file).name == row.file and len(row.file) < 200, "a name that leads elsewhere")
        args_of(row.words, nothing_given())
    if refused is not None:
        raise refused


def _read_journal(data: bytes, folder: Path) -> None:
    (folder / JOURNAL).write_bytes(data)
    journal = Journal(folder)
    holds(not journal.files("k"), "files that are not there are believed")


def _json_lines() -> list[bytes]:
    row = {"line": 1, "name": "a.png", "key": "k", "files": {"a.png": "00"}}
    return [json.dumps(row).encode() + b"\n", json.dumps(row | {"key": "l"}).encode()]


_MUTATES: dict[str, Mutate] = {"a.png": png, "a.jpg": jpeg, "a.webp": riff}

READERS = (
    *(
        Reader(f"{name[2:]}_texts", _pictures(name), mutate, _read_picture(name), memory=48 << 20)
        for name, mutate in _MUTATES.items()
    ),
    Reader("infotext", lambda: list(_TEXTS), havoc, _read_infotext),
    Reader("resume", _states, _state_changed, _read_state),
    Reader("batch", lambda: list(_LINES), _lines_changed, _read_lines),
    Reader("journal", _json_lines, _lines_changed, _read_journal),
)
