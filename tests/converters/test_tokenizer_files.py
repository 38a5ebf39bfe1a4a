"""The tokenizer of a folder, as transformers 4 and 5 save it, and files that are none."""

import json
import os
import re

import pytest
from small_tokenizer import small_files

from ondevice.base.paths import MODELS
from ondevice.converters.families import FAMILIES
from ondevice.converters.read.hub import wanted_files
from ondevice.converters.read.tokenizer_files import check_vocabulary, read_tokenizer
from ondevice.diffusion.tokenizer import Tokenizer
from ondevice.errors import CheckpointError

CONFIG = {
    "pad_token": "<|endoftext|>",
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
}


def model(merges_as):
    shared = MODELS / "clip_tokenizer"
    merges = [merges_as(line) for line in (shared / "merges.txt").read_text().splitlines()[1:] if line]
    vocab = json.loads((shared / "vocab.json").read_text())
    return {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocab, "merges": merges}


def tokenizer_json(**changes):
    files = small_files()
    merges = files["merges.txt"].decode().splitlines()[1:]
    return {
        "type": "BPE",
        "end_of_word_suffix": "</w>",
        "vocab": json.loads(files["vocab.json"]),
        "merges": merges,
    } | changes


def save(folder, files):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": files}))
    return folder


@pytest.mark.parametrize("merges_as", [str, lambda line: line.split(" ")], ids=["strings", "pairs"])
def test_one_file_gives_the_same_ids_as_two(tmp_path, merges_as):
    files = read_tokenizer(save(tmp_path / "tokenizer", model(merges_as)))
    shared = MODELS / "clip_tokenizer"
    expected = {name: (shared / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    assert json.loads(files["vocab.json"]) == json.loads(expected["vocab.json"])
    text = "a café's astronaut, 2 cats; 一只"
    both = Tokenizer.from_files(expected | {"tokenizer_config.json": json.dumps(CONFIG).encode()})
    assert Tokenizer.from_files(files).encode(text) == both.encode(text)


def test_half_of_the_old_form_does_not_count(tmp_path):
    folder = save(tmp_path / "tokenizer", tokenizer_json())
    (folder / "vocab.json").write_text('{"a": 0}')
    assert json.loads(read_tokenizer(folder)["vocab.json"]) == tokenizer_json()["vocab"]


def test_both_forms_must_say_the_same(tmp_path):
    """transformers 4 reads the one, transformers 5 the other."""
    folder = save(tmp_path / "tokenizer", tokenizer_json())
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes(small_files()[name])
    assert read_tokenizer(folder)["vocab.json"] == small_files()["vocab.json"]
    (folder / "merges.txt").write_text("#version: 0.2\nr e\n")
    with pytest.raises(
        CheckpointError,
        match=r"tokenizer\.json: it has another vocabulary or other merges than vocab\.json and merges\.txt",
    ):
        read_tokenizer(folder)
    save(folder, {"type": "WordPiece"})  # which no version of CLIPTokenizer reads
    assert read_tokenizer(folder)["merges.txt"] == b"#version: 0.2\nr e\n"


@pytest.mark.parametrize(
    "files, what",
    [
        (
            {"type": "WordPiece"},
            "no byte-pair tokenizer of CLIP's kind (got WordPiece with None, expected model type BPE with </w>)",
        ),
        ({"type": "BPE"}, "no byte-pair tokenizer of CLIP's kind (got BPE with None"),
        (None, "no byte-pair tokenizer of CLIP's kind (got no model"),
        (tokenizer_json(vocab=[]), "no vocab object or no merges list"),
        (tokenizer_json(merges={}), "no vocab object or no merges list"),
        (tokenizer_json(vocab={}), "wrong number of tokens"),
        (tokenizer_json(merges=["a b c"]), "merge 1 is not a pair (got 'a b c'"),
        (tokenizer_json(merges=["r e", ["a", "b\nc"]]), "merge 2 is not a pair (got 'a list of 2'"),
        (tokenizer_json(merges=[["r", "e", "d"]]), "merge 1 is not a pair"),
        (tokenizer_json(merges=[["r", 3]]), "merge 1 is not a pair"),
        (tokenizer_json(merges=[3]), "merge 1 is not a pair"),
        (tokenizer_json(merges=["r zz"]), "merge 1 merges what its vocab lacks (got 'zz'"),
        (tokenizer_json(dropout=0.1), "the model's dropout is not CLIP's (got 0.1)"),
        (tokenizer_json(fuse_unk=True), "the model's fuse_unk is not CLIP's"),
        (tokenizer_json(byte_fallback=True), "the model's byte_fallback is not CLIP's"),
        (tokenizer_json(ignore_merges=True), "the model's ignore_merges is not CLIP's"),
        (
            tokenizer_json(continuing_subword_prefix="##"),
            "the model's continuing_subword_prefix is not CLIP's (got ##)",
        ),
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path, files, what):
    with pytest.raises(CheckpointError, match=re.escape(what)):
        read_tokenizer(save(tmp_path / "tokenizer", files))


@pytest.mark.parametrize(
    "name, kind", [("vocab.txt", "a BERT tokenizer's"), ("spiece.model", "a sentencepiece model, as T5 has")]
)
def test_another_kind_of_tokenizer_is_named(tmp_path, name, kind):
    (tmp_path / name).write_text("a\n")
    with pytest.raises(CheckpointError, match=rf"vocab\.json: missing \(got {name}, {kind}"):
        read_tokenizer(tmp_path)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "vocab.json")
    with pytest.raises(CheckpointError, match=r"vocab\.json: is no file"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "write",
    [lambda text: b"\xef\xbb\xbf" + text, lambda text: text.replace(b"\n", b"\r\n"), lambda text: text + b"\n \n"],
)
def test_merges_as_editors_leave_them_become_plain_lines(tmp_path, write):
    files = small_files() | {"merges.txt": write(small_files()["merges.txt"])}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert read_tokenizer(tmp_path) == small_files()
    (tmp_path / "merges.txt").write_bytes(small_files()["merges.txt"].split(b"\n", 1)[1])
    assert read_tokenizer(tmp_path) == small_files(), "no line of the version"


def test_an_empty_folder_names_both_forms(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(CheckpointError, match=r"vocab\.json and merges\.txt, or tokenizer\.json"):
        read_tokenizer(tmp_path / "tokenizer")


def test_the_hub_gives_every_file_that_a_tokenizer_may_be_in():
    names = [f"{part}/config.json" for part in ("text_encoder", "unet", "vae")] + ["text_encoder/model.safetensors"]
    names += [f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")]
    held = [
        f"tokenizer/{name}" for name in ("tokenizer.json", "added_tokens.json", "vocab.json", "tokenizer_config.json")
    ]
    assert set(held) <= set(wanted_files([*names, *held, "tokenizer/flax.msgpack"], FAMILIES["sd14"], None, "x"))


@pytest.mark.parametrize(
    "config, what",
    [
        ({"vocab_size": 49407, "max_position_embeddings": 77}, "it has the id 49407, and the text encoder 49407 rows"),
        (
            {"vocab_size": 49408, "max_position_embeddings": 64},
            'its texts have 77 tokens, and the text encoder takes 64. Fix: write "model_max_length": 64 into',
        ),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_text_encoder_is_refused(config, what):
    files = {name: (MODELS / "clip_tokenizer" / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    files["tokenizer_config.json"] = b'{"model_max_length": 77}'
    with pytest.raises(CheckpointError, match=what):
        check_vocabulary(files, config, "tokenizer")


@pytest.mark.parametrize("merge, lacking", [("q zz", "zz"), ("xy z", "xy"), ("r ed</w>", "ed</w>"), ("x y", "xy")])
def test_what_generate_would_refuse_is_refused_before_the_work(merge, lacking):
    """The first of a pair, the second, or both joined are no token."""
    vocab = json.loads(small_files()["vocab.json"])
    files = small_files(merges_txt=merge.encode(), vocab_json=json.dumps(vocab | {"xyz": len(vocab)}).encode())
    with pytest.raises(
        CheckpointError, match=rf"tokenizer/merges\.txt: line 1 merges what vocab\.json lacks \(got '{lacking}'"
    ):
        check_vocabulary(files, {"vocab_size": 49408, "max_position_embeddings": 77}, "tokenizer")
