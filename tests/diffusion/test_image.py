"""Pixels, PNG files and what they say, and the images that are refused."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ondevice.diffusion import image as module
from ondevice.diffusion.image import describe, from_pixels, read_image, resize, to_pixels, write_png
from ondevice.errors import UsageError

PARAMETERS = {
    "prompt": "a red circle",
    "negative_prompt": "blue, été 猫",
    "steps": 20,
    "sampler": "dpmpp_2m",
    "guidance_scale": 7.5,
    "seed": 2**63,
    "width": 6,
    "height": 4,
}


def checkered(height: int = 4, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pixels_clip_and_round_to_even() -> None:
    sample = np.array([-2.0, -1.0, 1 / 255 - 1, 0.0, 3 / 255, 1.0, 9.0], np.float32)
    got = to_pixels(np.broadcast_to(sample, (1, 3, 1, 7)))
    assert got.shape == (1, 1, 7, 3) and got.dtype == np.uint8
    # 0.5 and 127.5 and 129 of 255: halves go to the even number.
    assert got[0, 0, :, 0].tolist() == [0, 0, 0, 128, 129, 255, 255]


def test_pixels_and_back() -> None:
    pixels = checkered()
    assert np.array_equal(to_pixels(from_pixels(pixels))[0], pixels)
    assert from_pixels(pixels).shape == (1, 3, 4, 6)
    assert from_pixels(np.array([[[0, 255, 51]]], np.uint8)).ravel() == pytest.approx([-1, 1, -0.6])


def test_the_file_holds_the_picture_and_its_parameters(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, checkered(), PARAMETERS)
    with Image.open(path) as image:
        assert np.array_equal(np.array(image), checkered())
        assert image.text["parameters"] == (
            "a red circle\nNegative prompt: blue, été 猫\n"
            "Steps: 20, Sampler: DPM++ 2M, CFG scale: 7.5, Seed: 9223372036854775808, Size: 6x4"
        )
        assert json.loads(image.text["ondevice"]) == PARAMETERS
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert np.array_equal(read_image(path), checkered())


def test_description_leaves_out_what_is_not_known() -> None:
    assert describe({"prompt": "a\0b", "steps": 1, "sampler": "other"}) == "ab\nSteps: 1, Sampler: other"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_png(path, checkered(), {})
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.png", b"old")]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere/a\.png: the picture cannot be written"):
        write_png(tmp_path / "nowhere" / "a.png", checkered(), {})


def test_reading_turns_upright_and_drops_alpha(tmp_path: Path) -> None:
    Image.fromarray(checkered()).convert("RGBA").save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), checkered())
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(checkered()).save(tmp_path / "b.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "b.png"), np.rot90(checkered(), -1))


def test_images_that_cannot_be_used_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(UsageError, match="not a readable image"):
        read_image(tmp_path / "a.png")
    Image.fromarray(checkered()).save(tmp_path / "a.gif")
    with pytest.raises(UsageError, match="not a readable image"):
        read_image(tmp_path / "a.gif")
    with pytest.raises(UsageError, match="not a readable image"):
        read_image(tmp_path)
    write_png(tmp_path / "big.png", checkered(), {})
    monkeypatch.setattr(module, "MAX_PIXELS", 23)
    with pytest.raises(UsageError, match="too large"):
        read_image(tmp_path / "big.png")


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_damaged_images_give_pixels_or_our_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a.img"
    Image.fromarray(checkered(16, 16)).save(path, format=data.draw(st.sampled_from(["PNG", "JPEG", "BMP", "WEBP"])))
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path.write_bytes(bytes(whole))
    with contextlib.suppress(UsageError):
        assert read_image(path).dtype == np.uint8


def test_resizing() -> None:
    assert resize(checkered(), 6, 4) is not None and np.array_equal(resize(checkered(), 6, 4), checkered())
    assert resize(checkered(), 8, 16).shape == (16, 8, 3)


def test_metadata_name_the_files_a_picture_began_from_and_the_model():
    told = {
        "prompt": "a cat",
        "steps": 3,
        "model": "random weights, seed 0",
        "version": "ondevice 1",
        "init_image": 'a "b".png',
        "latents": "n.npy",
    }
    assert describe(told).splitlines()[1] == (
        'Steps: 3, Model: "random weights, seed 0", Init image: "a \\"b\\".png", Latents: n.npy, Version: ondevice 1'
    )
