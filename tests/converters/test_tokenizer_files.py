"""The tokenizer of a folder, as transformers 4 and 5 save it, and files that are none."""

import json

import pytest

from ondevice.converters.hub import wanted_files
from ondevice.converters.tokenizer_files import check_vocabulary, read_tokenizer
from ondevice.diffusion.tokenizer import Tokenizer
from ondevice.errors import CheckpointError
from ondevice.paths import MODELS

CONFIG = {"pad_token": "<|endoftext|>", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}


def model(merges_as):
    shared = MODELS / "clip_tokenizer"
    merges = [merges_as(line) for line in (shared / "merges.txt").read_text().splitlines()[1:] if line]
    vocab = json.loads((shared / "vocab.json").read_text())
    return {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocab, "merges": merges}


def save(folder, made):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": made}))
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


def test_vocabulary_and_merges_win_where_both_are_there(tmp_path):
    folder = save(tmp_path / "tokenizer", {"type": "WordPiece"})
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    assert read_tokenizer(folder)["vocab.json"] == b"{}"


@pytest.mark.parametrize(
    "made, what",
    [
        ({"type": "WordPiece"}, "no byte-pair tokenizer of CLIP's kind"),
        ({"type": "BPE", "end_of_word_suffix": "</w>", "vocab": [], "merges": []}, "no vocab object or no merges list"),
        ({"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {}, "merges": ["a b c"]}, "a merge is not two tokens"),
        ({"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {}, "merges": [["a", "b\nc"]]}, "a merge is not two tokens"),
        (None, "no byte-pair tokenizer"),
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path, made, what):
    with pytest.raises(CheckpointError, match=what):
        read_tokenizer(save(tmp_path / "tokenizer", made))


def test_an_empty_folder_names_both_forms(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(CheckpointError, match=r"vocab\.json and merges\.txt, or tokenizer\.json"):
        read_tokenizer(tmp_path / "tokenizer")


def test_the_hub_gives_the_one_file_only_where_there_are_not_two():
    names = [f"{part}/config.json" for part in ("text_encoder", "unet", "vae")] + ["text_encoder/model.safetensors"]
    names += [f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")] + ["tokenizer/tokenizer.json"]
    assert "tokenizer/tokenizer.json" in wanted_files(names, None, "x")
    assert "tokenizer/tokenizer.json" not in wanted_files([*names, "tokenizer/vocab.json"], None, "x")


@pytest.mark.parametrize(
    "config, what",
    [
        ({"vocab_size": 49407, "max_position_embeddings": 77}, "it has the id 49407, and the text encoder 49407 rows"),
        ({"vocab_size": 49408, "max_position_embeddings": 64}, "the text encoder takes 64 tokens"),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_text_encoder_is_refused(config, what):
    with pytest.raises(CheckpointError, match=what):
        check_vocabulary({"vocab.json": (MODELS / "clip_tokenizer" / "vocab.json").read_bytes()}, config, "tokenizer")
