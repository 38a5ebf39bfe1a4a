"""Ids of 48 prompts against transformers' (tests/data/prompts), and the files that are refused."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusion.sampler_helpers import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizer import SPECIAL, small_files

from ondevice.base.paths import MODELS
from ondevice.diffusion.tokenizer import LENGTH, Tokenizer
from ondevice.errors import CheckpointError, UsageError

FOLDER = MODELS / "clip_tokenizer"
PROMPTS = json.loads((DATA / "prompts" / "clip_tokens.json").read_text())["prompts"]


def clip_files(pad: str) -> dict[str, bytes]:
    files = {name: (FOLDER / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    return files | {"special_tokens_map.json": json.dumps({**SPECIAL, "pad_token": pad}).encode()}


@pytest.fixture(scope="module")
def clip() -> Tokenizer:
    return Tokenizer.from_files(FOLDER)


@pytest.fixture(scope="module")
def clip_bang() -> Tokenizer:
    return Tokenizer.from_files(clip_files("!"))


@pytest.mark.parametrize("row", PROMPTS, ids=[row["name"] for row in PROMPTS])
def test_ids_of_a_prompt(row: dict[str, Any], clip: Tokenizer, clip_bang: Tokenizer) -> None:
    assert clip.encode(row["prompt"]) == row["ids"]
    assert clip(row["prompt"]).tolist() == row["ids77"]["pad_eos"]
    assert clip_bang.encode(row["prompt"]) == row.get("ids_when_pad_is_bang", row["ids"])
    assert clip_bang(row["prompt"]).tolist() == row["ids77"]["pad_bang"]


def test_the_special_ids(clip: Tokenizer, clip_bang: Tokenizer) -> None:
    assert (clip.bos, clip.eos, clip.pad, clip.size) == (49406, 49407, 49407, 49408)
    assert clip_bang.pad == 0
    assert clip.tokens([320, 49407]) == ["a</w>", "<|endoftext|>"]


def test_the_map_wins_over_the_config(clip: Tokenizer) -> None:
    config = json.dumps({"tokenizer_class": "CLIPTokenizer", **SPECIAL, "pad_token": "<|endoftext|>"}).encode()
    assert Tokenizer.from_files(clip_files("!") | {"tokenizer_config.json": config}).pad == 0
    files = {name: data for name, data in clip_files("!").items() if name != "special_tokens_map.json"}
    assert (
        Tokenizer.from_files(
            files | {"tokenizer_config.json": config.replace(b'"pad_token": "<|endoftext|>"', b'"pad_token": "!"')}
        ).pad
        == 0
    )


def test_the_log_names_the_words_left_out(clip: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ids = clip("cat, " * 37 + "blue bird, sea")
    assert ids.shape == (LENGTH,) and ids[-1] == clip.eos
    assert '"bird, sea"' in caplog.text and "78 tokens" in caplog.text
    caplog.clear()
    clip("cat, " * 37 + "blue")
    assert not caplog.text


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=300))
def test_any_text_gives_77_ids_of_the_vocabulary(text: str) -> None:
    tokenizer = Tokenizer.from_files(small_files())
    ids = tokenizer(text)
    assert ids.shape == (LENGTH,) and ids.dtype == np.int32
    assert ids[0] == tokenizer.bos and tokenizer.eos in ids[1:]
    assert (ids >= 0).all() and (ids < tokenizer.size).all()


def test_a_small_vocabulary_falls_back_to_bytes() -> None:
    tokenizer = Tokenizer.from_files(small_files())
    assert tokenizer.tokens(tokenizer.encode("Red  cats, é")) == [
        "<|startoftext|>", "red</w>", "ca", "t", "s</w>", ",</w>", "Ã", "©</w>", "<|endoftext|>",
    ]  # fmt: skip


def test_a_folder_and_its_bytes_are_the_same(tmp_path: Path) -> None:
    for name, data in small_files().items():
        (tmp_path / name).write_bytes(data)
    text = "a red cat"
    assert Tokenizer.from_files(tmp_path).encode(text) == Tokenizer.from_files(small_files()).encode(text)
    assert Tokenizer.from_files(str(tmp_path)).encode(text) == Tokenizer.from_files(small_files()).encode(text)


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(UsageError, match="not valid Unicode"):
        Tokenizer.from_files(small_files())("a \ud800 b")


VOCAB = json.loads(small_files()["vocab.json"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_json": b"{"}, "vocab.json: not JSON"),
        ({"vocab_json": b"\xff\xfe"}, "vocab.json: not JSON"),
        ({"vocab_json": b"[" * 100_000}, "vocab.json: not JSON"),
        ({"vocab_json": b"[1]"}, "got list, expected a JSON object"),
        ({"vocab_json": b"{}"}, "wrong number of tokens"),
        ({"vocab_json": json.dumps(VOCAB | {"a": "1"}).encode()}, "token 'a' has no usable id"),
        ({"vocab_json": json.dumps(VOCAB | {"a": True}).encode()}, "token 'a' has no usable id"),
        ({"vocab_json": json.dumps(VOCAB | {"a": -1}).encode()}, "token 'a' has no usable id"),
        ({"vocab_json": json.dumps(VOCAB | {"a": 10**30}).encode()}, "token 'a' has no usable id"),
        ({"vocab_json": json.dumps(VOCAB | {"a": VOCAB["b"]}).encode()}, "two tokens share an id"),
        ({"vocab_json": json.dumps({"a": 0}).encode(), "merges_txt": b""}, "unk_token is not in the vocabulary"),
        ({"merges_txt": b"\xff"}, "merges.txt: not UTF-8"),
        ({"merges_txt": b"a b c"}, "line 1 is not a pair"),
        ({"merges_txt": b"#version\na"}, "line 2 is not a pair"),
        ({"merges_txt": b"q z"}, "line 1 merges what vocab.json lacks"),
        ({"vocab_json": b'{"\\ud800": 0}'}, "vocab.json: not JSON text (it holds half of a surrogate pair)"),
        ({"vocab_json": b'{"a": 0, "a": 1}'}, "vocab.json: not JSON (the key 'a' is there twice)"),
        ({"vocab_json": b"1" * 5000}, "vocab.json: not JSON"),
        ({"merges_txt": "r \u00a0e".encode()}, "line 1 is not a pair"),
        ({"tokenizer_config_json": b'{"tokenizer_class": "T5Tokenizer"}'}, "not a CLIP tokenizer"),
        ({"tokenizer_config_json": b'{"tokenizer_class": ["x"]}'}, "not a CLIP tokenizer"),
        ({"tokenizer_config_json": b" " * (1 << 21)}, "too large"),
        ({"special_tokens_map_json": b'{"pad_token": "nowhere"}'}, "pad_token is not in the vocabulary"),
        ({"special_tokens_map_json": b'{"pad_token": 3}'}, "pad_token is not in the vocabulary"),
        ({"special_tokens_map_json": b'{"pad_token": {"content": 3}}'}, "pad_token is not in the vocabulary"),
    ],
)
def test_files_that_cannot_be_a_tokenizer_are_refused(changes: dict[str, bytes], message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        Tokenizer.from_files(small_files(**changes))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"vocab\.json: missing"):
        Tokenizer.from_files(tmp_path)
    with pytest.raises(CheckpointError, match=r"merges\.txt: missing"):
        Tokenizer.from_files({"vocab.json": small_files()["vocab.json"]})


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"]), st.data())
def test_damaged_files_give_a_tokenizer_or_our_error(name: str, data: st.DataObject) -> None:
    files = small_files(
        tokenizer_config_json=b'{"pad_token": "a"}', special_tokens_map_json=json.dumps(SPECIAL).encode()
    )
    whole = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    with contextlib.suppress(CheckpointError):
        Tokenizer.from_files({**files, name: bytes(whole)})("a red cat")
