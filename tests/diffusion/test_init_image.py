"""Pictures to begin from: what a person sees in a file of any kind is what is read,
and no file takes more memory than it may."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from diffusion.pictures import GREY, GREY_ALPHA, INDEXED, RGB, RGBA, chunk, png
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ondevice.diffusion import init_image
from ondevice.diffusion.init_image import MEMORY, fitting_size, parse_colour, read_image, shape, squashed
from ondevice.errors import UsageError

RED, WHITE = [255, 0, 0], [255, 255, 255]


def checkered(height: int = 4, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def refused(path: Path, *words: str) -> str:
    with pytest.raises(UsageError) as caught:
        read_image(path)
    said = str(caught.value)
    assert all(word in said for word in words), said
    assert path.name in said and len(said) <= 500 and "Fix: " in said
    return said


def test_upright_and_without_an_opaque_alpha(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert np.array_equal(
        read_image(saved(tmp_path / "a.png", Image.fromarray(checkered()).convert("RGBA"))), checkered()
    )
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright = np.array(ImageOps.exif_transpose(_with(exif, Image.fromarray(checkered()))))
        for name in ("b.png", "b.tif"):
            turned = read_image(saved(tmp_path / name, Image.fromarray(checkered()), exif=exif))
            assert np.array_equal(turned, upright), (name, orientation)
    (tmp_path / "c.png").write_bytes(png(np.full((1, 3), 9), RGB, 8, more=[chunk(b"eXIf", b"neither II nor MM")]))
    assert read_image(tmp_path / "c.png").tolist() == [[[9, 9, 9]]]  # damaged EXIF says nothing
    assert not caplog.messages


def _with(exif: Image.Exif, image: Image.Image) -> Image.Image:
    image.getexif().update(exif)
    return image


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_greys_of_every_depth(depth: int, tmp_path: Path) -> None:
    top = 2**depth - 1
    steps = np.array([[0, 1, top // 2, top]])
    path = tmp_path / "a.png"
    path.write_bytes(png(steps, GREY, depth))
    expected = (steps[0] * 255 / top).round().astype(int)
    assert read_image(path)[0].tolist() == [[v] * 3 for v in expected]
    # the lightest is transparent
    path.write_bytes(png(steps, GREY, depth, more=[chunk(b"tRNS", struct.pack(">H", top))]))
    assert read_image(path, (255, 0, 0))[0].tolist() == [*([v] * 3 for v in expected[:-1]), RED] if depth > 1 else True


def test_colours_of_sixteen_bits_and_their_transparent_one(tmp_path: Path) -> None:
    path, values = tmp_path / "a.png", np.array([[0x1234, 0x8000, 0xFFFF, 0, 0x4000, 0xABCD]])
    path.write_bytes(png(values, RGB, 16))
    assert read_image(path)[0].tolist() == [[0x12, 0x80, 0xFF], [0, 0x40, 0xAB]]
    path.write_bytes(png(values, RGB, 16, more=[chunk(b"tRNS", struct.pack(">3H", 0, 0x4000, 0xABCD))]))
    assert read_image(path)[0].tolist() == [[0x12, 0x80, 0xFF], WHITE]
    path.write_bytes(png(np.array([[1, 2, 3, 9, 9, 9]]), RGB, 8, more=[chunk(b"tRNS", struct.pack(">3H", 9, 9, 9))]))
    assert read_image(path)[0].tolist() == [[1, 2, 3], WHITE]
    path.write_bytes(png(np.array([[0x1234, 0xFFFF, 0x1234, 0]]), GREY_ALPHA, 16))
    assert read_image(path)[0].tolist() == [[0x12] * 3, WHITE]
    path.write_bytes(png(np.array([[0x1234, 0, 0, 0xFFFF, 0x1234, 0, 0, 0]]), RGBA, 16))
    assert read_image(path)[0].tolist() == [[0x12, 0, 0], WHITE]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_with_transparent_entries(depth: int, tmp_path: Path) -> None:
    more = [chunk(b"PLTE", bytes([1, 2, 3, 200, 100, 50])), chunk(b"tRNS", bytes([255, 0]))]
    (tmp_path / "a.png").write_bytes(png(np.array([[0, 1]]), INDEXED, depth, more=more))
    assert read_image(tmp_path / "a.png", (7, 8, 9))[0].tolist() == [[1, 2, 3], [7, 8, 9]]


def test_hidden_colours_stay_hidden(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files that look the same give the same pixels, in every format that has transparency."""
    alpha = Image.fromarray(np.array([[0, 255], [128, 64]], np.uint8))
    seen = []
    for name, hidden in (("magenta", (255, 0, 255)), ("white", WHITE)):
        pixels = np.full((2, 2, 3), 40, np.uint8)
        pixels[0, 0] = hidden
        image = Image.fromarray(pixels)
        image.putalpha(alpha)
        seen.append(read_image(saved(tmp_path / f"{name}.png", image)))
        assert np.array_equal(seen[-1], read_image(saved(tmp_path / f"{name}.webp", image, lossless=True, exact=True)))
        over = Image.alpha_composite(Image.new("RGBA", (2, 2), "white"), image).convert("RGB")
        assert np.abs(seen[-1].astype(int) - np.asarray(over)).max() <= 1
    assert np.array_equal(*seen) and seen[0][0, 0].tolist() == WHITE
    assert (
        caplog.messages[0]
        == f"{tmp_path}/magenta.png: its transparent parts are laid on #ffffff (--background chooses)"
    )
    assert read_image(tmp_path / "magenta.png", (0, 0, 0)).tolist()[1] == [[20] * 3, [10] * 3]
    grey = Image.merge("LA", (Image.fromarray(np.full((2, 2), 40, np.uint8)), alpha))
    assert np.array_equal(read_image(saved(tmp_path / "grey.png", grey))[1], seen[0][1])


