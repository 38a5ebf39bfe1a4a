"""What was written from the page reads prompts and weights states as the goldens say, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from reference import prompts
from reference.player import Tokenizer

from ondevice.base.paths import MODELS

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "prompts"
COMMA = 267


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    folder = MODELS / "clip_tokenizer"
    return Tokenizer({path.name: path.read_bytes() for path in folder.iterdir()}, 77)


def test_readings(tokenizer: Tokenizer) -> None:
    golden = json.loads((GOLDEN / "reading.json").read_text())
    length = golden["length"]
    for row in golden["texts"]:
        read = prompts.parts(row["text"])
        assert [weight for _, weight in read] == [part["weight"] for part in row["parts"]], row["name"]
        for (text, _), part in zip(read, row["parts"], strict=True):
            found = prompts.sections(text)
            assert found == part["sections"], row["name"]
            listed = prompts.tokens(found, tokenizer.encode)
            cut = [prompts.truncated(listed, length)]
            for chunks, want in ((prompts.chunks(listed, length, COMMA), part["chunks"]), (cut, [part["truncated"]])):
                assert [[token[0] for token in chunk] for chunk in chunks] == [one["ids"] for one in want], row["name"]
                assert [[token[1] for token in chunk] for chunk in chunks] == [one["weights"] for one in want]


def test_states(tokenizer: Tokenizer) -> None:
    golden = json.loads((GOLDEN / "states.json").read_text())
    length = golden["length"]
    for row in golden["texts"]:
        known = {tuple(one["ids"]): np.array([one["states"]], np.float32) for one in row["encodings"]}

        def encode(chunk: list[tuple[int, float, int]], known: dict = known) -> np.ndarray:
            ids = [tokenizer.bos, *(token[0] for token in chunk), tokenizer.eos]
            return known[(*ids, *[tokenizer.pad] * (length - len(ids)))]

        (chunk,) = prompts.chunks(prompts.tokens(prompts.sections(row["text"]), tokenizer.encode), length, COMMA)
        for way in ("mean", "compel"):
            got = prompts.states(chunk, encode, length, way)
            assert got.dtype == np.float32 and np.array_equal(got[0], np.array(row[way], np.float32)), row["text"]
