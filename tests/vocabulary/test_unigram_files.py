"""Files of T5's tokenizer: three spellings of one, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from unigram_files import ADDED, PIECES, bundle_files, charsmap, config, field, spiece_model, tokenizer_json

from ondevice import cli
from ondevice.errors import CheckpointError
from ondevice.vocabulary.unigram import Added, is_unigram, read_unigram

MODEL = {"spiece.model": spiece_model(), "tokenizer_config.json": config()}
ENDS = ("</s>", 0.0, 3), ("<pad>", 0.0, 3), ("<unk>", 0.0, 2)


def test_all_files_of_a_tokenizer_are_one(tmp_path: Path) -> None:
    known = read_unigram(bundle_files())
    assert known.pieces == PIECES and (known.unknown, known.end, known.padding) == (2, 1, 0)
    assert known.added[len(PIECES)] == Added("<extra_id_0>", True, True) and len(known.added) == len(ADDED)
    whole = {"tokenizer.json": tokenizer_json()}
    for files in (MODEL, whole, MODEL | whole, whole | {"tokenizer_config.json": config()}, known.files()):
        assert is_unigram(files) and read_unigram(files) == known
    for name, data in MODEL.items():
        (tmp_path / name).write_bytes(data)
    assert read_unigram(tmp_path).files() == known.files()
    alone = read_unigram({"spiece.model": spiece_model()})
    assert alone.pieces == PIECES and sorted(alone.added) == [0, 1, 2]
    assert not is_unigram({"vocab.json": b"{}", "tokenizer.json": b'{"model": {"type": "BPE"}}'})


def refused(files: dict[str, bytes], *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_unigram(files)
    assert all(word in str(caught.value) for word in words) and "Fix: " in str(caught.value), caught.value


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"pieces": []}, "its pieces are no list of 1 to 1048576 (got 0)"),
        ({"pieces": {"a": 1}}, "its pieces are no list"),
        ({"pieces": [["a", "b"]]}, "piece 0 is no text of 1 to 128 letters with a score"),
        ({"pieces": [["a", True]]}, "piece 0 is no text"),
        ({"pieces": [["a", 1e300]]}, "piece 0 is no text"),
        ({"pieces": [["a", 10**400]]}, "piece 0 is no text"),
        ({"pieces": [["a" * 129, 1.0]]}, "piece 0 is no text"),
        ({"pieces": [["", 1.0]]}, "piece 0 is no text"),
        ({"pieces": [*PIECES, ["t", -1.0]]}, "two of its pieces or added tokens are one"),
        ({"pieces": [[text, None] for text, _ in PIECES]}, "or it has none"),
        ({"added": []}, "it has no object of added tokens"),
        ({"added": {"-1": {"content": "x"}}}, "an added token is no id with a text"),
        ({"added": {"99999999": {"content": "x"}}}, "an added token is no id with a text"),
        ({"added": {"1": {"content": ""}}}, "an added token is no id with a text"),
        ({"added": {"1": {"content": "x"}}}, "the added token 'x' has the id of another piece"),
        ({"added": {"4": {"content": "▁cat"}}}, "has the id of another piece"),
        ({"added": {"90": {"content": "x", "single_word": True}}}, "a single word or normalized"),
        ({"added": {"90": {"content": "x"}, "91": {"content": "x"}}}, "two of its pieces or added tokens are one"),
        ({"unknown": 4}, "unknown is the id of a piece that texts become, or of none (got 4)"),
        ({"end": 1 << 20}, "end is no id"),
        ({"padding": 50}, "padding is the id of a piece"),
        ({"unknown": True}, "unknown is no id (got True)"),
    ],
)
def test_what_a_bundle_cannot_hold(changes: dict[str, object], words: str) -> None:
    refused(bundle_files(**changes), words, "tokenizer/unigram.json")


@pytest.mark.parametrize(
    "data, words",
    [
        (b"\1\0", "its trie does not fit"),
        (struct.pack("<I", 6) + bytes(6), "its trie does not fit"),
        (struct.pack("<I", 0xFFFFFFFC) + bytes(8), "its trie does not fit"),
        (struct.pack("<I", 4) + bytes(4) + b"\xff\0", "its replacements are no UTF-8"),
        (struct.pack("<I", 4) + bytes(4) + b"a", "its last replacement has no end"),
    ],
)
def test_tables_that_are_none(data: bytes, words: str) -> None:
    refused(bundle_files() | {"charsmap.bin": data}, words, "tokenizer/charsmap.bin")


@pytest.mark.parametrize(
    "data, words",
    [
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "it is cut, or no message"),
        (b"\x0a\x7f", "it is cut, or no message"),
        (b"\x0b", "it is cut, or no message"),
        (field(1, 3), "a number stands where bytes are expected"),
        (spiece_model([*ENDS, ("a", -1.0, 4)]), "piece 3 is of the type 4"),
        (spiece_model([*ENDS, ("a", -1.0, 1), ("b", -1.0, 2)]), "it has 2 pieces for what is unknown"),
        (spiece_model(trainer=field(3, 2)), "its model_type is 2, T5's is 1"),
        (spiece_model(trainer=field(35, 1)), "its byte_fallback is 1, T5's is 0"),
        (spiece_model(normalizer=field(4, 0)), "its remove_extra_whitespaces is 0, T5's is 1"),
        (field(1, field(1, b"\xff")), "not a sentencepiece model"),
    ],
)
def test_models_of_another_kind(data: bytes, words: str) -> None:
    refused({"spiece.model": data}, "not a sentencepiece model of T5's kind", words)


BYTES = {"type": "Unigram", "vocab": [["a", -1.0]], "byte_fallback": True}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model": BYTES}, "its model is no unigram without bytes"),
        ({"normalizer": {"type": "NFKC"}}, "its normalizer is not T5's"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "its pre_tokenizer is not T5's"),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "_"}}, "its pre_tokenizer is not T5's"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "*"}}, "is no base64"),
    ],
)
def test_whole_files_of_another_kind(changes: dict[str, object], words: str) -> None:
    refused({"tokenizer.json": tokenizer_json(**changes)}, words)


def test_files_that_say_different_things() -> None:
    other = json.loads(tokenizer_json())
    other["model"]["vocab"][3][1] = -9.0
    refused(MODEL | {"tokenizer.json": json.dumps(other).encode()}, "it is another tokenizer than spiece.model")
    refused({"tokenizer_config.json": b'{"tokenizer_class": "LlamaTokenizer"}'}, "not T5's tokenizer")
    refused({}, "got no spiece.model and no tokenizer.json")
    unnamed = json.dumps({"eos_token": "<end>"}).encode()
    refused({"spiece.model": spiece_model(), "tokenizer_config.json": unnamed}, "eos_token is no added token")


def test_any_damaged_table_gives_some_text() -> None:
    from ondevice.vocabulary.charsmap import Charsmap

    table = charsmap()
    size = struct.unpack_from("<I", table)[0]
    for at in range(4, min(len(table), size), 7):
        for byte in (0, 0x7F, 0xFF):
            changed = Charsmap(table[:at] + bytes([byte]) + table[at + 1 :], "x")
            text = changed.replaced("a½ e\u0301\u0301 ﬁ\0Ａ猫", 99)
            assert text is None or text[0].encode()


def test_the_command_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in MODEL.items():
        (tmp_path / name).write_bytes(data)
    assert cli.main(["tokens", "a cat", "--tokenizer", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "     8  ▁a\n     4  ▁cat\n     1  </s>\n"
    assert cli.main(["tokens", "a cat", "--tokenizer", str(tmp_path), "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["ids"] == [8, 4, 1] and got["ids256"] == [8, 4, 1, *[0] * 253]
