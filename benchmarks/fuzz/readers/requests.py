"""What `serve` is sent: JSON of the page's and of AUTOMATIC1111's shape, host names; and its gallery's pictures."""

from __future__ import annotations

import base64
import functools
import io
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ValidationError

from benchmarks.fuzz.mutate.chunks import png
from benchmarks.fuzz.mutate.data import havoc
from benchmarks.fuzz.mutate.values import json_value
from benchmarks.fuzz.reader import Reader, holds
from benchmarks.fuzz.readers import small
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.diffusion.memory_budget import Way
from ondevice.diffusion.picture_file import encoded
from ondevice.errors import OnDeviceError
from ondevice.serving.asked import MOST_PICTURES, Asked, job_of
from ondevice.serving.gallery import read_entry
from ondevice.serving.guard import host_name
from ondevice.serving.jobs import Job
from ondevice.serving.model import Served
from ondevice.serving.webui_fields import Image2Image, Text2Image, asked_of, ignored

_folder = tempfile.TemporaryDirectory()  # gone when the process ends
_NOT_JSON = (ValueError, RecursionError)  # to which the server answers 400, or 422 with the field


def _picture() -> str:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


_PAGE = {
    "prompt": "a <lora:x:0.5>", "negative_prompt": "b", "num_inference_steps": 2, "guidance_scale": 2.5, "seed": "7",
    "width": 8, "height": 8, "sampler": "ddim", "sampler_options": {"eta": 0.5, "sigmas": [2.0, 1.0]}, "count": 2,
    "image": f"data:image/png;base64,{_picture()}", "image_name": "a.png", "mask": _picture(), "fit": "crop",
    "strength": 0.5, "numbers": {"guidance_rescale": 0.5}, "variation_seed": 3, "variation_strength": 0.1,
    "adapters": [{"name": "x", "scale": 1}], "canny": [100, 200], "pictures": {"control": _picture()}, "window": "w",
}  # fmt: skip
_PLAIN = {"prompt": "a", "width": 8, "height": 8, "num_inference_steps": 2}
_WEBUI = {
    "prompt": "a", "negative_prompt": "b", "seed": -1, "subseed": 3, "subseed_strength": 0.2, "sampler_name": "Euler a",
    "scheduler": "karras", "batch_size": 2, "n_iter": 1, "steps": 3, "cfg_scale": 7, "width": 8, "height": 8,
    "override_settings": {"eta_noise_seed_delta": 31337}, "alwayson_scripts": {}, "styles": [], "else": 1, "eta": 0.5,
    "init_images": [_picture()], "mask": _picture(), "denoising_strength": 0.5, "resize_mode": 1,
}  # fmt: skip


@functools.cache
def _model() -> Served:
    path = compile_bundle(small.checkpoint(), Path(_folder.name) / "m.ondevice", Recipe("f32"), sizes=[(8, 8)])
    opened = SimpleNamespace(files=open_bundle(path), way_of=lambda request, changed=frozenset(): Way())
    return Served(opened)  # type: ignore[arg-type]


def _check(job: Job) -> None:
    assert job.request is not None
    holds(1 <= job.count <= MOST_PICTURES, "more pictures than there may be")
    holds(job.size == (8, 8), "a size that the bundle does not hold")
    for name, pixels in job.request.given_pictures().items():
        holds(pixels.shape == (8, 8, 3), f"{name} is not of the size that is drawn")


def _valid(kind: type[BaseModel], data: bytes) -> Any:
    """The request, as the server takes it. Raises one of _NOT_JSON (ValidationError is a ValueError)."""
    return kind.model_validate(json.loads(data))


def _read_page(data: bytes, _: Path) -> None:
    try:
        asked = _valid(Asked, data)
    except _NOT_JSON:
        return
    _check(job_of(asked, _model()))


def _read_webui(data: bytes, _: Path) -> None:
    for kind in (Text2Image, Image2Image):
        try:
            given = _valid(kind, data)
        except _NOT_JSON:
            continue
        holds(all(len(name) <= 200 for name in ignored(given)), "a name is too long to be said")
        try:
            _check(job_of(asked_of(given, _model())[0], _model()))
        except ValidationError as error:
            raise OnDeviceError("a field has another range here", where=str(error.errors()[0]["loc"][0])) from None


def _read_host(data: bytes, _: Path) -> None:
    name = host_name(data.decode("latin-1"))
    holds(not set(name) & set("/@?# \r\n"), "a name has what no name has")


def _read_picture(data: bytes, folder: Path) -> None:
    (folder / "a.png").write_bytes(data)
    entry = read_entry(folder / "a.png")
    if entry is not None:
        json.dumps(entry.to_json())


def _pictures() -> list[bytes]:
    pixels = np.zeros((2, 3, 3), np.uint8)
    return [encoded(Path("a.png"), pixels, {"prompt": text, "seed": 1, "steps": 3}) for text in ("a", "猫")]


READERS = (
    Reader("asked", lambda: [json.dumps(one).encode() for one in (_PLAIN, _PAGE)], json_value, _read_page),
    Reader("webui", lambda: [json.dumps(_WEBUI).encode()], json_value, _read_webui),
    Reader("host", lambda: [b"127.0.0.1:7860", b"[::1]:80", b"localhost"], havoc, _read_host),
    Reader("gallery", _pictures, png, _read_picture, memory=48 << 20),
)