def test_a_large_picture_is_composed_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (37, 5, 4), dtype=np.uint8))
    saved(tmp_path / "a.png", image)
    whole = read_image(tmp_path / "a.png")
    monkeypatch.setattr(init_image, "_STRIP", 20)
    assert np.array_equal(read_image(tmp_path / "a.png"), whole)


@pytest.mark.parametrize(
    "mode, name",
    [("L", "a.jpg"), ("1", "a.png"), ("CMYK", "a.jpg"), ("YCbCr", "a.jpg"), ("P", "a.png"), ("P", "a.gif")]
    + [(mode, "a.tif") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")],
)
def test_other_kinds_of_pixels_are_those_that_a_viewer_shows(
    mode: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = Image.new("RGB", (16, 16), (200, 40, 40)).convert(mode)
    path = saved(tmp_path / name, image)
    assert np.abs(read_image(path)[8, 8].astype(int) - np.asarray(image.convert("RGB"))[8, 8]).max() <= 3
    assert any("colours of print" in line for line in caplog.messages) == (mode == "CMYK")


def test_of_several_pictures_the_first_is_taken_and_profiles_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for name in ("a.png", "a.webp", "a.gif", "a.tif"):
        path = saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], lossless=True)
        assert read_image(path)[0, 0].tolist() == RED
        assert caplog.messages == [f"{path}: it has 2 pictures; the first is taken"]
        caplog.clear()
    for profile, said in ((b"Display P3", 1), (b"xxxx sRGB IEC61966-2.1", 0), ("sRGB".encode("utf-16-be"), 0)):
        read_image(saved(tmp_path / "p.png", frames[0], icc_profile=profile))
        assert ["its colour profile is not applied" in line for line in caplog.messages] == [True] * said
        caplog.clear()


def test_files_that_are_no_picture_say_what_they_are(tmp_path: Path) -> None:
    refused(tmp_path / "none.png", "not a readable image (no such file;")
    refused(tmp_path, "a folder, a pipe or a device")
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "a folder, a pipe or a device")
    tiff = io.BytesIO()
    Image.new("F", (4, 4)).save(tiff, "TIFF")
    for data, words in (
        (b"", "it is empty"),
        (b"\0" * 99, "it is no picture"),
        (tiff.getvalue(), "its pixels are of Pillow's mode F"),
        (b"GIF89a" + bytes(7), "it has no frame"),
        (b"\0\0\0 ftypheic" + b"\0" * 20, "it is a HEIC or AVIF picture"),
        (b"\n<!DOCTYPE html><html>", "it is a web page"),
        (b"%PDF-1.7", "it is a PDF"),
    ):
        (tmp_path / "a.png").write_bytes(data)
        assert "Fix: save it as PNG and try again." in refused(tmp_path / "a.png", f"not a readable image ({words}")


def webp(width: int, height: int, chunk: bytes) -> bytes:
    """The beginning of a WebP file with a canvas of this size."""
    if chunk == b"VP8X":
        body = b"\0" * 4 + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif chunk == b"VP8L":
        body = b"\x2f" + (width - 1 | height - 1 << 14).to_bytes(4, "little")
    else:
        body = b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    inner = b"WEBP" + chunk + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(inner)) + inner + b"\0" * 64


def gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    """The beginning of a GIF file: a comment, then a frame of a size of its own."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(6)
    return head + b"\x21\xfe\x02ab\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x01\0\0" + b";"


def tiff(width: int, height: int, more: dict[int, int]) -> bytes:
    """A TIFF file's directory of eight bits of grey."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1} | (
        {**more, 324: 8, 325: 1} if more else {273: 8, 278: height, 279: 1}
    )
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(4)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png(np.zeros((1, 3)), RGB, 8, size=(8193, 4096)), "too large (got 8193x4096, expected at most 33554432"),
        (png(np.zeros((1, 3)), RGB, 8, size=(1, 65537)), "65536 per side"),
        (png(np.zeros((1, 3)), RGB, 8, size=(0, 5)), "not a readable image (its header is damaged;"),
        (b"BM" + struct.pack("<IIIIiiHHI", 99, 0, 54, 40, 1 << 20, 1 << 10, 1, 24, 0) + b"\0" * 60, "too many pixels"),
        (webp(16384, 16384, b"VP8X"), "too large (got 16384x16384, expected at most 14913080 pixels of a WEBP"),
        (webp(16383, 16384, b"VP8L"), "too large (got 16383x16384"),
        (webp(16383, 16383, b"VP8 "), "too large (got 16383x16383"),
        (gif((8193, 4097), (1, 1)), "too large (got 8193x4097, expected at most 33554432 pixels of a GIF"),
        (gif((4, 4), (65535, 9999)), "too large (got 65535x9999"),
        (tiff(64, 64, {322: 1 << 15, 323: 1 << 15}), "too large (got 32768x32768, expected at most 16777216"),
        (tiff(4097, 4096, {}), "too large (got 4097x4096"),
    ],
    ids=["png", "side", "nothing", "bmp", "VP8X", "VP8L", "VP8", "screen", "frame", "tile", "tiff"],
)
def test_sizes_are_known_before_anything_is_decoded(
    data: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(data)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
    monkeypatch.setattr("PIL._webp.WebPAnimDecoder", lambda _: pytest.fail("decoded"))
    refused(tmp_path / "a.png", words)


def test_bounds_of_files_and_of_jpegs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(checkered(16, 16)), progressive=True)
    assert read_image(path).shape == (16, 16, 3)
    monkeypatch.setattr(init_image, "MEMORY", 14 * 255)
    refused(path, "pixels of a progressive JPEG")
    assert read_image(saved(tmp_path / "b.jpg", Image.fromarray(checkered(16, 16)))).shape == (16, 16, 3)
    path.write_bytes(path.read_bytes() + b"\xff\xda" * init_image.SCANS_LIMIT)
    monkeypatch.undo()
    refused(path, "scans, at most 200 are read")
    monkeypatch.setattr(init_image, "FILE_LIMIT", 100)
    refused(path, f"{path.stat().st_size} bytes, at most 100 are read")


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    """The largest that is read, of one bit per pixel: 5 KB;
    its neighbour of 67 million pixels is refused (it took 640 MB)."""
    rows = np.zeros((1, 8))
    for name, (width, height) in (("read", (8192, 4096)), ("refused", (8192, 8192))):
        data = png(rows, GREY, 1, size=(width, height))
        packed = zlib.compress(bytes((width // 8 + 1) * height), 9)
        assert len(packed) < 10_000
        start = data.index(b"IDAT") - 4
        (tmp_path / f"{name}.png").write_bytes(data[:start] + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    code = (
        "import resource, sys; from ondevice.diffusion.init_image import read_image; "
        "from ondevice.errors import UsageError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_image(sys.argv[1])\n"
        "except UsageError: print('refused')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    unit = 1024 if sys.platform == "linux" else 1
    for name, limit in (("read", MEMORY), ("refused", MEMORY // 32)):
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / f"{name}.png"], capture_output=True, text=True, check=True
        )
        *said, took = done.stdout.split()
        assert (said == ["refused"]) == (name == "refused") and int(took) * unit < limit, done.stdout


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_damaged_images_give_pixels_or_our_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a.img"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8))
    mode, kind = data.draw(
        st.sampled_from(
            [
                *[("RGBA", "PNG"), ("P", "PNG"), ("RGB", "JPEG"), ("RGB", "BMP"), ("RGBA", "WEBP")],
                *[("P", "GIF"), ("CMYK", "TIFF"), ("RGBA", "TIFF")],
            ]
        )
    )
    image.convert(mode).save(path, format=kind)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path.write_bytes(
        bytes(whole[: data.draw(st.integers(0, len(whole)))]) if data.draw(st.booleans()) else bytes(whole)
    )
    with contextlib.suppress(UsageError):
        assert read_image(path).dtype == np.uint8


def test_colours() -> None:
    assert [parse_colour(text) for text in ("white", "#FFCC00", "#fc0", "rgb(1, 2, 3)")] == [
        (255,) * 3,
        (255, 204, 0),
        (255, 204, 0),
        (1, 2, 3),
    ]
    for text in ("", "whit", "#12345", "#11223344", "x" * 900):
        with pytest.raises(
            UsageError,
            match=r"--background: '.{0,40}' is not a colour \(expected #rrggbb or a name\)\. Fix: write white",
        ):
            parse_colour(text)


def test_the_nearest_size_has_the_shape_first_and_then_the_area() -> None:
    sizes = [(128, 128), (256, 256), (192, 128), (384, 256)]
    assert fitting_size((100, 100), sizes) == (128, 128) and fitting_size((900, 900), sizes) == (256, 256)
    assert fitting_size((200, 133), sizes) == (192, 128) and fitting_size((4000, 3000), sizes) == (384, 256)


def test_a_shape_changes_by_more_than_rounding_does() -> None:
    assert squashed((192, 128), (128, 128), 8) and squashed((4000, 3000), (512, 376), 8)
    assert not any(
        squashed(*sizes, 8)
        for sizes in (((515, 389), (512, 384)), ((135, 135), (128, 128)), ((4000, 3000), (512, 384)))
    )
    assert [shape(size) for size in ((192, 128), (515, 389), (1, 500), (7, 7))] == ["3:2", "4:3", "1:500", "1:1"]
