"""Films: what a reader sees of them, how long each frame is shown, what is refused; frames that are there already."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence, PngImagePlugin

from ondevice.diffusion.film import MOST_PIXELS, Timing, check_film, film_format, indexed, write_film
from ondevice.diffusion.frame_files import MADE, digest, read_frame
from ondevice.diffusion.picture_file import write_picture
from ondevice.diffusion.values import chunks_of
from ondevice.errors import UsageError

PARAMETERS = {"prompt": 'a red "circle", été 猫', "inversion": "ddim", "version": "ondevice 1"}


def frames(count: int, height: int = 40, width: int = 56) -> list[np.ndarray]:
    """A disc on a ramp that moves and changes its colour, uint8[h, w, 3]."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    found = []
    for number in range(count):
        part = number / max(count - 1, 1)
        ramp = np.stack([255 * x / width, 255 * y / height, np.full_like(x, 255 * part)], axis=-1)
        disc = (x - width * (0.2 + 0.6 * part)) ** 2 + (y - height / 2) ** 2 < 120
        ramp[disc] = (250 * part, 200, 255 - 250 * part)
        found.append(ramp.astype(np.uint8))
    return found


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else np.inf


@pytest.mark.parametrize(
    ("name", "size", "least"), [("a.webp", (40, 56), np.inf), ("a.webp", (192, 384), 30), ("a.GIF", (40, 56), 33)]
)
def test_a_film_is_its_frames(name: str, size: tuple[int, int], least: float, tmp_path: Path) -> None:
    path, shown = tmp_path / name, frames(7, *size)
    path.write_bytes(b"old")
    write_film(path, iter(shown), 7, Timing(8, 0), PARAMETERS)
    with Image.open(path) as film:
        assert film.n_frames == 7 and film.size == size[::-1] and film.info["loop"] == 0
        for frame, expected in zip(ImageSequence.Iterator(film), shown, strict=True):
            assert psnr(np.asarray(frame.convert("RGB")), expected) >= least
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_a_film_as_mp4(tmp_path: Path) -> None:
    """As PyAV reads it: the frames but for colours that four pixels share, the rate, what it was made with. Colours are
    BT.709's: full red is red, and not orange."""
    path, shown = tmp_path / "a.mp4", frames(7, 64, 96)
    shown[3][:] = (255, 0, 0)
    write_film(path, iter(shown), 7, Timing(7.5), PARAMETERS)
    with av.open(str(path)) as film:
        video = film.streams.video[0]
        assert video.average_rate == 7.5 and json.loads(film.metadata["comment"]) == PARAMETERS
        assert video.codec_context.name == "h264" and video.codec_context.colorspace == 1
        found = [frame.to_ndarray(format="rgb24") for frame in film.decode(video)]
    assert len(found) == 7 and min(map(psnr, found, shown)) > 27
    assert np.abs(found[3].astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("rate", [10, 12, 24, 50, 0.1])
@pytest.mark.parametrize("name", ["a.webp", "a.gif"])
def test_frames_are_shown_as_long_as_the_rate_says(name: str, rate: float, tmp_path: Path) -> None:
    path, shown = tmp_path / name, frames(13, 8, 8)
    write_film(path, iter(shown), 13, Timing(rate), PARAMETERS)
    with Image.open(path) as film:
        times = [(film.seek(number), film.load(), film.info["duration"])[2] for number in range(film.n_frames)]
    tick = 10 if name == "a.gif" else 1
    ends = itertools.accumulate(times)
    assert all(abs(end - (number + 1) * 1000 / rate) <= tick / 2 for number, end in enumerate(ends))
    assert min(times) >= 20


@pytest.mark.parametrize(("loops", "in_gif"), [(0, 0), (1, None), (3, 2)])
def test_how_often_it_plays(loops: int, in_gif: int | None, tmp_path: Path) -> None:
    """A GIF says how often more; without a word it is played once."""
    for name, expected in (("a.webp", loops), ("a.gif", in_gif)):
        write_film(tmp_path / name, iter(frames(3)), 3, Timing(10, loops), PARAMETERS)
        with Image.open(tmp_path / name) as film:
            assert film.info.get("loop") == expected


def test_what_it_was_made_with_is_inside(tmp_path: Path) -> None:
    for name in ("a.webp", "a.gif"):
        write_film(tmp_path / name, iter(frames(3)), 3, Timing(), PARAMETERS)
        with Image.open(tmp_path / name) as film:
            told = film.info["comment"] if name == "a.gif" else film.info["xmp"]
            assert b"inversion" in told and b"ddim" in told
            if name == "a.gif":
                assert json.loads(told) == PARAMETERS


def test_colours_of_a_gif_are_the_frames_own() -> None:
    """A photograph's worth of colours: better than one palette for all, and than Pillow's own choice."""
    for pixels in frames(4, 96, 128)[1:]:
        ours = psnr(np.asarray(indexed(pixels).convert("RGB")), pixels)
        web = Image.fromarray(pixels).convert("P", palette=Image.Palette.WEB).convert("RGB")
        assert ours > 34 and ours > psnr(np.asarray(web), pixels) + 8


@pytest.mark.parametrize(
    ("count", "have", "most", "chunks"),
    [
        (5, {1, 2}, None, [2, 2, 1]),
        (5, {1, 2}, 1, [1] * 5),
        (5, {1, 2, 4}, 3, [2, 2, 1]),
        (14, {7, 14}, None, [14]),
        (5, {2}, None, [2, 2]),  # the last one has no plan
        (5, {2}, 1, []),
    ],
)
def test_frames_at_a_time(count: int, have: set[int], most: int | None, chunks: list[int]) -> None:
    assert chunks_of(count, have, most) == chunks


@pytest.mark.parametrize(
    ("timing", "said"),
    [
        ((0.05, 0), "--fps: out of range (got 0.05, expected 0.1 to 50 frames per second). Fix: use 10."),
        ((60, 0), "--fps: out of range (got 60, expected 0.1 to 50 frames per second). Fix: use 10."),
        ((float("nan"), 0), "--fps: out of range (got nan, expected 0.1 to 50 frames per second). Fix: use 10."),
        ((10, -1), "--loop: out of range (got -1, expected 0 to 65535; 0: for ever). Fix: use 0 or 1."),
        ((10, 65536), "--loop: out of range (got 65536, expected 0 to 65535; 0: for ever). Fix: use 0 or 1."),
    ],
)
def test_timings_that_no_file_has(timing: tuple[float, int], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Timing(*timing)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("name", "count", "size", "said"),
    [
        ("a.avi", 2, (8, 8), "a.avi: films are written as WebP, GIF or MP4 (got '.avi', expected .webp, .gif, .mp4)."),
        ("a.mp4", 2, (8, 9), "a.mp4: an MP4 has an even number of pixels per side (got 8x9). Fix: name it a.webp."),
        ("a.mp4", 2, (4098, 8), "a.mp4: a MP4 has at most 4096 pixels per side (got 4098x8)."),
        (
            "a.webp",
            2,
            (16384, 8),
            "a.webp: a WEBP has at most 16383 pixels per side (got 16384x8). Fix: make a smaller",
        ),
        ("a.gif", 2, (8, 65536), "a.gif: a GIF has at most 65535 pixels per side (got 8x65536)."),
        (
            "a.gif",
            129,
            (1024, 1024),
            f"a.gif: the film is too large (got 135266304 pixels in 129 frames, expected at most {MOST_PIXELS}). "
            "Fix: use at most 128 frames.",
        ),
    ],
)
def test_films_that_are_refused(name: str, count: int, size: tuple[int, int], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_film(Path(name), count, size)
    assert str(caught.value).startswith(said)
    assert film_format(Path("x.WebP")) == "WEBP" and film_format(Path("x")) is None


def test_a_film_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    def broken():
        yield from frames(2)
        raise KeyboardInterrupt

    path = tmp_path / "a.webp"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_film(path, broken(), 3, Timing(), PARAMETERS)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UsageError, match=r"cannot be written \(No such file or directory\)"):
        write_film(tmp_path / "none" / "a.gif", iter(frames(2)), 2, Timing(), PARAMETERS)


FROM = {"bundle": "1", "part": 0.5}


@pytest.fixture
def frame(tmp_path: Path) -> tuple[Path, np.ndarray, dict[str, Any]]:
    path, pixels = tmp_path / "frame.png", frames(1)[0]
    parameters = PARAMETERS | {MADE: digest(FROM, pixels)}
    write_picture(path, pixels, parameters)
    return path, pixels, parameters


def test_a_frame_that_is_right_is_known_again(frame: tuple[Path, np.ndarray, dict[str, Any]]) -> None:
    path, pixels, parameters = frame
    found = read_frame(path, (56, 40), FROM)
    assert found is not None and found[1] == parameters
    np.testing.assert_array_equal(found[0], pixels)


def test_a_frame_that_is_not_is_drawn_anew(frame: tuple[Path, np.ndarray, dict[str, Any]], tmp_path: Path) -> None:
    path, pixels, parameters = frame
    assert read_frame(path, (56, 40), FROM | {"part": 0.25}) is None
    assert read_frame(path, (40, 56), FROM) is None
    assert read_frame(tmp_path / "none.png", (56, 40), FROM) is None
    assert read_frame(tmp_path, (56, 40), FROM) is None
    other = tmp_path / "other.png"
    changed = pixels.copy()
    changed[3, 4, 1] ^= 1
    write_picture(other, changed, parameters)
    assert read_frame(other, (56, 40), FROM) is None
    turned = np.ascontiguousarray(pixels.transpose(1, 0, 2))  # the same bytes in other rows are another picture
    assert digest(FROM, pixels.reshape(56, 40, 3)) != digest(FROM, pixels) != digest(FROM, turned)
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], data.replace(b"IDAT", b"IDAX"), b"", b"GIF89a"):
        other.write_bytes(broken)
        assert read_frame(other, (56, 40), FROM) is None


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"made": 3}', "{", '{"made": "\\ud800"}'])
def test_frames_that_say_nothing_of_themselves(text: str, tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("ondevice", text)
    Image.fromarray(frames(1)[0]).save(tmp_path / "a.png", pnginfo=info)
    assert read_frame(tmp_path / "a.png", (56, 40), FROM) is None
    Image.fromarray(frames(1)[0]).convert("P").save(tmp_path / "a.png", pnginfo=info)
    assert read_frame(tmp_path / "a.png", (56, 40), FROM) is None
    shutil.rmtree(tmp_path)
