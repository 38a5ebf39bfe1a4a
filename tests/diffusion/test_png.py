"""PNG files byte for byte: the goldens that every player writes, and that other readers take them."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ondevice.diffusion import deflate
from ondevice.diffusion.deflate import code_lengths, reversed_codes, tokens, zlib_stream
from ondevice.diffusion.png import encode_png, filtered

Compare = Callable[[str, str], None]
TEXTS = {"parameters": "a cat, été", "ondevice": '{"prompt": "a cat, \\u00e9t\\u00e9"}'}
UNICODE = {"parameters": "猫 😀\nNegative prompt: a\nSteps: 20", "ondevice": "{}"}
FORMULAS = {
    "flat": (512, 512),
    "ramp": (512, 512),
    "noise": (200, 120),
    "smooth": (320, 240),
    "geometric": (256, 192),
}  # (width, height)


def states(count: int) -> np.ndarray:
    """The numbers `s` of docs/png.md, uint32[count]."""
    out, state = np.empty(count, np.uint32), 1
    for place in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        out[place] = state
    return out


def formula(name: str, width: int, height: int) -> np.ndarray:
    """The picture of a formula of docs/png.md."""
    y, x, c = np.mgrid[:height, :width, :3]
    if name == "flat":
        value = np.array([10, 200, 30])[c]
    elif name == "ramp":
        value = np.stack([x[..., 0] // 2, y[..., 0] // 2, (x + y)[..., 0] // 4], axis=-1)
    else:
        s = states(x.size).reshape(x.shape)
        if name == "noise":
            value = s >> 24
        elif name == "smooth":
            value = ((x * x + y * y) >> 9) + 40 * c + (s >> 30)
        else:
            high = (s >> 8).astype(np.int64)
            lowest = np.where(high == 0, 1 << 24, high & -high)
            value = np.cumsum(np.log2(lowest).astype(np.int64), axis=0)
    return (value & 255).astype(np.uint8)


def small() -> dict[str, tuple[np.ndarray, dict[str, str]]]:
    """Pictures of few pixels, each with what one rule of docs/png.md asks for."""
    chance = np.random.default_rng(0)
    line = np.repeat(chance.integers(0, 256, 24), [1, 2, 10, 11, 12, 13, *[1] * 12, 9, 10, 11, 3, 2, 1]).astype(
        np.uint8
    )
    return {
        "one pixel": (np.array([[[255, 0, 128]]], np.uint8), {}),
        "one black pixel": (np.zeros((1, 1, 3), np.uint8), TEXTS),
        "a row": (chance.integers(0, 256, (1, 7, 3), dtype=np.uint8), UNICODE),
        "a column": (chance.integers(0, 256, (9, 1, 3), dtype=np.uint8), {"parameters": "", "ondevice": "ÿ"}),
        "runs": (np.repeat(line[:, None], 3, axis=1)[None], {}),
        "runs of 258": (np.zeros((1, 258, 3), np.uint8), {}),
        "a smooth one": (formula("smooth", 24, 10), {}),
        "few colours": (chance.choice(np.array([0, 1, 255], np.uint8), (12, 11, 3)), {"parameters": "Ā"}),
    }


def test_goldens(golden: Compare) -> None:
    rows: list[dict[str, Any]] = []
    for name, (pixels, texts) in small().items():
        height, width, _ = pixels.shape
        row = {"name": name, "width": width, "height": height, "texts": list(map(list, texts.items()))}
        rows.append(row | {"pixels": pixels.tobytes().hex(), "png": encode_png(pixels, texts).hex()})
    for name, (width, height) in FORMULAS.items():
        data = encode_png(formula(name, width, height), TEXTS)
        row = {"name": name, "formula": name, "width": width, "height": height, "texts": list(map(list, TEXTS.items()))}
        rows.append(row | {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    golden("png/pictures.json", "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def test_the_goldens_hold_each_rule() -> None:
    """Codes that would be too long, every filter, runs of each kind and more than one block."""
    pixels = formula("geometric", *FORMULAS["geometric"])
    rows = filtered(pixels)
    counts = np.bincount(tokens(rows[: deflate.BLOCK])[0], minlength=257)
    counts[deflate.END] = 1
    order = np.sort(counts[counts > 0])
    assert max(deflate._depths(order.tolist())) > 15 and len(rows) > 2 * deflate.BLOCK
    chosen = {int(number) for p, _ in small().values() for number in filtered(p).reshape(len(p), -1)[:, 0]}
    assert chosen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("texts", [TEXTS, UNICODE, {}], ids=["latin", "unicode", "none"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (5, 7), (64, 64), (90, 250)])
def test_pillow_reads_them(size: tuple[int, int], texts: dict[str, str]) -> None:
    chance = np.random.default_rng(size)
    for most in (1, 2, 256):
        pixels = chance.integers(0, most, (*size, 3)).astype(np.uint8)
        with Image.open(io.BytesIO(encode_png(pixels, texts))) as image:
            assert image.mode == "RGB" and np.array_equal(np.asarray(image), pixels) and image.text == texts


def test_files_are_about_as_small_as_pillows() -> None:
    for name in ("smooth", "noise", "flat"):
        pixels, out = formula(name, 256, 256), io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        assert len(encode_png(pixels, {})) < 1.15 * len(out.getvalue()), name


def test_zlib_reads_streams_of_runs() -> None:
    chance = np.random.default_rng(1)
    for most in (2, 12, 300, 600):
        data = np.repeat(chance.integers(0, most % 251, 600), chance.integers(1, most, 600)).astype(np.uint8)
        assert zlib.decompress(zlib_stream(data)) == data.tobytes()


def test_codes_are_complete_and_bounded() -> None:
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(sum(fibonacci[-2:]))
    for counts, most in (([3, 0, 3], 15), (fibonacci, 15), (fibonacci[:19], 7), ([1] * 286, 15), ([7] * 19, 7)):
        widths = code_lengths(np.array(counts), most)
        assert widths.max() <= most and (2.0 ** -widths[widths > 0]).sum() == 1
        assert [bool(width) for width in widths] == [bool(count) for count in counts]
        codes = set(zip(reversed_codes(widths).tolist(), widths.tolist(), strict=True))
        assert len(codes - {(0, 0)}) == np.count_nonzero(widths)
