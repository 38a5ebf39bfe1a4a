"""Print the token ids of a prompt.

python -m ondevice.tokens "a photo of an astronaut" --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ondevice import cli
from ondevice.base.paths import MODELS
from ondevice.diffusion.text.chunks import Reading, chunked, cut, padded, room_of, start_of, warn
from ondevice.diffusion.text.emphasis import parts, plain, sections
from ondevice.diffusion.tokenizer import Tokenizer
from ondevice.diffusion.unigram import UnigramTokenizer
from ondevice.drawing import text
from ondevice.errors import printable
from ondevice.vocabulary.unigram import is_unigram

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
    text.add_reading(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON: ids, those that the model reads first, tokens, and the chunks of each part of the text",
    )


def run(args: argparse.Namespace) -> int:
    """Print one line per token, or JSON. The log names words that the model does not read."""
    files = files_of(args.tokenizer or MODELS / "clip_tokenizer")
    tokenizer = UnigramTokenizer.from_files(files) if is_unigram(files) else Tokenizer.from_files(files)
    found = [(args.text, 1.0)] if args.emphasis == "none" else parts(args.text)
    read = [plain(words) if args.emphasis == "none" else sections(words) for words, _ in found]
    readings = [(chunked if args.long == "chunk" else cut)(one, tokenizer) for one in read]
    if args.long != "chunk":
        for reading in readings:
            if left_out := reading.first(1)[1]:
                warn(reading, left_out, room_of(tokenizer))
    if args.json:
        print(json.dumps(_table(readings, [weight for _, weight in found], tokenizer, args.long == "chunk")))
        return 0
    for place, (reading, (_, weight)) in enumerate(zip(readings, found, strict=True)):
        if len(readings) > 1:
            print(f"part {place + 1}, weight {weight:g}")
        for line in _lines(reading, tokenizer, args.long == "chunk"):
            print(line)
    return 0


def _lines(reading: Reading, tokenizer: Tokenizer | UnigramTokenizer, in_chunks: bool) -> Iterator[str]:
    """A line per token, its weight beside it where that is not 1."""

    def line(index: int, more: str = "") -> str:
        return f"{index:6d}  {printable(tokenizer.tokens([index])[0])}{more}"

    for place, chunk in enumerate(reading.chunks):
        if in_chunks and len(reading.chunks) > 1:
            yield f"chunk {place + 1}"
        if in_chunks or not place:
            yield from map(line, start_of(tokenizer))
        for token in chunk:
            weight = f"  {token.weight:.3g}" if token.weight != 1 else ""
            yield line(token.id, weight + "  (not read)" * bool(place and not in_chunks))
        if in_chunks or place == len(reading.chunks) - 1:
            yield line(tokenizer.eos)


def _table(
    readings: Sequence[Reading], factors: Sequence[float], tokenizer: Tokenizer | UnigramTokenizer, whole: bool
) -> dict[str, Any]:
    tokens = [token.id for reading in readings for chunk in reading.chunks for token in chunk]
    ids = [*start_of(tokenizer), *tokens, tokenizer.eos]
    kept = [reading.chunks if whole else reading.chunks[:1] for reading in readings]
    return {
        "ids": ids,
        f"ids{tokenizer.length}": padded(readings[0].chunks[0], tokenizer).tolist(),
        "tokens": tokenizer.tokens(ids),
        "left_out": len(tokens) - sum(len(chunk) for chunks in kept for chunk in chunks),
        "parts": [
            {
                "weight": factor,
                "chunks": [
                    {"ids": [token.id for token in chunk], "weights": [token.weight for token in chunk]}
                    for chunk in chunks
                ],
            }
            for factor, chunks in zip(factors, kept, strict=True)
        ],
    }


def files_of(place: Path) -> Path | dict[str, bytes]:
    """A tokenizer's own folder, one in a checkpoint or a bundle, or the files of one in a packed bundle."""
    if place.is_file():
        from ondevice.bundle import open_bundle  # takes longer than the rest of this verb

        return open_bundle(place).tokenizer_files("tokenizer")
    inside = (place / "tokenizer", place / "tokenizers" / "tokenizer")  # of a checkpoint, of a bundle
    return next((path for path in inside if path.is_dir()), place)


if __name__ == "__main__":
    raise SystemExit(cli.main_for("tokens"))
