"""Captions with what they say, films with motion numbers, and masks: what is read, what is taken, what is refused."""

import json

import numpy as np
import pytest
from checkpoint_files import message
from PIL import Image

from ondevice.errors import UsageError
from ondevice.train.films import Stretch, films_of
from ondevice.train.labels import labels_of
from ondevice.train.masks import random_mask


def lines(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else f"{json.dumps(row)}\n" for row in rows))
    return path


def test_what_captions_say(tmp_path):
    rows = [{"text": "a red disc", "colour": "red", "size": "none"}, {"size": "big", "text": "b", "colour": "blue"}]
    found = labels_of(lines(tmp_path / "a.jsonl", *rows, "\n", rows[0]), "text")
    assert found.captions == ["a red disc", "b", "a red disc"]
    assert found.words == {"colour": ["blue", "red"], "size": ["big", "none"]}
    assert found.places == [(1, 1), (0, 0), (1, 1)]


GOOD = {"caption": "a", "colour": "red"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "a.jsonl: it has no lines. Fix: write lines"),
        ([GOOD, "{\n"], "a.jsonl, line 2: the line is no JSON (Expecting"),
        ([GOOD, {"colour": "red"}], "line 2: the line has no caption, or something that is no text."),
        ([{"caption": "a", "colour": 3}], "line 1: the line has no caption, or something that is no text."),
        ([GOOD, {"caption": "a", "size": "big"}], "first line, or none or too many (got size). Fix: write lines"),
        ([{"caption": "a"}], "line 1: its names are not those of the first line, or none or too many (got none)."),
        (["x" * 70000], "line 1: the line is longer than 65536 bytes."),
        ([{"caption": "a", "name": str(number)} for number in range(4097)], "name says too many things (got 4097, "),
    ],
)
def test_lines_that_are_refused(rows, said, tmp_path):
    assert said in message(lambda: labels_of(lines(tmp_path / "a.jsonl", *rows), "caption"), UsageError)


def test_no_file_of_captions(tmp_path):
    said = message(lambda: labels_of(tmp_path / "gone", "caption"), UsageError)
    assert (
        said
        == f"--input_path {tmp_path / 'gone'}: it cannot be read (No such file or directory). Fix: give a JSONL file."
    )


def film(path, count=5, width=12, height=8, **more):
    """A film whose frame k is of the grey 40 k."""
    first, *rest = (Image.new("RGB", (width, height), (40 * k,) * 3) for k in range(count))
    first.save(path, save_all=True, append_images=rest, duration=100, **more)
    return path


@pytest.mark.parametrize("ending, more", [("png", {}), ("webp", {"lossless": True}), ("gif", {})])
def test_frames_of_a_film(ending, more, tmp_path):
    path = film(tmp_path / f"a.{ending}", **more)
    begins = set()
    for seed in range(12):
        found = Stretch(3, 6, 6).of(path, np.random.default_rng(seed))
        assert found.shape == (3, 6, 6, 3) and found.dtype == np.uint8
        begins.add(int(found[0, 0, 0, 0]))
        assert np.abs(np.diff(found[:, 0, 0, 0].astype(int)) - 40).max() <= 2
    assert {round(begin / 40) for begin in begins} == {0, 1, 2}


def test_a_film_is_made_to_cover_and_cut_in_the_middle(tmp_path):
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = Stretch(1, 4, 4).of(tmp_path / "a.png", np.random.default_rng(0))
    assert (found == 200).all()
    assert Stretch(1, 24, 8).of(tmp_path / "a.png", np.random.default_rng(0)).shape == (1, 8, 24, 3)


def test_a_film_that_takes_gigabytes_on_its_way_is_refused(tmp_path):
    Image.new("L", (60000, 1)).save(tmp_path / "a.png")
    with pytest.raises(
        UsageError, match=r"as a film \(its frames are too narrow or too low, 60000x1\)\. Fix: remove it"
    ):
        Stretch(1, 512, 512).of(tmp_path / "a.png", np.random.default_rng(0))


def test_films_of_a_folder(tmp_path):
    film(tmp_path / "a.png")
    lines(tmp_path / "metadata.jsonl", {"file_name": "a.png", "motion_bucket_id": 3}, "\n",
          {"file_name": "a.png", "motion_bucket_id": 0, "fps": 24})  # fmt: skip
    assert [(one.path.name, one.motion, one.fps) for one in films_of(tmp_path, 7)] == [
        ("a.png", 3, 7),
        ("a.png", 0, 24),
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"file_name": "a.png"}, "line 1: the line has no file_name and motion_bucket_id, a text and a number."),
        ({"file_name": "a.png", "motion_bucket_id": True}, "line 1: the line has no file_name and motion_bucket_id"),
        ({"file_name": "a.png", "motion_bucket_id": 1, "fps": -1}, "line 1: the line has no file_name"),
        ({"file_name": "../a.png", "motion_bucket_id": 1}, "line 1: file_name leads out of the folder."),
        ({"file_name": "b.png", "motion_bucket_id": 1}, "line 1: there is no film b.png. Fix: take the line out."),
        ("\n", "metadata.jsonl: it names no film. Fix: write a line such as"),
        (None, "there is no metadata.jsonl that can be read (No such file or directory). Fix: write a line such"),
    ],
)
def test_films_that_are_refused(row, said, tmp_path):
    film(tmp_path / "a.png")
    if row is not None:
        lines(tmp_path / "metadata.jsonl", row)
    assert said in message(lambda: films_of(tmp_path, 7), UsageError)


def test_films_that_are_too_short_or_none(tmp_path):
    rng = np.random.default_rng(0)
    said = message(lambda: Stretch(6, 8, 8).of(film(tmp_path / "a.png"), rng), UsageError)
    assert "a.png: it has too few frames, or too large ones (got 5 of 12x8). Fix: give films of 6 frames or" in said
    (tmp_path / "b.png").write_bytes(b"no film")
    said = message(lambda: Stretch(1, 8, 8).of(tmp_path / "b.png", rng), UsageError)
    assert "b.png: it cannot be read as a film (" in said


def test_masks():
    """A quarter are everything; boxes are of 0.2 to 0.8 each way; each has something to draw."""
    masks = [random_mask(np.random.default_rng(seed), 40, 56) for seed in range(400)]
    assert {mask.shape for mask in masks} == {(40, 56)} and all(mask.any() for mask in masks)
    whole = sum(mask.all() for mask in masks)
    assert 70 <= whole <= 130
    boxes = 0
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all() and not mask.all():
            boxes += 1
            assert 7 <= len(rows) <= 33 and 10 <= len(columns) <= 46
    assert 120 <= boxes <= 200
    assert random_mask(np.random.default_rng(3), 1, 1).shape == (1, 1)
