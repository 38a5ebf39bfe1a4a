"""Added tokens (textual inversion), wherever transformers wrote them: one id each, and in a bundle all in one file."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from small_tokenizer import SPECIAL, small_files

from ondevice import cli
from ondevice.diffusion.tokenizer import Tokenizer
from ondevice.errors import CheckpointError, UsageError
from ondevice.vocabulary.vocabulary import read_vocabulary

VOCAB = json.loads(small_files()["vocab.json"])
NEXT = len(VOCAB)  # the id that the first added token gets
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}


def files_with(**contents: Any) -> dict[str, bytes]:
    """Small files, and JSON ones by name (with _json for .json)."""
    return small_files(**{name: json.dumps(content).encode() for name, content in contents.items()})


def whole(*added: dict[str, Any], **rest: Any) -> dict[str, Any]:
    """tokenizer.json."""
    merges = [line.split(" ") for line in small_files()["merges.txt"].decode().splitlines()[1:]]
    model = {
        "type": "BPE",
        "unk_token": "<|endoftext|>",
        "end_of_word_suffix": "</w>",
        "vocab": VOCAB,
        "merges": merges,
    }
    return {"version": "1.0", "added_tokens": list(added), "model": model} | rest


def config(*added: dict[str, Any], first: int = NEXT, **rest: Any) -> dict[str, Any]:
    """tokenizer_config.json with an added_tokens_decoder."""
    return {**SPECIAL, "added_tokens_decoder": {str(first + i): token for i, token in enumerate(added)}, **rest}


RING = {"content": "<ring>", **PLAIN}
FORMS = {
    "transformers 4": {"added_tokens_json": {"<ring>": NEXT}},
    "its config": {"tokenizer_config_json": config(RING)},
    "transformers 5": {"tokenizer_json": whole({"id": NEXT, **RING})},
    "special": {"tokenizer_config_json": {"additional_special_tokens": ["<ring>"]}},
    "special in the map": {"special_tokens_map_json": {"additional_special_tokens": ["<ring>"]}},
    "special and named": {"tokenizer_config_json": {"extra_special_tokens": {"ring_token": "<ring>"}}},
    "as a role": {"tokenizer_config_json": {"mask_token": "<ring>"}},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_an_added_token_is_one_id_whichever_file_has_it(
    form: dict[str, Any], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    files = files_with(**form)
    if "tokenizer_json" in form:
        files = {name: files[name] for name in files if name not in ("vocab.json", "merges.txt")}
    (tmp_path / "tokenizer").mkdir()
    for name, data in files.items():
        (tmp_path / "tokenizer" / name).write_bytes(data)
    bundled = read_vocabulary(tmp_path / "tokenizer").files()
    assert bundled.keys() == {"vocab.json", "merges.txt", "tokenizer_config.json"}, "what players read"
    assert json.loads(bundled["tokenizer_config.json"])["added_tokens_decoder"][str(NEXT)]["content"] == "<ring>"
    expected = [VOCAB["<|startoftext|>"], VOCAB["red</w>"], NEXT, VOCAB["ca"], VOCAB["t</w>"], VOCAB["<|endoftext|>"]]
    expected[3:5] = [VOCAB["cat</w>"]]
    for source in (tmp_path / "tokenizer", bundled):
        tokenizer = Tokenizer.from_files(source)
        assert tokenizer.encode("red<ring>cat") == expected
        assert tokenizer.size == NEXT + 1 and tokenizer.tokens([NEXT]) == ["<ring>"]
    assert cli.main(["tokens", "red <ring> cat", "--tokenizer", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == expected


def tokens_of(token: dict[str, Any], text: str) -> list[str]:
    """What `text` is cut into with this added token, from its file and from a bundle alike."""
    files = files_with(tokenizer_config_json=config(PLAIN | token))
    ours, bundled = (Tokenizer.from_files(source) for source in (files, read_vocabulary(files).files()))
    assert ours.encode(text) == bundled.encode(text)
    return ours.tokens(ours.encode(text))[1:-1]


@pytest.mark.parametrize(
    ("token", "text", "expected"),
    [
        ({"content": "cat"}, "Cats", ["cat", "s</w>"]),
        ({"content": "cat", "single_word": True}, "cats cat", ["ca", "t", "s</w>", "cat"]),
        ({"content": "cat", "normalized": False}, "Cat cat", ["cat</w>", "cat"]),
        ({"content": "Cat", "normalized": True}, "CAT", ["Cat"]),
        ({"content": "Cat", "normalized": False}, "cat Cat", ["cat</w>", "Cat"]),
        ({"content": "Cat", "special": True, "normalized": False}, "cat Cat", ["cat</w>", "Cat"]),
        ({"content": "a  b"}, "a b", ["a  b"]),
        ({"content": "a b", "normalized": False}, "a  b a b", ["a</w>", "b</w>", "a b"]),
        ({"content": "<|endoftext|> red"}, "<|endoftext|> red", ["<|endoftext|>", "red</w>"]),
    ],
)
def test_flags_say_where_a_token_is_found(token: dict[str, Any], text: str, expected: list[str]) -> None:
    assert tokens_of(token, text) == expected


def test_the_longest_token_is_found() -> None:
    tokenizer = Tokenizer.from_files(files_with(added_tokens_json={"<a>": NEXT, "<a><a>": NEXT + 1, "<a>_1": NEXT + 2}))
    assert tokenizer.encode("<a><a><a> <a>_1")[1:-1] == [NEXT + 1, NEXT, NEXT + 2]


def test_a_token_of_several_vectors_is_read_as_all_of_them() -> None:
    """As diffusers' pipelines do (maybe_convert_prompt); `encode` alone gives the tokenizer's own ids."""
    names = {"<a>": NEXT, "<a>_1": NEXT + 1, "<a>_2": NEXT + 2, "<b>": NEXT + 3, "<b>_2": NEXT + 4}
    tokenizer = Tokenizer.from_files(files_with(added_tokens_json=names))
    assert tokenizer.spelled_out("red <a>, <b> cat<a>") == "red <a> <a>_1 <a>_2, <b> cat<a> <a>_1 <a>_2"
    assert tokenizer("<a> red").tolist()[1:5] == [NEXT, NEXT + 1, NEXT + 2, VOCAB["red</w>"]]
    assert tokenizer.encode("<a> red")[1:-1] == [NEXT, VOCAB["red</w>"]]
    loud = Tokenizer.from_files(files_with(added_tokens_json={"<A>": NEXT, "<A>_1": NEXT + 1}))
    assert loud.spelled_out("<A> <a>") == "<A> <a>"
    assert tokenizer.spelled_out("<A> <b>_2 red_1") == "<A> <b>_2 red_1", (
        "by its own letters, and only tokens that were added"
    )
    with pytest.raises(UsageError, match="prompt: it is too long with all vectors of '<a>'"):
        tokenizer.spelled_out("<a>" * 400_000)


def test_the_config_alone_counts_where_it_lists_added_tokens() -> None:
    """As in transformers: neither the map nor added_tokens.json is looked at then."""
    files = files_with(
        tokenizer_config_json=config(pad_token="!"),
        special_tokens_map_json={"pad_token": "a"},
        added_tokens_json={"<ring>": NEXT},
    )
    tokenizer = Tokenizer.from_files(files)
    assert tokenizer.pad == VOCAB["!"] and tokenizer.size == NEXT


def test_a_role_may_be_an_added_token() -> None:
    files = files_with(added_tokens_json={"<pad>": NEXT}, special_tokens_map_json={"pad_token": "<pad>"})
    for source in (files, read_vocabulary(files).files()):
        assert Tokenizer.from_files(source).pad == NEXT


def test_flags_of_special_tokens_come_from_their_file() -> None:
    """A token that is normalized is found in lower case; of two spellings of one token the last counts."""
    loud = {"content": "<|endoftext|>", "normalized": True}
    assert (
        Tokenizer.from_files(files_with(special_tokens_map_json={"pad_token": loud})).encode("<|ENDOFTEXT|>")[1]
        == VOCAB["<|endoftext|>"]
    )
    assert Tokenizer.from_files(files_with()).encode("<|ENDOFTEXT|>")[1] != VOCAB["<|endoftext|>"]
    asked = config({"content": "<|endoftext|>"}, first=VOCAB["<|endoftext|>"])
    assert (
        Tokenizer.from_files(files_with(tokenizer_config_json=asked)).encode("<|ENDOFTEXT|>")[1]
        != VOCAB["<|endoftext|>"]
    )


def test_files_without_added_tokens_stay_as_they_are() -> None:
    files = files_with(tokenizer_config_json=SPECIAL, special_tokens_map_json=SPECIAL)
    assert read_vocabulary(files).files() == files


LONE = {name: index for name, index in VOCAB.items() if name != "q"}  # an id is missing in the middle
REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"added_tokens_json": {"<ring>": NEXT + 5}},
        f"the added token '<ring>' has the id {NEXT + 5} (expected {NEXT}, which transformers gives it)",
    ),
    ({"added_tokens_json": {"a": NEXT}}, f"the added token 'a' has the id {NEXT} (expected {VOCAB['a']}"),
    ({"added_tokens_json": {"<ring>": str(NEXT)}}, "the added token '<ring>' has no usable id"),
    ({"added_tokens_json": {"<ring>": True}}, "the added token '<ring>' has no usable id"),
    ({"added_tokens_json": {"<ring>": -1}}, "the added token '<ring>' has no usable id"),
    ({"added_tokens_json": {"<ring>": 1 << 20}}, "the added token '<ring>' has no usable id"),
    ({"added_tokens_json": {"<a>": NEXT, "<b>": NEXT}}, f"two added tokens have the id {NEXT} ('<a>' and '<b>')"),
    (
        {"added_tokens_json": {"<A>": NEXT, "<a>": NEXT + 1}},
        "the added tokens '<A>' and '<a>' are the same in lower case",
    ),
    ({"added_tokens_json": {"": NEXT}}, "an added token is no text of 1..512 characters"),
    ({"added_tokens_json": {"x" * 513: NEXT}}, "an added token is no text of 1..512 characters"),
    (
        {"vocab_json": LONE, "added_tokens_json": {"<ring>": NEXT - 1}},
        f"gets the id {NEXT - 1}, which the vocabulary has given away",
    ),
    (
        {"tokenizer_config_json": {"added_tokens_decoder": None}},
        "added_tokens_decoder: has no object of ids with tokens",
    ),
    (
        {"tokenizer_config_json": {"added_tokens_decoder": {"x": RING}}},
        "added_tokens_decoder: has no object of ids with tokens",
    ),
    (
        {"tokenizer_config_json": {"added_tokens_decoder": {"9" * 10: RING}}},
        "added_tokens_decoder: has no object of ids with tokens",
    ),
    (
        {"tokenizer_config_json": {"added_tokens_decoder": {"²": RING}}},
        "added_tokens_decoder: has no object of ids with tokens",
    ),
    ({"tokenizer_config_json": config({"content": 3})}, "an added token is no text of 1..512 characters (got '3')"),
    (
        {"tokenizer_config_json": config(RING | {"lstrip": 1})},
        "the added token '<ring>' has flags other than single_word, lstrip, rstrip",
    ),
    ({"tokenizer_config_json": config(RING | {"strip": True})}, "the added token '<ring>' has flags other than"),
    ({"tokenizer_config_json": {"mask_token": 3}}, "an added token is no text"),
    ({"tokenizer_config_json": {"additional_special_tokens": 3}}, "additional special tokens are no list"),
    ({"tokenizer_config_json": {"additional_special_tokens": [3]}}, "an added token is no text"),
    ({"tokenizer_config_json": config(unk_token="<ring>")}, "unk_token is not in the vocabulary (got '<ring>'"),
    (
        {"added_tokens_json": {"<u>": NEXT}, "special_tokens_map_json": {"unk_token": "<u>"}},
        "unk_token is not in the vocabulary",
    ),
    ({"tokenizer_json": whole() | {"added_tokens": {}}}, "tokenizer.json: added_tokens is no list of objects"),
    ({"tokenizer_json": whole() | {"added_tokens": ["<ring>"]}}, "tokenizer.json: added_tokens is no list of objects"),
    ({"tokenizer_json": whole(RING)}, "tokenizer.json: the added token '<ring>' has no usable id (got None)"),
]


@pytest.mark.parametrize(("contents", "what"), REFUSED)
def test_added_tokens_that_cannot_be_followed_are_refused(contents: dict[str, Any], what: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(what)):
        read_vocabulary(files_with(**contents))


def test_too_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ondevice.vocabulary.vocabulary._MAX_TOKENS", NEXT - 1)
    with pytest.raises(CheckpointError, match=rf"wrong number of tokens \(got {NEXT}, expected 1 to {NEXT - 1}\)"):
        read_vocabulary(small_files())
    monkeypatch.undo()
    monkeypatch.setattr("ondevice.vocabulary.added_tokens._MOST", 3)
    with pytest.raises(CheckpointError, match=r"too many added tokens \(got \d+, expected at most 3\)"):
        read_vocabulary(files_with(added_tokens_json={"<ring>": NEXT}))


CLIP_STEPS = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ],
    },
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"},
                "behavior": "Removed",
                "invert": True,
            },
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        ],
    },
    "post_processor": {
        "type": "RobertaProcessing",
        "sep": ["<|endoftext|>", 1],
        "cls": ["<|startoftext|>", 0],
        "trim_offsets": False,
    },
    "truncation": {"direction": "Right", "max_length": 77},
    "padding": {"direction": "Right", "strategy": {"Fixed": 77}},
}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<|startoftext|>"}},
        {"Sequence": {"id": "A"}},
        {"SpecialToken": {"id": "<|endoftext|>"}},
    ],
}


@pytest.mark.parametrize(
    "kind", [None, "CLIPTokenizer", "CLIPTokenizerFast", "TokenizersBackend", "PreTrainedTokenizerFast"]
)
def test_settings_that_change_no_id_are_accepted(kind: str | None) -> None:
    settings = {"tokenizer_class": kind, "model_max_length": 10**30, "do_lower_case": False, "padding_side": "right"}
    for steps in (CLIP_STEPS, CLIP_STEPS | {"post_processor": TEMPLATE}, dict.fromkeys(CLIP_STEPS)):
        files = files_with(tokenizer_config_json=settings, tokenizer_json=whole(**steps))
        assert Tokenizer.from_files(files).encode("Red cat") == Tokenizer.from_files(small_files()).encode("Red cat")


BYTES = CLIP_STEPS["pre_tokenizer"]["pretokenizers"][1]
OTHER: list[tuple[str, dict[str, Any], str]] = [
    (
        "tokenizer_config_json",
        {"tokenizer_class": "BertTokenizer"},
        "not a CLIP tokenizer (got 'BertTokenizer', expected 'CLIPTokenizer')",
    ),
    ("tokenizer_config_json", {"tokenizer_class": 3}, "not a CLIP tokenizer (got '3'"),
    (
        "tokenizer_config_json",
        {"model_max_length": 2},
        "model_max_length is 2 (expected a whole number from 3 to 1024)",
    ),
    ("tokenizer_config_json", {"model_max_length": "77"}, "model_max_length is 77 (expected a whole number"),
    ("tokenizer_config_json", {"max_len": 77.5}, "max_len is 77.5 (expected a whole number"),
    ("tokenizer_config_json", {"padding_side": "left"}, "padding_side is not CLIP's (got left)"),
    ("tokenizer_config_json", {"truncation_side": "left"}, "truncation_side is not CLIP's (got left)"),
    ("tokenizer_config_json", {"split_special_tokens": True}, "split_special_tokens is not CLIP's (got True)"),
    (
        "tokenizer_config_json",
        {"fast_tokenizer_files": ["tokenizer.4.json"]},
        "fast_tokenizer_files is not CLIP's (got a list of 1)",
    ),
    (
        "tokenizer_json",
        whole(normalizer={"type": "Lowercase"}),
        "the normalizer is not CLIP's (got an object of type Lowercase)",
    ),
    ("tokenizer_json", whole(normalizer={"type": "Sequence"}), "the normalizer is not CLIP's"),
    ("tokenizer_json", whole(pre_tokenizer=BYTES), "the pre_tokenizer is not CLIP's (got an object of type ByteLevel)"),
    (
        "tokenizer_json",
        whole(pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, BYTES]}),
        "the pre_tokenizer is not CLIP's (got an object of type Whitespace)",
    ),
    (
        "tokenizer_json",
        whole(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [CLIP_STEPS["pre_tokenizer"]["pretokenizers"][0], BYTES | {"add_prefix_space": True}],
            }
        ),
        "the pre_tokenizer is not CLIP's (got an object of type Sequence)",
    ),
    (
        "tokenizer_json",
        whole(post_processor={"type": "ByteLevel"}),
        "the post_processor is not CLIP's (got an object of type ByteLevel)",
    ),
    (
        "tokenizer_json",
        whole(post_processor=TEMPLATE | {"single": TEMPLATE["single"][1:]}),
        "the post_processor is not CLIP's",
    ),
    (
        "tokenizer_json",
        whole(post_processor=TEMPLATE | {"single": TEMPLATE["single"][::-1]}),
        "the post_processor is not CLIP's",
    ),
    (
        "tokenizer_json",
        whole(post_processor={"type": "RobertaProcessing", "cls": ["a", 1], "sep": ["b", 2]}),
        "the post_processor is not CLIP's",
    ),
    ("tokenizer_json", whole(truncation={"direction": "Left"}), "the truncation's direction is not CLIP's (got Left)"),
    ("tokenizer_json", whole(padding={"direction": "Left"}), "the padding's direction is not CLIP's (got Left)"),
    ("tokenizer_json", whole(padding=[]), "the padding's direction is not CLIP's (got a list of 0)"),
]


@pytest.mark.parametrize(("name", "content", "what"), OTHER)
def test_settings_that_give_other_ids_are_refused_by_name(name: str, content: dict[str, Any], what: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"{name.replace('_json', '.json')}: {what}")):
        read_vocabulary(files_with(**{name: content}))
