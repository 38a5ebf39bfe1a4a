"""What `generate` takes: latents and pictures; and what it writes into a picture, as another tool reads it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from benchmarks.fuzz.mutate.chunks import jpeg, npy, png, riff
from benchmarks.fuzz.mutate.data import havoc
from benchmarks.fuzz.mutate.values import json_value
from benchmarks.fuzz.reader import Reader, holds
from ondevice.diffusion.frame_files import MADE, digest, read_frame
from ondevice.diffusion.image import resize
from ondevice.diffusion.init_image import MEMORY, read_image
from ondevice.diffusion.latents_file import read_latents
from ondevice.diffusion.parameters import describe
from ondevice.diffusion.png import encode_png


def _npy_seeds() -> list[bytes]:
    seeds = []
    for array in (
        np.zeros((1, 4, 2, 2), np.float32),
        np.asfortranarray(np.ones((1, 2, 3), np.float16)),
        np.arange(3),
        np.float32(2),
    ):
        file = io.BytesIO()
        np.save(file, array)
        seeds.append(file.getvalue())
    zipped = io.BytesIO()
    np.savez(zipped, a=np.zeros(2))
    return [*seeds, zipped.getvalue()]


def _read_npy(data: bytes, folder: Path) -> None:
    path = folder / "l.npy"
    path.write_bytes(data)
    array = read_latents(path)
    holds(array.nbytes <= max(len(data), 1), "an array is larger than its file")
    holds(
        array.dtype.kind == "f" and array.nbytes == array.size * array.itemsize,
        "latents that are no numbers were taken",
    )


_MOST = MEMORY + (32 << 20)  # what the reader promises, and what an allocator keeps
_GREY = np.linspace(0, 255, 35).reshape(5, 7)


def _pictures(form: str, *modes: str, **options: Any) -> list[bytes]:
    pictures = []
    for mode in modes:
        file = io.BytesIO()
        image = (
            Image.fromarray(_GREY.astype(np.uint16))
            if mode == "I;16"
            else Image.fromarray(_GREY.astype(np.uint8)).convert(mode)
        )
        more = {"exif": _turned()} if form in ("JPEG", "WEBP", "PNG") and mode == "RGB" else {}
        image.save(file, form, **options, **more)
        pictures.append(file.getvalue())
    return pictures


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    return exif.tobytes()


def _png_seeds() -> list[bytes]:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "a cat\nSteps: 2")
    texts.add_itxt("x", "é", zip=True)
    return [
        *_pictures("PNG", "RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
        *_pictures("PNG", "P", transparency=3, pnginfo=texts),
    ]


def _tiff_seeds() -> list[bytes]:
    return [
        *_pictures("TIFF", "RGB", "CMYK", "I;16", "P"),
        *_pictures("TIFF", "RGBA", "LA", compression="tiff_lzw"),
        *_pictures("TIFF", "RGB", compression="jpeg"),
    ]


def _read(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        path = folder / name
        path.write_bytes(data)
        pixels = read_image(path)
        holds(
            pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size,
            "a picture is no uint8[h, w, 3]",
        )
        if pixels.size < 1 << 16:
            holds(resize(pixels, 8, 8).shape == (8, 8, 3), "a picture cannot be resized")

    return read


_PARAMETERS = {
    "prompt": 'a cat, "sitting": on\na mat',
    "negative_prompt": "dog",
    "sampler": "euler",
    "steps": 20,
    "guidance_scale": 7.5,
    "seed": 1,
    "width": 512,
    "height": 512,
    "model": "sd14",
    "version": "0.1",
}
# How AUTOMATIC1111 takes the last line apart (modules/infotext_utils.py).
_FIELD = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def _read_parameters(data: bytes, _folder: Path) -> None:
    """Texts and numbers of whatever content come back as they were given."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(value, dict):
        return
    numbers = {
        key: value[key]
        for key in ("steps", "seed", "width", "height")
        if type(value.get(key)) is int and abs(value[key]) < 1 << 64
    }
    texts = {key: value[key] for key in ("prompt", "negative_prompt", "model") if isinstance(value.get(key), str)}
    if {"width", "height"} - numbers.keys():
        numbers.pop("width", None)
    if not all(text.replace("\n", "").isprintable() for text in texts.values()):
        return
    *_, last = describe({**texts, **numbers, "sampler": "euler"}).split("\n")
    fields = {key: _unquoted(text) for key, text in _FIELD.findall(last)}
    expected = {
        "Steps": numbers.get("steps"),
        "Seed": numbers.get("seed"),
        "Model": texts.get("model", "").replace("\0", "") or None,
    }
    for key, given in expected.items():
        if given is not None and str(given).strip():
            holds(
                fields.get(key) == str(given).strip(),
                f"{key} comes back as {fields.get(key)!r:.80} (given {given!r:.80})",
            )


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text)).strip() if text.startswith('"') and text.endswith('"') else text.strip()
    except ValueError:
        return text


_FRAME, _FROM = np.repeat(_GREY[..., None], 3, 2).astype(np.uint8), {"part": 0.5}


def _frame_seeds() -> list[bytes]:
    made = {MADE: digest(_FROM, _FRAME)}
    files = []
    for own in (made, {**made, "prompt": "a cat"}, {MADE: digest({}, _FRAME)}):
        files.append(encode_png(_FRAME, {"ondevice": json.dumps(own)}))
    return files


def _read_frame(data: bytes, folder: Path) -> None:
    """A frame is taken for what it was made from only with the pixels that it had then."""
    path = folder / "frame.png"
    path.write_bytes(data)
    found = read_frame(path, (_FRAME.shape[1], _FRAME.shape[0]), _FROM)
    holds(found is None or np.array_equal(found[0], _FRAME), "another picture is taken for the frame")


READERS = (
    Reader("npy", _npy_seeds, npy, _read_npy),
    Reader("png", _png_seeds, png, _read("i.png"), memory=_MOST),
    Reader("jpeg", lambda: _pictures("JPEG", "RGB", "L", "CMYK"), jpeg, _read("i.jpg"), memory=_MOST),
    Reader(
        "webp",
        lambda: [*_pictures("WEBP", "RGB", "RGBA"), *_pictures("WEBP", "RGB", lossless=True)],
        riff,
        _read("i.webp"),
        memory=_MOST,
    ),
    Reader("bmp", lambda: _pictures("BMP", "RGB", "L", "P", "1"), havoc, _read("i.bmp"), memory=_MOST),
    Reader("gif", lambda: _pictures("GIF", "RGB", "L", "P"), havoc, _read("i.gif"), memory=_MOST),
    Reader("tiff", _tiff_seeds, havoc, _read("i.tif"), memory=_MOST),
    Reader("frame", _frame_seeds, png, _read_frame, memory=_MOST),
    Reader("parameters", lambda: [json.dumps(_PARAMETERS).encode()], json_value, _read_parameters),
)
