"""Frames that an earlier run has written: known again by what they were made from, and by their pixels."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ondevice.diffusion.files import opened
from ondevice.errors import UsageError

MADE = "made"  # the parameter that says both
_BYTES = 1 << 26  # of a frame's file, as of a picture to begin from


def digest(made_from: Mapping[str, Any], pixels: np.ndarray) -> str:
    """64 hexadecimal digits for uint8[h, w, 3] that were made from `made_from`, which JSON can hold."""
    about = json.dumps({**made_from, "shape": list(pixels.shape)}, sort_keys=True)
    return hashlib.sha256(about.encode() + b"\0" + pixels.tobytes()).hexdigest()


def read_frame(
    path: Path, size: tuple[int, int], made_from: Mapping[str, Any]
) -> tuple[np.ndarray, dict[str, Any]] | None:
    """The pixels, uint8[h, w, 3], and parameters of a PNG file of size (width, height) that says of itself that it was
    made from `made_from`, and has the pixels that it had then; None for whatever else is there, or nothing."""
    try:
        with warnings.catch_warnings(), opened(path, _BYTES, UsageError) as (file, _):
            warnings.simplefilter("ignore")
            with Image.open(file, formats=["PNG"]) as image:
                if image.size != size or image.mode != "RGB":
                    return None
                pixels = np.asarray(image)
                own = json.loads(str(image.info.get("ondevice", "")))
    except Exception:  # Pillow's decoders raise many types on damaged files, and whatever it is, it is not right
        return None
    return (pixels, own) if isinstance(own, dict) and own.get(MADE) == digest(made_from, pixels) else None
