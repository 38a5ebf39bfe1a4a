"""Prompts as the C++ player reads them: the goldens, and of any text what Python has of it."""

import json
import random
import struct
from pathlib import Path

import pytest

from ondevice.base.paths import MODELS
from ondevice.diffusion.text.chunks import chunked, cut
from ondevice.diffusion.text.emphasis import parts, sections
from ondevice.diffusion.tokenizer import Tokenizer

CLIP = MODELS / "clip_tokenizer"
READING = json.loads((Path(__file__).parents[1] / "golden" / "prompts" / "reading.json").read_text())["texts"]
SIGNS = [*"()[]\\:.,1 a\n+-", "BREAK", "AND", "é", " BREAK ", " AND ", ":1.5)", ":-.5)", "(word, ", "\u3000", "\x85"]


@pytest.fixture
def read(tool):
    """`read(texts)`: the parts of each."""

    def call(texts):
        files = [f"{path.name}={path}" for path in CLIP.iterdir() if path.suffix in (".json", ".txt")]
        sizes = b"".join(struct.pack("<I", len(data)) + data for data in (text.encode() for text in texts))
        done = tool("check_tokens", "prompts", *files, input=sizes, text=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.decode().splitlines()]

    return call


def written(chunk):
    return {"ids": [token.id for token in chunk], "weights": [token.weight for token in chunk]}


def test_prompts_are_read_as_the_goldens(read):
    assert read([row["text"] for row in READING]) == [row["parts"] for row in READING]


def test_any_prompt_is_read_as_python_reads_it(read):
    chance, clip = random.Random(8), Tokenizer.from_files(CLIP)
    texts = ["".join(chance.choices(SIGNS, k=chance.randrange(40 if i % 20 else 400))) for i in range(600)]
    texts += [f"(a:{'0' * 600}1.5)", f"(a:{'9' * 600})", "(" * 3000 + "a" + "]" * 50, "[" * 3000 + "a"]
    for text, found in zip(texts, read(texts), strict=True):
        for (part, weight), got in zip(parts(text), found, strict=True):
            own = sections(part)
            assert got == {
                "weight": weight,
                "sections": [[[piece.text, piece.weight] for piece in section] for section in own],
                "chunks": [written(chunk) for chunk in chunked(own, clip).chunks],
                "truncated": written(cut(own, clip).chunks[0]),
            }, text
