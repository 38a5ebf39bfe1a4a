"""What `ondevice train` teaches the demo model, scored by pixels: `python -m benchmarks.train_scores --work FOLDER`.

Each recipe runs as a user runs it: data are written, `ondevice train` is called, what it writes is converted by
`ondevice convert`, and pictures are drawn by this package's runtime.

lcm, lcm_lora: of 100 captions whose combinations of shape, colour and background no training picture has, how many are
right in 1, 2 and 4 steps of one pass each; before: drawn so by the demo itself.
dreambooth, dreambooth_lora, lora: of 10 pictures of a subject that the demo does not know (shapes/subject.py), taught
by six, how many show it; and how many of the 100 captions, drawn by the same seeds, are right before and after.

A run that was stopped goes on, and what is trained is not trained again, until its folder in --work is removed. The
exit code is 1 where a score is missed. Minutes are of the training alone, with the pictures of the class that
DreamBooth draws, if they are not there yet.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.shapes import lessons, subject
from benchmarks.shapes.lessons import SIDE, TAUGHT_IN
from benchmarks.shapes.pictures import held_out_prompts
from benchmarks.shapes.score import score, tally
from ondevice.api import Pipeline
from ondevice.train import lcm_lora

PROMPTS, PICTURES = 100, 10
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
    "num_ddim_timesteps": 20,
    "w_min": 0.5,
    "w_max": 3,
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
ADAPTED = {"rank": 16, "target_modules": (*lcm_lora.LAYERS, *lcm_lora.CONVOLUTIONS), "learning_rate": 1e-3}
LORA = ("demo", "--lora", "OUT/pytorch_lora_weights.safetensors")
RECIPES = {
    "lcm": Scored(
        DISTILLED | {"learning_rate": 3e-4, "max_train_steps": 200},
        ("lcm", "--checkpoint", "OUT/model"),
        2.0,
    ),
    "lcm_lora": Scored(DISTILLED | {"learning_rate": 1e-3, "max_train_steps": 80, "rank": 16}, LORA, ONE_PASS),
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
        | {"rank": 64, "max_train_steps": 600, "train_batch_size": 4, "train_text_encoder": "true"}
        | {"use_ema": "true", "ema_decay": 0.99, "prior_loss_weight": 1.5},
        LORA,
    ),
    "lora": Scored(
        TAUGHT | ADAPTED | {"max_train_steps": 300, "train_batch_size": 4},
        LORA,
    ),
}


@dataclass(slots=True)
class Row:
    """What came out of a recipe."""

    recipe: str
    found: dict[str, Any]
    right: bool
    pictures: list[np.ndarray] = field(default_factory=list)


class Bench:
    """Runs and scores, in a folder.

    Args:
        work: the folder.
        threads: of the training.
    """

    def __init__(self, work: Path, threads: int) -> None:
        self._work, self._threads = work, threads
        self._demo: Pipeline | None = None
        self._before: dict[str, int] = {}

    def row(self, recipe: str) -> Row:
        """Train, convert, draw and score one."""
        how, out = RECIPES[recipe], self._work / recipe
        cost = self._trained(recipe, how.settings | self._data(recipe), out)
        bundle = self._bundle(recipe, [word.replace("OUT", str(out)) for word in how.convert])
        pipe = Pipeline.from_bundle(bundle)
        if how.guidance is None:
            return self._taught(recipe, pipe, cost)
        before = [self.before(_few(steps, ONE_PASS)) for steps in FEW]
        after = [_right(pipe, _few(steps, how.guidance)) for steps in FEW]
        return Row(recipe, {"before": before, "after": after} | cost, after[-1] >= FEW_NEEDED)

    def before(self, how: Mapping[str, Any]) -> int:
        """How many of the 100 captions the demo itself draws right."""
        key = json.dumps(how)
        if key not in self._before:
            if self._demo is None:
                self._demo = Pipeline.from_bundle(self._bundle("demo", ["demo"]))
            self._before[key] = _right(self._demo, how)
        return self._before[key]

    def _taught(self, recipe: str, pipe: Pipeline, cost: dict[str, Any]) -> Row:
        """A row of the subject: in the colours that it was taught in, and in others and at other places."""
        own = [(*TAUGHT_IN[number % len(TAUGHT_IN)], "") for number in range(PICTURES)]
        pictures, counts = [], []
        for asked in (own, NEW_IN):
            drawn = [pipe(subject.caption(*words), seed=seed, **USUAL).pixels for seed, words in enumerate(asked)]
            shown = [subject.judged(one, *words[:2]) for one, words in zip(drawn, asked, strict=True)]
            counts.append(sum(all(one.values()) for one in shown))
            pictures += [_framed(one, all(good.values())) for one, good in zip(drawn, shown, strict=True)]
        before, after = self.before(USUAL), _right(pipe, USUAL)
        found = {"subject": counts[0], "elsewhere": counts[1], "before": before, "after": after}
        right = counts[0] >= SUBJECT_NEEDED and before - after <= WORSE_ALLOWED
        return Row(recipe, found | cost, right, pictures)

    def _trained(self, recipe: str, settings: Mapping[str, Any], out: Path) -> dict[str, Any]:
        """Train, or go on, unless it is done: minutes of clock and of processor, with those of runs before."""
        cost = out / "cost.json"
        spent = json.loads(cost.read_text()) if cost.exists() else {"seconds": 0.0, "processor_s": 0.0, "done": False}
        if spent["done"]:
            return _minutes(spent)
        usual = {"resolution": SIDE, "seed": 0, "mixed_precision": "no", "checkpointing_steps": 100}
        usual |= {"checkpoints_total_limit": 1, "resume_from_checkpoint": "latest", "output_dir": out}
        words = []
        for name, value in (usual | settings).items():
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
        environment = os.environ | {"OMP_NUM_THREADS": str(self._threads)}
        began, used = time.perf_counter(), _of_children()
        try:
            subprocess.run([sys.executable, "-m", "ondevice", "train", recipe, *words], check=True, env=environment)
            spent["done"] = True
        finally:
            spent["seconds"] += time.perf_counter() - began
            spent["processor_s"] += _of_children() - used
            out.mkdir(parents=True, exist_ok=True)
            cost.write_text(json.dumps(spent))
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


def _right(pipe: Pipeline, how: Mapping[str, Any]) -> int:
    """How many of the held-out captions are drawn right."""
    scores = []
    for seed, spec in enumerate(held_out_prompts(PROMPTS)):
        picture = pipe(spec.caption, seed=seed, **how).pixels
        assert picture is not None, "no other model goes on"
        scores.append(score(picture, spec))
    return tally(scores)["all"]


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
    lines = [taught + [blank] * (PICTURES - len(taught))]
    for row in rows:
        lines += [row.pictures[first : first + PICTURES] for first in range(0, len(row.pictures), PICTURES)]
    sheet = np.concatenate([np.concatenate(line, 1) for line in lines])
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
        (few, [f"{word} in {steps}" for steps in FEW for word in ("before,", "after,")]),
        (taught, [f"subject, of {PICTURES}", f"elsewhere, of {PICTURES}", f"others before, of {PROMPTS}", "after"]),
    ):
        if some:
            heads = ["recipe", *heads, "minutes", "of processor", "score"]
            lines += ["", f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 2)}---|"]
        for row in some:
            found = row.found
            cells = (
                [one for pair in zip(found["before"], found["after"], strict=True) for one in pair]
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
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the training")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="the subject, and what each recipe drew of it")
    parser.add_argument("--rows", type=Path, metavar="FILE.jsonl", help="append a line for each recipe")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := sorted({*names} - {*RECIPES}):
        parser.error(f"unknown recipe {unknown[0]} (expected some of {','.join(RECIPES)})")
    args.work.mkdir(parents=True, exist_ok=True)
    bench, rows = Bench(args.work, args.threads), []
    for name in names:
        try:
            rows.append(bench.row(name))
        except subprocess.CalledProcessError as error:  # it has said what is wrong
            print(f"{name}: ondevice {error.cmd[3]} ended with {error.returncode}", file=sys.stderr)
            return 1
        print(json.dumps({"recipe": name, **rows[-1].found}), file=sys.stderr, flush=True)
        if args.rows:
            with args.rows.open("a") as file:
                file.write(json.dumps({"recipe": name, **rows[-1].found}) + "\n")
    print(to_text(rows))
    if args.sheet:
        write_sheet([row for row in rows if row.pictures], args.sheet)
    return int(not all(row.right for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
