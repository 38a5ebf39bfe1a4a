"""Pictures as arrays: the decoder's output as 8-bit pixels and back, and sizes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ondevice.diffusion.noise import Noise
from ondevice.errors import UsageError

MOST = 1 << 26  # pixels of a picture on its way to another size: 192 MiB


def to_pixels(sample: np.ndarray) -> np.ndarray:
    """float32[n, 3, h, w] in -1..1 -> uint8[n, h, w, 3]. Clipped and rounded as diffusers' VaeImageProcessor does."""
    unit = (sample.astype(np.float32) * np.float32(0.5) + np.float32(0.5)).clip(0, 1)
    return (unit.transpose(0, 2, 3, 1) * np.float32(255)).round().astype(np.uint8)


def from_pixels(pixels: np.ndarray) -> np.ndarray:
    """uint8[h, w, 3] -> float32[1, 3, h, w] in -1..1, what the encoder takes."""
    return np.float32(2) * unit_from_pixels(pixels) - np.float32(1)


def unit_from_pixels(pixels: np.ndarray) -> np.ndarray:
    """uint8[h, w, 3] -> float32[1, 3, h, w] in 0..1, what a ControlNet takes."""
    return (pixels.astype(np.float32) / np.float32(255)).transpose(2, 0, 1)[np.newaxis]


def drawn(moments: np.ndarray, stream: Noise | None) -> np.ndarray:
    """float32[n, c, h, w] of an encoder's [n, 2c, h, w], a mean and the logarithm of a variance:
    a draw from `stream`, or the mean."""
    mean, log_variance = np.split(moments.astype(np.float32), 2, axis=1)
    if stream is None:
        return mean
    # In double, rounded: the last bit of a float32 exponential is each library's own.
    return mean + np.exp(0.5 * log_variance.clip(-30, 20).astype(np.float64)).astype(np.float32) * stream.randn(
        mean.shape
    )


def rounded_down(pixels: np.ndarray, step: int) -> tuple[int, int]:
    """(width, height) that is drawn from uint8[h, w, 3] where none is asked for:
    multiples of `step`, as in diffusers."""
    height, width = (max(side - side % step, step) for side in pixels.shape[:2])
    return width, height


FITS = ("resize", "crop", "pad")


def fitted(
    pixels: np.ndarray, width: int, height: int, fit: str = FITS[0], ground: tuple[int, int, int] | None = None
) -> np.ndarray:
    """uint8[h, w, 3] as uint8[height, width, 3].

    Args:
        fit: one of FITS. `resize`: to the size, whatever the shape was. `crop`: until it covers the size; what is over
            is cut off equally on both sides. `pad`: until it is within the size, in its middle.
        ground: the colour of what `pad` adds; None: the picture's edges go on.

    Raises:
        UsageError: as `resize`, of what it scales to.

    Reference: `VaeImageProcessor.resize` of diffusers, with the modes `default`, `crop` and `fill`; what the last adds
    is what its resampling makes of no rows.
    """
    own_height, own_width = pixels.shape[:2]
    if fit == "resize":
        return resize(pixels, width, height)
    wider = own_width * height > width * own_height  # than the size is
    if wider == (fit == "crop"):
        inner_width, inner_height = max(1, own_width * height // own_height), height
    else:
        inner_width, inner_height = width, max(1, own_height * width // own_width)
    inner = resize(pixels, inner_width, inner_height)
    left, top = width // 2 - inner_width // 2, height // 2 - inner_height // 2
    if fit == "crop":
        return inner[-top : height - top, -left : width - left]
    around = ((top, height - top - inner_height), (left, width - left - inner_width), (0, 0))
    if ground is None:
        return np.pad(inner, around, mode="edge")
    whole = np.empty((height, width, 3), np.uint8)
    whole[:] = ground
    whole[top : top + inner_height, left : left + inner_width] = inner
    return whole


def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8[h, w, 3] at another size by Lanczos, as diffusers' VaeImageProcessor does (docs/pipeline.md).
    Raises UsageError where more than MOST pixels are on the way: of a picture that is far too narrow or low."""
    own_height, own_width = pixels.shape[:2]
    if (own_height, own_width) == (height, width):
        return pixels
    if width * max(own_height, height) > MOST:
        what = f"cannot be resized (got {own_width} x {own_height}, to be {width} x {height})."
        raise UsageError(what, where="image", fix="give a smaller picture, or cut it to another shape")
    # Columns before rows, as all players: left alone, Pillow 13 chooses by the sizes, and its roundings with it.
    columns = Image.fromarray(pixels).resize((width, own_height), Image.Resampling.LANCZOS)
    return np.array(columns.resize((width, height), Image.Resampling.LANCZOS))
