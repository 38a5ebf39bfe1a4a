"""What `ondevice train` teaches the demo model, scored by pixels: `python -m benchmarks.train_scores --work FOLDER`.

Each recipe runs as a user runs it: data are written, `ondevice train` is called, what it writes is converted by
`ondevice convert`, and pictures are drawn by this package's runtime.

lcm, lcm_lora: of 100 captions how many are right in 1, 2 and 4 steps of one pass each; before: drawn so by the demo
itself, and by it with the guidance that the student learns, in two passes each.
dreambooth, dreambooth_lora, lora: of 10 pictures of a subject that the demo does not know (shapes/subject.py), taught
by six, how many show it; and how many of the 100 captions, drawn by the same seeds, are right before and after.

Settings are chosen with --choose: by captions of the validation split (no training picture has their combination of
shape, colour and background) and noise of its own. What is reported are captions of the test split, and other noise.

A run that was stopped goes on; what is trained is not trained again, and what is scored not scored again, until its
folder in --work is removed. The exit code is 1 where a score is missed. Minutes are of the training alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.shapes import lessons, subject
from benchmarks.shapes.lessons import SIDE, TAUGHT_IN
from benchmarks.shapes.pictures import held_out_prompts
from benchmarks.shapes.score import score, tally
from ondevice.api import Pipeline
from ondevice.base.publish import published_file
from ondevice.train import lcm_lora

PROMPTS, PICTURES = 100, 10


@dataclass(frozen=True, slots=True)
class Exam:
    """What is drawn: the captions of a split that a seed draws, and the first of the seeds of noise."""

    split: str
    captions: int
    noise: int


CHOICE, REPORT = Exam("validation", 2024, 1000), Exam("test", 2027, 5000)
FEW_NEEDED, SUBJECT_NEEDED, WORSE_ALLOWED = 85, 8, 3
NEW_IN = (  # colours and grounds that the subject is not taught in, some with places
    ("blue", "white", ""), ("red", "black", "on the left"), ("yellow", "green", ""), ("cyan", "purple", "at the top"),
    ("black", "yellow", ""), ("white", "red", "on the right"), ("green", "cyan", ""), ("red", "blue", ""),
    ("purple", "white", "in the top left"), ("cyan", "black", "at the bottom"),
)  # fmt: skip
USUAL = {"num_inference_steps": 20, "guidance_scale": 3.0, "sampler": "ddim"}  # as the demo draws
FEW = (1, 2, 4)  # steps
ONE_PASS = 1.0  # guidance, of a model that is not told of it
DISTILLED = {
    "pretrained_teacher_model": "demo",
    "loss_type": "huber",
    "num_ddim_timesteps": 25,
    "max_train_steps": 300,
    "train_batch_size": 8,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 50,
}
TAUGHT = {
    "pretrained_model_name_or_path": "demo",
    # as the demo was trained: from noise whose mean is always 0 a network learns to read colours off a picture's mean
    # and not off the text, and then it draws any
    "noise_offset": 0.15,
    "snr_gamma": 5,
    "validation_guidance": 3,
}
OF_CLASS = {
    "instance_prompt": f"a {subject.WORD}",  # not read, as the next: each picture has a caption of its own
    "with_prior_preservation": "true",
    "class_prompt": "a shape",
    "num_class_images": lessons.OTHERS,
}


@dataclass(frozen=True, slots=True)
class Scored:
    """A recipe and how it is scored.

    Args:
        settings: what differs from the recipe's defaults.
        convert: words of `ondevice convert`; OUT stands for the folder that was trained into.
        guidance: of its pictures, where it draws in few steps; None: it learns the subject.
    """

    settings: Mapping[str, Any]
    convert: Sequence[str]
    guidance: float | None = None


# shapes are the convolutions' work: attention alone does not learn a new one
ADAPTED = {"rank": 64, "target_modules": (*lcm_lora.LAYERS, *lcm_lora.CONVOLUTIONS), "learning_rate": 1e-3}
LORA = ("demo", "--lora", "OUT/pytorch_lora_weights.safetensors")
RECIPES = {
    "lcm": Scored(
        DISTILLED | {"w_min": 1, "w_max": 3, "learning_rate": 3e-4},
        ("lcm", "--checkpoint", "OUT/model"),
        USUAL["guidance_scale"],
    ),
    # it is told nothing of guidance: it learns that of the demo alone
    "lcm_lora": Scored(DISTILLED | {"w_min": 2, "w_max": 2, "learning_rate": 5e-4, "rank": 64}, LORA, ONE_PASS),
    "dreambooth": Scored(
        TAUGHT
        | OF_CLASS
        | {"learning_rate": 3e-4, "max_train_steps": 500, "train_batch_size": 4, "train_text_encoder": "true"}
        # the last step's weights, and a prior of the picture's own weight, lose 11 of the other 100; the mean alone 6
        | {"use_ema": "true", "ema_decay": 0.99, "prior_loss_weight": 2},
        ("sd15", "--checkpoint", "OUT/model"),
    ),
    "dreambooth_lora": Scored(
        TAUGHT
        | OF_CLASS
        | ADAPTED
        | {"max_train_steps": 600, "train_batch_size": 4, "train_text_encoder": "true"}
        | {"use_ema": "true", "ema_decay": 0.99, "prior_loss_weight": 2},
        LORA,
    ),
    "lora": Scored(
        TAUGHT
        | ADAPTED
        | {"max_train_steps": 600, "train_batch_size": 8, "train_text_encoder": "true"}
        | {"use_ema": "true", "ema_decay": 0.99},
        LORA,
    ),
}


@dataclass(slots=True)
class Row:
    """What came out of a recipe; `lines`: pictures of the subject, ten side by side."""

    recipe: str
    found: dict[str, Any]
    right: bool
    lines: list[np.ndarray] = field(default_factory=list)


class Bench:
    """Runs and scores, in a folder.

    Args:
        work: the folder.
        threads: of the training.
        exam: what is drawn.
    """

    def __init__(self, work: Path, threads: int, exam: Exam) -> None:
        self._work, self._threads, self._exam = work, threads, exam
        self._specs = held_out_prompts(PROMPTS, exam.captions, exam.split)
        self._demo: Pipeline | None = None
        self._before: dict[str, list[np.ndarray]] = {}

    def row(self, recipe: str) -> Row:
        """Train, convert, draw and score one, or read what was scored. Raises ValueError where the folder has a
        training by other settings."""
        how, out = RECIPES[recipe], self._work / recipe
        cost = self._trained(recipe, how.settings | self._data(recipe), out)
        kept, sheet = out / f"score-{self._exam.split}.json", out / f"subject-{self._exam.split}.png"
        if kept.exists() and (about := json.loads(kept.read_text()))["exam"] == asdict(self._exam):
            lines = list(np.split(np.asarray(Image.open(sheet)), 2)) if sheet.exists() else []
            return Row(recipe, about["found"], about["right"], lines)
        bundle = self._bundle(recipe, [word.replace("OUT", str(out)) for word in how.convert])
        pipe = Pipeline.from_bundle(bundle)
        row = self._few(recipe, pipe) if how.guidance is not None else self._taught(recipe, pipe)
        row.found |= cost
        if row.lines:
            Image.fromarray(np.concatenate(row.lines)).save(sheet)
        with published_file(kept) as file:
            file.write(json.dumps({"exam": asdict(self._exam), "found": row.found, "right": row.right}).encode())
        return row

    def _few(self, recipe: str, pipe: Pipeline) -> Row:
        """A row of few steps: by the demo, guided and not, and by what it taught."""
        guidance = RECIPES[recipe].guidance
        assert guidance is not None
        found = {
            name: [self._right(self._drawn_before(_few(steps, passes))) for steps in FEW]
            for name, passes in (("guided", USUAL["guidance_scale"]), ("before", ONE_PASS))
        }
        found["after"] = [self._right(self._drawn(pipe, _few(steps, guidance))) for steps in FEW]
        return Row(recipe, found, found["after"][-1] >= FEW_NEEDED)

    def _taught(self, recipe: str, pipe: Pipeline) -> Row:
        """A row of the subject: in the colours that it was taught in, and in others and at other places."""
        own = [(*TAUGHT_IN[number % len(TAUGHT_IN)], "") for number in range(PICTURES)]
        lines, counts = [], []
        for asked in (own, NEW_IN):
            drawn = self._drawn(pipe, USUAL, [subject.caption(*words) for words in asked])
            shown = [subject.judged(one, *words[:2]) for one, words in zip(drawn, asked, strict=True)]
            counts.append(sum(all(one.values()) for one in shown))
            framed = [_framed(one, all(good.values())) for one, good in zip(drawn, shown, strict=True)]
            lines.append(np.concatenate(framed, 1))
        before, after = self._right(self._drawn_before(USUAL)), self._right(self._drawn(pipe, USUAL))
        found = {"subject": counts[0], "elsewhere": counts[1], "before": before, "after": after}
        return Row(recipe, found, counts[0] >= SUBJECT_NEEDED and before - after <= WORSE_ALLOWED, lines)

    def _drawn(self, pipe: Pipeline, how: Mapping[str, Any], captions: Sequence[str] = ()) -> list[np.ndarray]:
        """Pictures of captions, the exam's if there are none, each of noise of its own."""
        found = []
        for number, caption in enumerate(captions or [one.caption for one in self._specs]):
            picture = pipe(caption, seed=self._exam.noise + number, **how).pixels
            assert picture is not None, "no other model goes on"
            found.append(picture)
        return found

    def _drawn_before(self, how: Mapping[str, Any]) -> list[np.ndarray]:
        """The same of the exam by the demo itself."""
        key = json.dumps(how)
        if key not in self._before:
            if self._demo is None:
                self._demo = Pipeline.from_bundle(self._bundle("demo", ["demo"]))
            self._before[key] = self._drawn(self._demo, how)
        return self._before[key]

    def _right(self, pictures: Sequence[np.ndarray]) -> int:
        """How many of the exam's captions are drawn right."""
        return tally([score(picture, spec) for picture, spec in zip(pictures, self._specs, strict=True)])["all"]

    def _trained(self, recipe: str, settings: Mapping[str, Any], out: Path) -> dict[str, Any]:
        """Train, or go on, unless it is done: minutes of clock and of processor, with those of runs before. Raises
        ValueError where there is a run by other settings."""
        cost = out / "cost.json"
        spent = json.loads(cost.read_text()) if cost.exists() else {"seconds": 0.0, "processor_s": 0.0, "done": False}
        usual = {"resolution": SIDE, "seed": 0, "mixed_precision": "no", "checkpointing_steps": 100}
        usual |= {"checkpoints_total_limit": 1, "resume_from_checkpoint": "latest", "output_dir": out}
        words = []
        for name, value in (usual | settings).items():
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
        if spent.setdefault("words", words) != words:
            raise ValueError(f"{out} is of a training by other settings: remove it, or give another --work")
        if spent["done"]:
            return _minutes(spent)
        environment = os.environ | {"OMP_NUM_THREADS": str(self._threads)}
        began, used = time.perf_counter(), _of_children()
        try:
            subprocess.run([sys.executable, "-m", "ondevice", "train", recipe, *words], check=True, env=environment)
            spent["done"] = True
        finally:
            spent["seconds"] += time.perf_counter() - began
            spent["processor_s"] += _of_children() - used
            out.mkdir(parents=True, exist_ok=True)
            with published_file(cost) as file:
                file.write(json.dumps(spent).encode())
        return _minutes(spent)

    def _bundle(self, name: str, words: Sequence[str]) -> Path:
        bundle = self._work / f"{name}.ondevice"
        command = ["convert", *words, "--size", f"{SIDE}x{SIDE}", "--out", str(bundle), "--force"]
        subprocess.run([sys.executable, "-m", "ondevice", *command], check=True, stdout=subprocess.DEVNULL)
        return bundle

    def _data(self, recipe: str) -> dict[str, Any]:
        """What a recipe reads, as settings of it."""
        data = self._work / "data"
        if recipe in ("lcm", "lcm_lora"):
            return {"train_shards_path_or_url": lessons.write_shards(data / "shards")}
        if recipe == "lora":
            return {"data_dir": lessons.write_captioned(data / "captioned")}
        return {
            "instance_data_dir": lessons.write_subject(data / "subject"),
            "class_data_dir": lessons.write_class(data / "class"),
        }


