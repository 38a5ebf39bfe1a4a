"""Print the token ids of a prompt.

python -m ondevice.tokens "a photo of an astronaut" --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ondevice import cli
from ondevice.base.paths import MODELS
from ondevice.diffusion.tokenizer import LENGTH, Tokenizer
from ondevice.errors import printable

HELP = "print the token ids of a prompt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("text", help="the prompt")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help="a tokenizer's folder, or a bundle or checkpoint that holds one (default: Stable Diffusion 1.x's)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON: ids, the 77 ids that the model reads, and tokens"
    )


def run(args: argparse.Namespace) -> int:
    """Print one line per token, or JSON. The log names words that the model does not read."""
    tokenizer = Tokenizer.from_files(files_of(args.tokenizer or MODELS / "clip_tokenizer"))
    ids = tokenizer.encode(tokenizer.spelled_out(args.text))
    read = tokenizer(args.text).tolist()
    names = tokenizer.tokens(ids)
    if args.json:
        print(json.dumps({"ids": ids, "ids77": read, "tokens": names, "left_out": max(len(ids) - LENGTH, 0)}))
        return 0
    for place, (index, name) in enumerate(zip(ids, names, strict=True)):
        cut = len(ids) > LENGTH and LENGTH - 1 <= place < len(ids) - 1
        print(f"{index:6d}  {printable(name)}{'  (not read)' if cut else ''}")
    return 0


def files_of(place: Path) -> Path | dict[str, bytes]:
    """A tokenizer's own folder, one in a checkpoint or a bundle, or the files of one in a packed bundle."""
    if place.is_file():
        from ondevice.bundle import open_bundle  # takes longer than the rest of this verb

        return open_bundle(place).tokenizer_files("tokenizer")
    inside = (place / "tokenizer", place / "tokenizers" / "tokenizer")  # of a checkpoint, of a bundle
    return next((path for path in inside if path.is_dir()), place)


if __name__ == "__main__":
    raise SystemExit(cli.main_for("tokens"))
