"""How training is scored: the judge of the subject against pictures without it, and what is said of runs."""

import argparse
import json
import random
import tarfile

import numpy as np
import pytest

from benchmarks import train_scores
from benchmarks.shapes import lessons, subject
from benchmarks.shapes.pictures import COLOURS, PALETTE, SHAPES, held_out_prompts, render, sample, split_of
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
    assert len(mixed) == 120 + 6 * lessons.OFTEN
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


def test_what_settings_are_chosen_by_is_not_reported():
    """Captions are of splits that share no combination, and none with the training's; noise is other noise."""
    drawn = {}
    for exam in (train_scores.CHOICE, train_scores.REPORT):
        specs = held_out_prompts(100, exam.captions, exam.split)
        assert {split_of(one.shape, one.colour, one.background) for one in specs} == {exam.split}
        drawn[exam.split] = {exam.noise + number for number in range(100)}
    assert drawn.keys() == {"validation", "test"} and not drawn["validation"] & drawn["test"]


class Drawer:
    """A pipeline that draws what is asked for, the subject, too; the first `wrong` seeds in grey."""

    def __init__(self, wrong=0):
        self.wrong, self.asked = wrong, []
        self.shapes = {one.caption: render(one) for one in held_out_prompts(20, train_scores.REPORT.captions)}

    def __call__(self, caption, seed, **how):
        self.asked.append(how)
        picture = self.shapes.get(caption)
        if picture is None:
            _, colour, thing, *_, ground, _ = caption.split()
            assert thing == subject.WORD
            picture = subject.drawn(colour, ground, 0.5, 0.5, 0.27)
        if seed - train_scores.REPORT.noise < self.wrong:
            picture = np.full_like(picture, 128)
        return argparse.Namespace(pixels=picture)


def test_rows_are_scored_once(tmp_path, monkeypatch):
    """A row that was scored is read, trainings by other settings are refused, and what is drawn is the report's."""
    monkeypatch.setattr(train_scores, "PROMPTS", 20)
    monkeypatch.setattr(train_scores, "FEW_NEEDED", 17)
    monkeypatch.setattr(train_scores, "SUBJECT_NEEDED", 5)
    ran, pipes = [], {"demo.ondevice": Drawer(1), "lora.ondevice": Drawer(5), "lcm.ondevice": Drawer(4)}
    monkeypatch.setattr(train_scores.subprocess, "run", lambda words, **_: ran.append(words[3:5]))
    monkeypatch.setattr(train_scores.Pipeline, "from_bundle", lambda path: pipes[path.name])
    monkeypatch.setattr(lessons, "OF_SHARD", 1)
    bench = train_scores.Bench(tmp_path, 1, train_scores.REPORT)
    lora, lcm = bench.row("lora"), bench.row("lcm")
    assert ran == [["train", "lora"], ["convert", "demo"], ["convert", "demo"], ["train", "lcm"], ["convert", "lcm"]]
    cost = {"minutes": 0.0, "processor_minutes": 0.0}
    assert lora.found == {"subject": 5, "elsewhere": 5, "before": 19, "after": 15} | cost and not lora.right
    assert lcm.found == {"guided": [19] * 3, "before": [19] * 3, "after": [16] * 3} | cost and not lcm.right
    guidances = [how["guidance_scale"] for how in pipes["demo.ondevice"].asked]
    assert guidances == [3.0] * 20 + [3.0] * 60 + [1.0] * 60
    assert {how["num_inference_steps"] for how in pipes["lcm.ondevice"].asked} == {1, 2, 4}
    pipes["lora.ondevice"].wrong = pipes["lcm.ondevice"].wrong = 0
    again = train_scores.Bench(tmp_path, 1, train_scores.REPORT)
    assert again.row("lora").found == lora.found and again.row("lcm").found == lcm.found
    np.testing.assert_array_equal(np.stack(again.row("lora").lines), np.stack(lora.lines))
    assert len(ran) == 5
    (tmp_path / "lcm" / "score-test.json").unlink()
    pipes["lcm.ondevice"].wrong = 3
    assert again.row("lcm").right and ran[5:] == [["convert", "lcm"], ["convert", "demo"]]
    other = dict(train_scores.RECIPES["lora"].settings) | {"rank": 5}
    monkeypatch.setitem(train_scores.RECIPES, "lora", train_scores.Scored(other, train_scores.LORA))
    with pytest.raises(ValueError, match=r"lora is of a training by other settings: remove it, or give another --work"):
        again.row("lora")


def test_what_is_said(tmp_path):
    cost = {"minutes": 2.5, "processor_minutes": 1.5}
    picture = np.zeros((128, 128, 3), np.uint8)
    rows = [
        train_scores.Row("lcm", {"guided": [7, 30, 50], "before": [50, 80, 90], "after": [70, 90, 84]} | cost, False),
        train_scores.Row(
            "lora", {"subject": 9, "elsewhere": 7, "before": 99, "after": 97} | cost, True,
            [np.concatenate([train_scores._framed(picture, number % 2 == 0) for number in range(10)], 1)] * 2,
        ),
    ]  # fmt: skip
    assert train_scores.to_text(rows).splitlines() == [
        "| recipe | before, guided, in 1 / 2 / 4 | unguided, in 1 / 2 / 4 | after, in 1 / 2 / 4 | minutes "
        "| of processor | score |",
        "|---|---:|---:|---:|---:|---:|---|",
        "| `lcm` | 7 / 30 / 50 | 50 / 80 / 90 | 70 / 90 / 84 | 2.5 | 1.5 | MISSED |",
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
