"""Weights, BREAK, AND and chunks of prompts: against recorded values of AUTOMATIC1111's web UI, and of any text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from diffusion.sampler_helpers import DATA
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.base.paths import MODELS
from ondevice.diffusion.text.chunks import Reading, chunked, cut, padded, weights
from ondevice.diffusion.text.emphasis import LARGEST, Sections, parts, plain, sections
from ondevice.diffusion.tokenizer import Tokenizer

RECORDED = json.loads((DATA / "prompts" / "weighting.json").read_text())
PROMPTS = {row["name"]: row for row in RECORDED["prompts"]}
BREAK = ["BREAK", -1]
OURS = {  # beside the recorded ones: where the web UI fails, reads otherwise, or has no record
    "number of two dots": "a (b:1.2.3) c",
    "BREAK in a weight": "(a BREAK b:1.2)",
    "signs end words": "x(BREAK)y AND z\\)BREAK",
    "too large": "(a:9999) ((b:-900):900) " + "(" * 200 + "c",
    "AND": "a (red:1.2) cat AND [a dog]  : 0.7 AND a bird:-1. AND BREAK AND",
    "no AND": "SAND ANDY _AND and ratio 16:9",
    "AND in brackets": "(a AND b:1.5)",
    "spaces": "a\u3000BREAK\u2003b (c:\u00a01.5\t)",
}
SIGNS = st.lists(st.sampled_from([*"()[]\\:.,1 a\n", "BREAK", "AND", "é", " BREAK ", " AND ", ":1.5)"])).map("".join)


@pytest.fixture(scope="module")
def clip() -> Tokenizer:
    return Tokenizer.from_files(MODELS / "clip_tokenizer")


def listed(found: Sections) -> list[list[Any]]:
    """As the web UI lists them: one list, BREAK being one of its entries."""
    rows = [[[piece.text, piece.weight] for piece in section] for section in found]
    return [one for place, section in enumerate(rows) for one in ([BREAK] * bool(place) + section)]


def without_empty(rows: list[list[Any]]) -> list[list[Any]]:
    return [row for row in rows if row[0]]


def written(reading: Reading) -> list[dict[str, Any]]:
    return [
        {"ids": [token.id for token in chunk], "weights": [token.weight for token in chunk]} for chunk in reading.chunks
    ]


@pytest.mark.parametrize("row", PROMPTS.values(), ids=PROMPTS)
def test_a_prompt_is_read_as_the_web_ui_reads_it(row: dict[str, Any], clip: Tokenizer) -> None:
    found = sections(row["prompt"])
    assert listed(found) == without_empty(row["pieces"])
    assert written(chunked(found, clip)) == row["chunks"]


def test_documented_texts() -> None:
    for text, pieces in RECORDED["texts"]:
        assert listed(sections(text)) == pieces


def test_readings_as_files(clip: Tokenizer, golden: Callable[[str, str], None]) -> None:
    rows = []
    for name, text in {**{name: row["prompt"] for name, row in PROMPTS.items()}, **OURS}.items():
        found = []
        for part, weight in parts(text):
            read = sections(part)
            found.append(
                {
                    "weight": weight,
                    "sections": [[[piece.text, piece.weight] for piece in section] for section in read],
                    "chunks": written(chunked(read, clip)),
                    "truncated": written(cut(read, clip).first(1)[0])[0],
                }
            )
        rows.append(json.dumps({"name": name, "text": text, "parts": found}, ensure_ascii=False))
    golden("prompts/reading.json", '{"length": 77, "texts": [\n' + ",\n".join(rows) + "\n]}\n")


def test_parts() -> None:
    assert parts(OURS["AND"]) == [
        ("a (red:1.2) cat ", 1),
        (" [a dog]  ", 0.7),
        (" a bird", -1),
        (" BREAK ", 1),
        ("", 1),
    ]
    assert parts(OURS["no AND"]) == [(OURS["no AND"], 1)]


@settings(deadline=None, max_examples=100)
@given(st.one_of(SIGNS, st.text(max_size=60)))
def test_any_text_can_be_read(text: str) -> None:
    for part, weight in parts(text):
        for section in sections(part):
            assert all(piece.text and abs(piece.weight) <= LARGEST for piece in section) and abs(weight) <= LARGEST
            assert all(one.weight != other.weight for one, other in itertools.pairwise(section))


@given(SIGNS.filter(lambda text: "BREAK" not in text), st.lists(st.sampled_from([0.5, 1.25, -2.0]), max_size=4))
def test_escaped_text_comes_back_and_weights_multiply(text: str, factors: list[float]) -> None:
    escaped = "".join(f"\\{letter}" if letter in "()[]\\" else letter for letter in text)
    for factor in factors:
        escaped = f"({escaped}:{factor})"
    assert listed(sections(escaped)) == without_empty([[text, float(np.prod(factors))]])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["word ", "a, ", "(b:1.5)", " BREAK ", "x"]), max_size=300).map("".join))
def test_no_token_is_lost_in_chunks(clip: Tokenizer, text: str) -> None:
    found = sections(text)
    reading, straight = chunked(found, clip), cut(found, clip)
    assert all(len(chunk) <= clip.length - 2 for chunk in reading.chunks)
    assert list(itertools.chain(*reading.chunks)) == list(itertools.chain(*straight.chunks))
    assert padded(cut(plain(text), clip).chunks[0], clip).tolist() == clip(text).tolist()


def test_what_an_encoder_is_given(clip: Tokenizer) -> None:
    chunk = chunked(sections("a (cat:1.5)"), clip).chunks[0]
    assert padded(chunk, clip).tolist() == clip("a cat").tolist()
    assert weights(chunk, clip.length).tolist() == [1, 1, 1.5] + [1] * 74
    assert weights(chunk, clip.length).dtype == np.float32


def test_words_that_are_left_out(clip: Tokenizer) -> None:
    reading = chunked(sections("(word, " * 37 + "w) red tail [of words]"), clip)
    assert reading.first(1)[1] == "w red tail of words" and reading.first(2) == (reading, "")
