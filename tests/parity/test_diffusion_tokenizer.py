"""Ids against transformers' own CLIPTokenizer, on text that the stored prompts do not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.diffusion.tokenizer import Tokenizer
from ondevice.paths import MODELS

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module", params=["<|endoftext|>", "!"])
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """(ours, theirs) from one folder."""
    transformers = pytest.importorskip("transformers")
    folder: Path = tmp_path_factory.mktemp("clip")
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((MODELS / "clip_tokenizer" / name).read_bytes())
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    specials = {
        "bos_token": {"content": "<|startoftext|>", **flags},
        "eos_token": {"content": "<|endoftext|>", **flags},
        "unk_token": {"content": "<|endoftext|>", **flags},
        "pad_token": request.param,
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(specials))
    (folder / "tokenizer_config.json").write_text(json.dumps({**specials, "tokenizer_class": "CLIPTokenizer", "model_max_length": 77}))
    return Tokenizer.from_files(folder), transformers.CLIPTokenizer.from_pretrained(folder)


TRICKY = [
    "<|endoftext|>",
    "a <|startoftext|> b",
    "<|ENDOFTEXT|> <|EndOfText|>",
    "<|endoftext|",
    "!!! ! a!b",
    "İI ıi ẞß Σς",
    "a\u0301 ½ ² ﬃ",
    "\u200b\u200d\ufeff",
    "\x00\x01\x1f\x7f",
    "\r\n\t\v\f\u2028\u2029\x85 x",
    "'S 'T 'Re don'T",
    "👩🏽‍🚀🏳️‍🌈",
    "\U000e0001\U0010ffff",
    "x" * 2000,
]


@pytest.mark.parametrize("text", TRICKY)
def test_tricky_text(pair: tuple[Tokenizer, Any], text: str) -> None:
    check(pair, text)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=200))
def test_any_text(pair: tuple[Tokenizer, Any], text: str) -> None:
    check(pair, text)


def check(pair: tuple[Tokenizer, Any], text: str) -> None:
    ours, theirs = pair
    assert ours.encode(text) == theirs(text).input_ids
    assert ours(text).tolist() == theirs(text, padding="max_length", truncation=True, max_length=77).input_ids
