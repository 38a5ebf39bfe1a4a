"""Pictures: the decoder's output as 8-bit pixels, PNG files that say how they were made, and images to start from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from ondevice.errors import UsageError
from ondevice.publish import published_file

MAX_PIXELS = 1 << 26
"""Largest image that is read: 64 megapixels."""

_READS = ("PNG", "JPEG", "WEBP", "BMP")

# Names that other tools know the samplers by.
_A1111 = {
    "pndm": "PLMS",
    "ddim": "DDIM",
    "euler": "Euler",
    "euler_a": "Euler a",
    "dpmpp_2m": "DPM++ 2M",
    "heun": "Heun",
    "lms": "LMS",
    "unipc": "UniPC",
    "lcm": "LCM",
    "ddpm": "DDPM",
}


def to_pixels(sample: np.ndarray) -> np.ndarray:
    """float32[n, 3, h, w] in -1..1 -> uint8[n, h, w, 3]. Clipped and rounded as diffusers' VaeImageProcessor does."""
    unit = (sample.astype(np.float32) * np.float32(0.5) + np.float32(0.5)).clip(0, 1)
    return (unit.transpose(0, 2, 3, 1) * np.float32(255)).round().astype(np.uint8)


def from_pixels(pixels: np.ndarray) -> np.ndarray:
    """uint8[h, w, 3] -> float32[1, 3, h, w] in -1..1, what the encoder takes."""
    unit = pixels.astype(np.float32) / np.float32(255)
    return (np.float32(2) * unit - np.float32(1)).transpose(2, 0, 1)[np.newaxis]


def describe(parameters: Mapping[str, Any]) -> str:
    """The parameters as AUTOMATIC1111 writes them, so that tools that read its pictures read ours."""
    lines = [str(parameters.get("prompt", ""))]
    if parameters.get("negative_prompt"):
        lines.append(f"Negative prompt: {parameters['negative_prompt']}")
    sampler = str(parameters.get("sampler", ""))
    named = {
        "Steps": parameters.get("steps"),
        "Sampler": _A1111.get(sampler, sampler),
        "CFG scale": parameters.get("guidance_scale"),
        "Seed": parameters.get("seed"),
        "Size": f"{parameters['width']}x{parameters['height']}" if "width" in parameters else None,
        "Model": parameters.get("model"),
        "Denoising strength": parameters.get("strength"),
        "Init image": parameters.get("init_image"),
        "Latents": parameters.get("latents"),
        "Version": parameters.get("version"),
    }
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in named.items() if value not in (None, "")))
    return "\n".join(lines).replace("\0", "")


def _quoted(value: Any) -> str:
    """In quotation marks where the text would end a field."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:"\n') else text


def write_png(path: str | Path, pixels: np.ndarray, parameters: Mapping[str, Any]) -> None:
    """Writes uint8[h, w, 3] with its parameters in the texts `parameters` (A1111's style) and `ondevice` (JSON).

    The file appears whole or not at all. UsageError where it cannot be written.
    """
    path = Path(path)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", describe(parameters))
    texts.add_text("ondevice", json.dumps(dict(parameters), sort_keys=True))
    try:
        with published_file(path) as file:
            Image.fromarray(pixels).save(file, format="PNG", pnginfo=texts)
    except OSError as error:
        raise UsageError(
            f"the picture cannot be written ({error.strerror or error})", where=str(path), fix="choose another --out"
        ) from error


def read_image(path: str | Path) -> np.ndarray:
    """uint8[h, w, 3] of a PNG, JPEG, WebP or BMP file, turned upright. UsageError where it is not one, or too large."""
    where = str(path)
    try:
        with Image.open(path, formats=_READS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UsageError(f"too large (got {width}x{height}, expected at most {MAX_PIXELS} pixels)", where=where, fix="shrink it")
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise UsageError("no such file", where=where, fix="check the path") from None
    # Pillow's decoders raise many types on damaged files.
    except (OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, EOFError, Image.DecompressionBombError) as error:
        raise UsageError(
            f"not a readable image ({str(error)[:200]}; expected {', '.join(_READS)})", where=where, fix="save it as PNG and try again"
        ) from error


def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8[h, w, 3] at another size by Lanczos, as diffusers' VaeImageProcessor does."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
