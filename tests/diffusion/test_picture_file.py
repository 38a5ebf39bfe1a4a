"""The file of a picture: its format, what is written into it, and what happens where it cannot be written."""

from __future__ import annotations

import json
import os
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ondevice.diffusion import picture_file
from ondevice.diffusion.init_image import read_image
from ondevice.diffusion.parameters import describe
from ondevice.diffusion.picture_file import SEGMENT, format_of, free_names, write_picture
from ondevice.errors import UsageError

PARAMETERS = {
    "prompt": "a red circle",
    "negative_prompt": 'blue, été 猫 <&">\n\x01',
    "steps": 20,
    "sampler": "dpmpp_2m",
    "guidance_scale": 7.5,
    "seed": 2**63,
    "width": 6,
    "height": 4,
    "version": "ondevice 1",
}


def checkered(height: int = 4, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def flat() -> np.ndarray:
    return np.full((32, 32, 3), (220, 30, 30), np.uint8)


def told(path: Path) -> tuple[str, dict[str, Any]]:
    """(WebUI's text, our parameters) of a file, by Pillow and a reader of XML."""
    with Image.open(path) as image:
        if image.format == "PNG":
            return image.text["parameters"], json.loads(image.text["ondevice"])
        comment, xmp = image.getexif().get_ifd(0x8769)[0x9286], image.info["xmp"]
        assert image.getexif()[0x0131] == "ondevice 1"
    assert comment[:8] == b"UNICODE\0"
    (values,) = [e.attrib for e in ET.fromstring(xmp).iter() if "{urn:ondevice:picture}parameters" in e.attrib]
    return comment[8:].decode("utf-16-be"), json.loads(values["{urn:ondevice:picture}parameters"])


@pytest.mark.parametrize(
    ("name", "kind", "error"),
    [("a.png", "PNG", 0), ("A.PNG", "PNG", 0), ("a.jpg", "JPEG", 2), ("a.JPEG", "JPEG", 2), ("a.webp", "WEBP", 6)],
)
def test_the_format_is_the_one_that_the_name_says(name: str, kind: str, error: int, tmp_path: Path) -> None:
    assert write_picture(tmp_path / name, flat(), PARAMETERS) == tmp_path / name
    with Image.open(tmp_path / name) as image:
        assert image.format == kind and image.mode == "RGB"
        if kind == "JPEG":
            assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # no colour is coarser than the grey
    assert np.abs(read_image(tmp_path / name).astype(int) - flat()).max() <= error
    assert told(tmp_path / name) == (describe(PARAMETERS), PARAMETERS)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_png_holds_every_pixel(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", checkered(), PARAMETERS)
    assert np.array_equal(read_image(tmp_path / "a.png"), checkered())


@pytest.mark.parametrize(
    ("name", "got", "fix"),
    [
        ("a.gif", "got '.gif'", "a.png"),
        ("a.tiff", "got '.tiff'", "a.png"),
        ("a", "the name says none", "a.png"),
        ("a v1.5", "got '.5'", "a v1.5.png"),
        (".png", "the name says none", ".png.png"),
        ("a.png ", "got '.png '", "a.png .png"),
        ("a.", "the name says none", "a..png"),
    ],
)
def test_other_names_are_refused_with_one_that_is_not(name: str, got: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        format_of(Path(name))
    assert str(caught.value).startswith(
        f"--out: {name}: pictures are written as PNG, JPEG or WebP ({got}, expected .png, .jpg, .jpeg, .webp)."
    )
    assert str(caught.value).endswith(f"Fix: name it {fix}.")


def test_sizes_that_a_format_cannot_say_and_formats_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert format_of(Path("a.png"), (70000, 8)) == "PNG" and format_of(Path("a.webp"), (16383, 8)) == "WEBP"
    for name, size in (("a.webp", (8, 16384)), ("a.jpg", (65504, 8))):
        with pytest.raises(
            UsageError, match=rf"has at most \d+ pixels per side \(got {size[0]}x{size[1]}\)\. Fix: name it a\.png\."
        ):
            format_of(Path(name), size)
    monkeypatch.setattr(picture_file.features, "check", lambda codec: codec != "webp")
    assert format_of(Path("a.jpg")) == "JPEG"
    with pytest.raises(UsageError, match="Pillow was built without WEBP here"):
        format_of(Path("a.webp"))


@pytest.mark.parametrize("letter", ["x", "猫", "😀", '"', "<"])
def test_a_long_prompt_fits_into_a_jpeg(letter: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    long = PARAMETERS | {"prompt": letter * 40_000, "negative_prompt": "a" + letter * 40_000}
    for name in ("a.jpg", "a.webp", "a.png"):
        write_picture(tmp_path / name, flat(), long)
    (line,) = caplog.messages  # of the JPEG alone
    text, parameters = told(tmp_path / "a.jpg")
    kept = parameters["texts_cut_at"]
    assert kept >= 1024 and f"the first {kept} characters" in line
    assert (
        parameters["prompt"] == letter * kept + "..." and text.startswith(parameters["prompt"]) and "Steps: 20" in text
    )
    assert told(tmp_path / "a.webp") == told(tmp_path / "a.png") == (describe(long), long)
    with Image.open(tmp_path / "a.jpg") as image:
        assert max(len(image.info["exif"]), len(image.info["xmp"])) <= SEGMENT


def test_a_name_that_is_free_is_found_and_nobody_elses_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    (tmp_path / "a-1.png").symlink_to("nowhere")
    assert next(free_names(tmp_path / "a.png")).name == "a-2.png"
    gate, got = threading.Barrier(8), []

    def draw(shade: int) -> None:
        gate.wait()
        got.append((write_picture(tmp_path / "a.png", np.full((2, 2, 3), shade, np.uint8), {}, numbered=True), shade))

    threads = [threading.Thread(target=draw, args=(shade,)) for shade in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(path.name for path, _ in got) == [f"a-{number}.png" for number in range(2, 10)]
    assert all(read_image(path)[0, 0, 0] == shade for path, shade in got)


def test_a_name_that_is_taken_at_the_last_moment_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"theirs")
    monkeypatch.setattr(picture_file, "free_names", lambda path: iter([path, path.with_stem("b")]))
    assert write_picture(tmp_path / "a.png", checkered(), {}, numbered=True).name == "b.png"
    assert (tmp_path / "a.png").read_bytes() == b"theirs"
    monkeypatch.setattr(picture_file, "free_names", lambda path: iter([path]))
    with pytest.raises(UsageError, match="its name was taken meanwhile"):
        write_picture(tmp_path / "a.png", checkered(), {}, numbered=True)


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "link.png").symlink_to("big/real.png")
    for _ in range(2):  # the target is made, and replaced
        write_picture(tmp_path / "link.png", checkered(), {})
        assert (tmp_path / "link.png").is_symlink() and np.array_equal(
            read_image(tmp_path / "big" / "real.png"), checkered()
        )


def refuse(error: BaseException) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refuse(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_picture(path, checkered(), {})
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.png", b"old")]


def test_a_picture_that_its_place_refuses_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spare").mkdir()
    monkeypatch.setattr(picture_file.tempfile, "tempdir", str(tmp_path / "spare"))
    monkeypatch.setattr(os, "replace", refuse(OSError(28, "No space left on device")))
    with pytest.raises(UsageError) as caught:
        write_picture(tmp_path / "a.jpg", flat(), {})
    (kept,) = (tmp_path / "spare").iterdir()
    assert str(caught.value) == (
        f"{tmp_path}/a.jpg: the picture cannot be written (No space left on device); it is kept as {kept}. "
        "Fix: move it from there; free space on this disk, or name a file on another."
    )
    assert read_image(kept).shape == (32, 32, 3)
    monkeypatch.setattr(picture_file.tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(
        UsageError,
        match=r"nowhere/a\.png: the picture cannot be written \(No such file or directory\)\. Fix: name a file",
    ):
        write_picture(tmp_path / "nowhere" / "a.png", checkered(), {})
