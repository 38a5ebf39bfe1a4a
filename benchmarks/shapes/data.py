"""Write what the demo models are trained on into a folder, and the settings that they are trained with.

    python -m benchmarks.shapes.data FOLDER
    cd FOLDER && ondevice train text_encoder text_encoder.json

Pictures with captions as part files, captions with what they say, films with motion numbers, the tokenizers, and the
networks' configs, of which they begin at random. Only combinations of the training split are shown. docs/demo_models.md
has all commands, in order.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import shutil
from pathlib import Path

from PIL import Image

from benchmarks.shapes.films import random_film
from benchmarks.shapes.pictures import ATTRIBUTES, Spec, render, sample
from benchmarks.shapes.tokenizer import LENGTH, write
from ondevice.base.paths import MODELS

SETTINGS = Path(__file__).parent / "settings"
SHORT = 16
"""Tokens of a text of `demo-sd3`: a caption has 14 at most, and every token takes its time in a MM-DiT."""
_PART = 500  # pictures


def write_pictures(folder: Path, specs: list[Spec]) -> None:
    """FOLDER/pictures/part-N, and FOLDER/pictures.filelist."""
    (folder / "pictures").mkdir(parents=True)
    names = [f"pictures/part-{first // _PART:04}" for first in range(0, len(specs), _PART)]
    for number, name in enumerate(names):
        with (folder / name).open("w") as part:
            for spec in specs[number * _PART : (number + 1) * _PART]:
                data = io.BytesIO()
                Image.fromarray(render(spec)).save(data, "png")
                part.write(f"{spec.caption}\t\t{base64.b64encode(data.getvalue()).decode()}\n")
    (folder / "pictures.filelist").write_text("".join(f"{name}\n" for name in names))


def write_films(folder: Path, count: int, rng: random.Random) -> None:
    """FOLDER/films: animated PNGs, and metadata.jsonl."""
    (folder / "films").mkdir(parents=True)
    with (folder / "films" / "metadata.jsonl").open("w") as rows:
        for number in range(count):
            film, name = random_film(rng), f"{number:04}.png"
            first, *rest = (Image.fromarray(frame) for frame in film.frames())
            first.save(folder / "films" / name, save_all=True, append_images=rest, duration=140)
            rows.write(json.dumps({"file_name": name, "motion_bucket_id": film.motion}) + "\n")


def write_rows(folder: Path, count: int, rng: random.Random) -> None:
    """FOLDER/rows.jsonl: captions and what they say."""
    with (folder / "rows.jsonl").open("w") as rows:
        for _ in range(count):
            spec = sample(rng)
            said = {name: getattr(spec, name) or "none" for name in ATTRIBUTES}
            rows.write(json.dumps({"caption": spec.caption} | said) + "\n")


def write_models(folder: Path) -> None:
    """The tokenizers; the networks' configs; and what is kept of the models in the package: `demo-sd3` with the demo's
    autoencoder in its place, and `demo-video`."""
    write(folder / "tokenizer", LENGTH)
    write(folder / "tokenizer_16", SHORT)
    for path in MODELS.glob("demo*/*/config.json"):
        copy = folder / "configs" / path.relative_to(MODELS)
        copy.parent.mkdir(parents=True)
        shutil.copyfile(path, copy)
    shutil.copytree(MODELS / "demo-sd3", folder / "sd3")
    shutil.copytree(MODELS / "demo" / "vae", folder / "sd3" / "vae")
    shutil.copytree(MODELS / "demo-video", folder / "video")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=16000)
    parser.add_argument("--captions", type=int, default=20000)
    parser.add_argument("--films", type=int, default=512)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    write_pictures(args.folder, [sample(rng) for _ in range(args.pictures)])
    write_rows(args.folder, args.captions, rng)
    write_films(args.folder, args.films, rng)
    write_models(args.folder)
    for path in SETTINGS.glob("*.json"):
        shutil.copyfile(path, args.folder / path.name)


if __name__ == "__main__":
    main()