def _few(steps: int, guidance: float) -> dict[str, Any]:
    return {"num_inference_steps": steps, "guidance_scale": guidance, "sampler": "lcm"}


def _steps(numbers: Sequence[int]) -> str:
    return " / ".join(map(str, numbers))


def _framed(picture: np.ndarray, right: bool) -> np.ndarray:
    """With a line around it, red where it is wrong."""
    framed = np.pad(picture, ((2, 2), (2, 2), (0, 0)), constant_values=255)
    if not right:
        framed[[0, 1, -2, -1]] = framed[:, [0, 1, -2, -1]] = (255, 0, 0)
    return framed


def write_sheet(rows: Sequence[Row], path: Path) -> None:
    """The subject's pictures above those that each recipe drew of it."""
    taught = [_framed(one, True) for one, _ in lessons.subjects()]
    blank = np.full_like(taught[0], 255)
    lines = taught + [blank] * (PICTURES - len(taught))
    sheet = np.concatenate([np.concatenate(lines, 1), *(line for row in rows for line in row.lines)])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).quantize(128).save(path, optimize=True)  # flat colours need no more


def _minutes(spent: Mapping[str, Any]) -> dict[str, Any]:
    return {"minutes": round(spent["seconds"] / 60, 1), "processor_minutes": round(spent["processor_s"] / 60, 1)}


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def to_text(rows: Sequence[Row]) -> str:
    """Markdown tables: of those that draw in few steps, and of those that learn the subject."""
    lines = []
    few = [row for row in rows if RECIPES[row.recipe].guidance is not None]
    taught = [row for row in rows if RECIPES[row.recipe].guidance is None]
    for some, heads in (
        (few, [f"{word}, in {_steps(FEW)}" for word in ("before, guided", "unguided", "after")]),
        (taught, [f"subject, of {PICTURES}", f"elsewhere, of {PICTURES}", f"others before, of {PROMPTS}", "after"]),
    ):
        if some:
            heads = ["recipe", *heads, "minutes", "of processor", "score"]
            lines += ["", f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 2)}---|"]
        for row in some:
            found = row.found
            cells = (
                [_steps(found[name]) for name in ("guided", "before", "after")]
                if row in few
                else [found[name] for name in ("subject", "elsewhere", "before", "after")]
            )
            cells += [found["minutes"], found["processor_minutes"], "kept" if row.right else "MISSED"]
            lines.append(f"| {' | '.join([f'`{row.recipe}`', *map(str, cells)])} |")
    return "\n".join(lines[1:])


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER", help="data, runs and bundles")
    parser.add_argument("--only", default=",".join(RECIPES), help="recipes, by commas (default: %(default)s)")
    parser.add_argument("--choose", action="store_true", help="score by what settings are chosen by")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the training")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="the subject, and what each recipe drew of it")
    parser.add_argument("--rows", type=Path, metavar="FILE.jsonl", help="append a line for each recipe")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := sorted({*names} - {*RECIPES}):
        parser.error(f"unknown recipe {unknown[0]} (expected some of {','.join(RECIPES)})")
    args.work.mkdir(parents=True, exist_ok=True)
    bench, rows = Bench(args.work, args.threads, CHOICE if args.choose else REPORT), []
    for name in names:
        try:
            rows.append(bench.row(name))
        except subprocess.CalledProcessError as error:  # it has said what is wrong
            print(f"{name}: ondevice {error.cmd[3]} ended with {error.returncode}", file=sys.stderr)
            return 1
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        print(json.dumps({"recipe": name, **rows[-1].found}), file=sys.stderr, flush=True)
        if args.rows:
            with args.rows.open("a") as file:
                file.write(json.dumps({"recipe": name, **rows[-1].found}) + "\n")
    print(to_text(rows))
    if args.sheet:
        write_sheet(rows, args.sheet)
    return int(not all(row.right for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
