"""How training is scored: the judge of the subject against pictures without it, and what is said of runs."""

import json
import random
import tarfile

import numpy as np
import pytest

from benchmarks import train_scores
from benchmarks.shapes import lessons, subject
from benchmarks.shapes.pictures import COLOURS, PALETTE, SHAPES, render, sample, split_of
from benchmarks.shapes.score import find_object


def shown(picture, colour="red", ground="white"):
    return [name for name, right in subject.judged(picture, colour, ground).items() if right]


ALL = ["background", "colour", "shape"]


def test_the_subject_is_seen_in_every_colour_and_size():
    for place, ground in enumerate(COLOURS):
        colour = COLOURS[place - 3]
        for r in (0.16, 0.38):
            assert shown(subject.drawn(colour, ground, 0.45, 0.55, r), colour, ground) == ALL
    taught = list(lessons.subjects())
    assert len(taught) == 6
    for picture, text in taught:
        _, colour, *_, ground, _ = text.split()
        assert shown(picture, colour, ground) == ALL


def test_no_picture_without_it_passes():
    rng = random.Random(5)
    for _ in range(60):
        spec = sample(rng)
        assert shown(render(spec), spec.colour, spec.background) == ["background", "colour"], spec.caption
    assert shown(np.full((128, 128, 3), 248, np.uint8)) == ["background"]


def blocks(*boxes, colour="red"):
    """A picture of boxes (x, y, width, height) on white."""
    picture = np.full((128, 128, 3), PALETTE["white"], np.uint8)
    for x, y, width, height in boxes:
        picture[y : y + height, x : x + width] = PALETTE[colour]
    return picture


UPRIGHT, FLAT = (52, 30, 24, 68), (30, 52, 68, 24)


@pytest.mark.parametrize(
    "picture, wrong",
    [
        (blocks(UPRIGHT, FLAT), []),
        (blocks(UPRIGHT, FLAT, colour="purple"), ["colour"]),
        (blocks(UPRIGHT), ["shape"]),
        (blocks(UPRIGHT, (30, 30, 68, 24)), ["shape"]),  # a T
        (blocks((40, 30, 48, 68), (30, 40, 68, 48)), ["shape"]),  # a square without its corners
        (blocks(UPRIGHT, FLAT, (0, 100, 70, 28)), ["shape"]),  # with as much beside it
        (blocks((60, 56, 8, 16), (56, 60, 16, 8)), ["colour", "shape"]),  # too small
    ],
)
def test_what_is_nearly_it_is_not(picture, wrong):
    assert [name for name in ALL if name not in shown(picture)] == wrong


def test_another_ground_is_wrong():
    assert shown(subject.drawn("red", "green", 0.5, 0.5, 0.27), "red", "blue") == ALL[1:]


def test_data_hold_nothing_that_is_asked_for(tmp_path, monkeypatch):
    """Captions of what is distilled and of what keeps a LoRA are of the training split; the subject's word is in
    none of its shapes'."""
    monkeypatch.setattr(lessons, "OF_SHARD", 10)
    pattern = lessons.write_shards(tmp_path / "shards")
    assert pattern == f"{tmp_path}/shards/{{000..003}}.tar"
    captions = []
    for path in sorted((tmp_path / "shards").iterdir()):
        with tarfile.open(path) as tar:
            captions += [tar.extractfile(one).read().decode() for one in tar if one.name.endswith(".txt")]
    assert len(captions) == 40
    folders = [lessons.write_class(tmp_path / "class"), lessons.write_captioned(tmp_path / "captioned")]
    rows = [[json.loads(line)["text"] for line in (one / "metadata.jsonl").read_text().splitlines()] for one in folders]
    of_class, mixed = rows
    assert len(of_class) == 120 and of_class.count("") == 12
    assert mixed[:120] == of_class and sorted({*mixed[120:]}) == sorted(
        subject.caption(*one) for one in lessons.TAUGHT_IN
    )
    assert len(mixed) == 240
    captions += filter(None, of_class)
    for text in captions:
        words = text.split()
        shape = next(word for word in words if word in SHAPES)
        assert split_of(shape, words[words.index(shape) - 1], words[-2]) == "train", text
        assert subject.WORD not in words
    asked = {(*colours, "") for colours in lessons.TAUGHT_IN}
    assert not asked & {*train_scores.NEW_IN} and len({*train_scores.NEW_IN}) == train_scores.PICTURES
    pictures = lessons.write_subject(tmp_path / "subject")
    assert len(list(pictures.glob("*.png"))) == len((pictures / "metadata.jsonl").read_text().splitlines()) == 6


def test_what_is_said(tmp_path):
    cost = {"minutes": 2.5, "processor_minutes": 1.5}
    picture = np.zeros((128, 128, 3), np.uint8)
    rows = [
        train_scores.Row("lcm", {"before": [50, 80, 90], "after": [70, 90, 84]} | cost, False),
        train_scores.Row(
            "lora", {"subject": 9, "elsewhere": 7, "before": 99, "after": 97} | cost, True,
            [train_scores._framed(picture, number % 2 == 0) for number in range(20)],
        ),
    ]  # fmt: skip
    assert train_scores.to_text(rows).splitlines() == [
        "| recipe | before, in 1 | after, in 1 | before, in 2 | after, in 2 | before, in 4 | after, in 4 | minutes "
        "| of processor | score |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
        "| `lcm` | 50 | 70 | 80 | 90 | 90 | 84 | 2.5 | 1.5 | MISSED |",
        "",
        "| recipe | subject, of 10 | elsewhere, of 10 | others before, of 100 | after | minutes | of processor "
        "| score |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
        "| `lora` | 9 | 7 | 99 | 97 | 2.5 | 1.5 | kept |",
    ]
    train_scores.write_sheet(rows[1:], tmp_path / "sheet.png")
    with train_scores.Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape == (3 * 132, 10 * 132, 3)
    assert tuple(pixels[132, 0]) == (255, 255, 255) and tuple(pixels[132, 132]) == (255, 0, 0)
    assert find_object(pixels[2:130, 2:130])[0] == pytest.approx(PALETTE["white"], abs=2)
