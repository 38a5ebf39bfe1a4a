"""A picture for CLIP's image encoder, as Stable Video Diffusion prepares it (docs/pipeline.md, "CLIP's picture").

Each direction is blurred against aliasing and resampled; both are sums of pixels, so each direction is one matrix.
Reference: diffusers' `_resize_with_antialiasing` (pipeline_stable_video_diffusion.py) and CLIPImageProcessor.
"""

from __future__ import annotations

import math

import numpy as np

SIDE = 224
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_STRIP = 1 << 20  # values that are turned into float64 at once


def clip_picture(pixels: np.ndarray) -> np.ndarray:
    """float32[1, 3, 224, 224] of uint8[h, w, 3]."""
    if pixels.shape[1] > pixels.shape[0]:  # the longer direction first, which leaves less to hold
        return np.ascontiguousarray(clip_picture(pixels.transpose(1, 0, 2)).transpose(0, 1, 3, 2))
    height, width, channels = pixels.shape
    weights = _weights(height)
    rows = np.zeros((SIDE, width * channels))
    many = max(1, _STRIP // (width * channels))
    for top in range(0, height, many):
        strip = 2 * (pixels[top : top + many].reshape(-1, width * channels) / 255.0) - 1
        rows += weights[:, top : top + many] @ strip
    small = np.tensordot(_weights(width), rows.reshape(SIDE, width, channels), (1, 1))  # [x, y, channel]
    unit = ((small + 1) / 2 - np.array(_MEAN)) / np.array(_DEVIATION)
    return unit.transpose(2, 1, 0)[np.newaxis].astype(np.float32)


def _weights(length: int) -> np.ndarray:
    """float64[224, length]: of each pixel of the result, what it takes of each of the picture's."""
    resampled = _resampling(length)
    sigma = max((length / SIDE - 1) / 2, 0.001)
    size = int(max(4 * sigma, 3))
    reach = (size + 1 - size % 2) // 2
    kernel = np.array([math.exp(-(d * d) / (2 * sigma * sigma)) for d in range(-reach, reach + 1)])
    kernel /= kernel.sum()
    found = np.zeros_like(resampled)
    places = np.arange(length)
    for d, weight in zip(range(-reach, reach + 1), kernel, strict=True):
        np.add.at(found.T, _mirrored(places + d, length), weight * resampled.T)
    return found


def _mirrored(places: np.ndarray, length: int) -> np.ndarray:
    """Places beyond an edge as those on the other side of its pixel."""
    if length == 1:
        return np.zeros_like(places)
    places = np.abs(places) % (2 * length - 2)
    return np.where(places < length, places, 2 * length - 2 - places)


def _resampling(length: int) -> np.ndarray:
    """float64[224, length]: bicubic (a = -0.75), corners aligned, the edge's pixel repeated."""
    at = np.arange(SIDE) * (length - 1) / (SIDE - 1)
    low = np.floor(at).astype(int)
    found = np.zeros((SIDE, length))
    for offset in range(-1, 3):
        np.add.at(found, (np.arange(SIDE), np.clip(low + offset, 0, length - 1)), _cubic(np.abs(at - (low + offset))))
    return found


def _cubic(t: np.ndarray) -> np.ndarray:
    near, far = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * t**3 + 3.75 * t**2 - 6 * t + 3
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))
