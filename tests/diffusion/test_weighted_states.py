"""Weighted states against recorded values of compel's package and of AUTOMATIC1111's formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from diffusion.sampler_helpers import DATA

from ondevice.base.paths import MODELS
from ondevice.diffusion.text.chunks import Chunk, chunked, padded
from ondevice.diffusion.text.emphasis import sections
from ondevice.diffusion.text.states import EMPHASIS, is_weighted
from ondevice.diffusion.tokenizer import Tokenizer

RECORDED = json.loads((DATA / "prompts" / "states.json").read_text())
ROWS = {row["name"]: row for row in RECORDED["rows"]}


@pytest.fixture(scope="module")
def short() -> Tokenizer:
    tokenizer = Tokenizer.from_files(MODELS / "clip_tokenizer")
    tokenizer.length = RECORDED["length"]
    return tokenizer


def states_of(row: dict[str, Any], tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    known = {tuple(one["ids"]): np.array([one["states"]], np.float32) for one in row["encodings"]}
    (chunk,) = chunked(sections(row["prompt"]), tokenizer).chunks

    def encode(chunk: Chunk) -> np.ndarray:
        return known[tuple(padded(chunk, tokenizer).tolist())]

    return {way: weigh(chunk, encode) if is_weighted(chunk) else encode(chunk) for way, weigh in EMPHASIS.items()}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_weighted_states_are_those_of_others(row: dict[str, Any], short: Tokenizer) -> None:
    for way, states in states_of(row, short).items():
        assert states.dtype == np.float32
        np.testing.assert_allclose(states[0], row[way], rtol=2e-6, atol=2e-6)


def test_weighted_states_as_a_file(short: Tokenizer, golden: Callable[[str, str], None]) -> None:
    rows = []
    for row in ROWS.values():
        found = {way: states[0].tolist() for way, states in states_of(row, short).items()}
        rows.append(json.dumps({"text": row["prompt"], "encodings": row["encodings"], **found}))
    golden("prompts/states.json", f'{{"length": {short.length}, "texts": [\n' + ",\n".join(rows) + "\n]}\n")


def test_a_mean_of_nothing_is_left_alone(short: Tokenizer) -> None:
    (chunk,) = chunked(sections("(cat:0)"), short).chunks
    zeros = np.zeros((1, short.length, 2), np.float32)
    assert not EMPHASIS["mean"](chunk, lambda _: zeros).any()
