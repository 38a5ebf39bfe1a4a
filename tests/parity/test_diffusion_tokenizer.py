"""Ids against transformers' own CLIPTokenizer, on text that the stored prompts do not hold."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.base.paths import MODELS
from ondevice.converters.read.tokenizer_files import read_tokenizer
from ondevice.diffusion.tokenizer import Tokenizer

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
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**specials, "tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
    )
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


SMALL = MODELS / "demo" / "tokenizer"
NEW = 599  # the first id that its vocabulary leaves
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
RING = {
    "content": "<ring>",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": True,
    "special": False,
}
END = {"content": "<|endoftext|>", "lstrip": False, "rstrip": False, "single_word": False}
BEFORE = {"special_tokens_map.json": {"pad_token": "!", "eos_token": END | {"normalized": True}}}


def decoder(*tokens: dict[str, Any], first: int = NEW, **rest: Any) -> dict[str, Any]:
    config = {"added_tokens_decoder": {str(first + i): token for i, token in enumerate(tokens)}, "model_max_length": 77}
    return {"tokenizer_config.json": config | rest}


FORMS: dict[str, dict[str, Any]] = {
    "one": {"added_tokens.json": {"<ring>": NEW}},
    "several, reversed": {"added_tokens.json": {"<ring>_1": NEW + 1, "<ring>": NEW, "ring": NEW + 2}},
    "upper case": {"added_tokens.json": {"<Ring>": NEW, "Cat-Toy": NEW + 1}},
    "overlapping": {"added_tokens.json": {"<new>": NEW, "<new><new>": NEW + 1, "ring>": NEW + 2}},
    "with spaces": {"added_tokens.json": {"my  token": NEW, " my token ": NEW + 1}},
    "inside the vocabulary": {"added_tokens.json": {"circle</w>": 554, "!": 0} | {"<ring>": NEW}},
    "special, too": {
        "added_tokens.json": {"<ring>": NEW, "<new>": NEW + 1},
        "tokenizer_config.json": {"additional_special_tokens": ["<ring>"]},
    },
    "special in the map": {
        "added_tokens.json": {"<ring>": NEW},
        "special_tokens_map.json": {"additional_special_tokens": ["<ring>", "<new>"]},
    },
    "roles": {"tokenizer_config.json": {"mask_token": "<ring>", "image_token": "<new>", "sep_token": "cat"}},
    "pad": {"added_tokens.json": {"<pad>": NEW}, "special_tokens_map.json": {"pad_token": "<pad>"}},
    "pad before": BEFORE | {"added_tokens.json": {"<ring>": NEW}},
    "config before map": BEFORE | decoder(RING, pad_token="<|endoftext|>") | {"added_tokens.json": {"<new>": NEW}},
    "default flags": decoder({"content": "<|endoftext|>"}, first=NEW - 1),
    "transformers 4.40": decoder(
        END | {"special": True, "normalized": True}, RING | {"content": "<Ring>"}, first=NEW - 1
    ),
} | {
    "".join(name[0] if bits >> i & 1 else "-" for i, name in enumerate(FLAGS)): decoder(
        *(
            {"content": content, **{name: bool(bits >> i & 1) for i, name in enumerate(FLAGS)}}
            for content in ("<Ring>", "cat")
        )
    )
    for bits in range(1 << len(FLAGS))
}
PIECES = [
    "<ring>",
    "<Ring>",
    "<RING>",
    "<ring>_1",
    "ring",
    "ring>",
    "<",
    "cat",
    "Cat",
    "cats",
    "cat-toy",
    "Cat-Toy",
    "my  token",
    " my token ",
]
PIECES += [
    "<new>",
    "<new><new>",
    "<pad>",
    "!",
    "circle",
    "a",
    "é",
    "9",
    "'s",
    " ",
    "  ",
    "\t",
    "<|endoftext|>",
    "<|EndOfText|>",
    "中",
]


@pytest.mark.parametrize("whole", [False, True], ids=["files", "tokenizer.json"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_added_tokens(form: dict[str, Any], whole: bool, tmp_path: Path) -> None:
    """As transformers 4 wrote them, and as the installed transformers saves what it read:
    its ids, for the folder and for its bundle."""
    transformers = pytest.importorskip("transformers")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((SMALL / name).read_bytes())
    for name, content in ({"tokenizer_config.json": {"model_max_length": 77}} | form).items():
        (tmp_path / name).write_text(json.dumps(content))
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    folder = tmp_path
    if whole:
        theirs.save_pretrained(folder := tmp_path / "saved")
        assert not (folder / "vocab.json").exists()
        theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    ours, bundled = Tokenizer.from_files(folder), Tokenizer.from_files(read_tokenizer(folder))
    rng = random.Random(5)
    for _ in range(60):
        text = "".join(rng.choice(PIECES) + rng.choice(["", " "]) for _ in range(rng.randint(1, 12)))
        assert ours.encode(text) == bundled.encode(text) == theirs(text).input_ids, text
        written = ours.spelled_out(text)
        expected = theirs(written, padding="max_length", truncation=True, max_length=77).input_ids
        assert ours(text).tolist() == bundled(text).tolist() == expected


@pytest.mark.parametrize("text", ["<ring>", "a <ring>, <RING> and <ring>_1", "<ring><ring> <new>", "<Ring> <b> <B>"])
def test_tokens_of_several_vectors(text: str, tmp_path: Path) -> None:
    transformers, loaders = pytest.importorskip("transformers"), pytest.importorskip("diffusers.loaders")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((SMALL / name).read_bytes())
    names = ("<ring>", "<ring>_1", "<ring>_2", "<new>", "<B>", "<B>_1")
    (tmp_path / "added_tokens.json").write_text(json.dumps({name: NEW + i for i, name in enumerate(names)}))
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    expected = loaders.TextualInversionLoaderMixin().maybe_convert_prompt(text, theirs)
    assert Tokenizer.from_files(tmp_path).spelled_out(text) == expected
