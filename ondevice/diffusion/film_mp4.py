"""Frames as an MP4 file: H.264 as every browser and phone plays it, by PyAV (the extra `video`), which has the encoder.

Colours are those of BT.709, of 4:2:0: a pixel's colour is shared by four. What a film was made with is in its comment.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np

from ondevice.errors import UsageError

SIDES = 4096
"""Pixels per side that the decoders of phones take."""

_CODEC, _CLOCK = "libx264", 1000
# crf: how coarse, 0 to 51 (23: the encoder's own). Its bytes are not always the same again: the assembler behind
# x264's macroblock tree rounds as its buffers lie in memory
_HOW = {"crf": "14", "preset": "medium", "threads": "1"}
_BT709 = 1


def check_encoder(where: str) -> ModuleType:
    """PyAV. Raises UsageError where it is not installed, or was built without the encoder."""
    try:
        import av
    except ImportError:
        what = "an MP4 needs PyAV, which is not installed."
        raise UsageError(what, where=where, fix="pip install 'ondevice[video]', or write a .webp") from None
    if _CODEC not in av.codecs_available:
        raise UsageError(
            f"PyAV was built without {_CODEC} here.", where=where, fix="install PyAV from PyPI, or write a .webp"
        )
    return av


def encode_mp4(
    frames: Iterator[np.ndarray], size: tuple[int, int], rate: float, parameters: Mapping[str, Any], where: str
) -> bytes:
    """The file of frames uint8[h, w, 3] of an even `size` (width, height), `rate` per second.

    Raises:
        UsageError: there is no encoder, or it refuses the frames.
    """
    av, out = check_encoder(where), io.BytesIO()
    try:
        with av.open(out, "w", format="mp4") as container:
            container.metadata["comment"] = json.dumps(dict(parameters), sort_keys=True)
            stream = container.add_stream(_CODEC, rate=Fraction(rate).limit_denominator(_CLOCK), options=dict(_HOW))
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            stream.codec_context.color_primaries = stream.codec_context.color_trc = _BT709
            stream.codec_context.colorspace = _BT709
            for pixels in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except (av.FFmpegError, ValueError) as error:
        raise UsageError(f"the encoder refused the film ({error}).", where=where, fix="write a .webp") from None
    return out.getvalue()
