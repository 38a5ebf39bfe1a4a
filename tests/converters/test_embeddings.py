"""Textual inversion files of all makers, and layers left out: tokens, rows, graphs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import message, tiny_checkpoint, write_ckpt, write_safetensors, write_webui
from family_files import TINY
from small_tokenizer import small_files

from ondevice.converters import build
from ondevice.converters.component import Checkpoint
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.embeddings import TABLE, with_embeddings
from ondevice.converters.source import Source, with_clip_skip
from ondevice.diffusion.tokenizer import Tokenizer
from ondevice.errors import CheckpointError, UsageError

VOCAB = json.loads(small_files()["vocab.json"])
FIRST, WIDTH = len(VOCAB), 20  # of a small tokenizer; tables have more rows
VECTORS = np.random.default_rng(1).normal(size=(3, WIDTH)).astype(np.float32)
OTHERS = np.random.default_rng(2).normal(size=(3, 24)).astype(np.float16)


Write = Callable[[Path], None]
FILES: dict[str, tuple[str, Write, str]] = {  # name, how it is written, trigger
    "web UI": ("ring9.pt", lambda path: write_webui(path, VECTORS), "ring9"),
    "kohya": ("ring9.safetensors", lambda path: write_safetensors(path, {"emb_params": VECTORS}), "ring9"),
    "diffusers": ("learned_embeds.safetensors", lambda path: write_safetensors(path, {"<cat>": VECTORS}), "<cat>"),
    "diffusers, .bin": ("learned_embeds.bin", lambda path: write_ckpt(path, {"<cat>": VECTORS[0]}), "<cat>"),
    "half": ("a b.safetensors", lambda path: write_safetensors(path, {"*": VECTORS.astype(np.float16)}), "a b"),
}


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return replace(tiny_checkpoint(), tokenizers={"tokenizer": small_files()})


@pytest.fixture(scope="module")
def sdxl() -> Checkpoint:
    checkpoint = random_checkpoint_from_configs(**TINY["sdxl"], seed=3, family="sdxl")
    return replace(checkpoint, tokenizers=dict.fromkeys(("tokenizer", "tokenizer_2"), small_files()))


def ids_of(checkpoint: Checkpoint, text: str, tokenizer: str = "tokenizer") -> list[int]:
    words = Tokenizer.from_files(checkpoint.tokenizers[tokenizer])
    return words.encode(words.spelled_out(text))[1:-1]


@pytest.mark.parametrize(("name", "write", "trigger"), FILES.values(), ids=FILES)
def test_every_makers_file(tiny: Checkpoint, tmp_path: Path, name: str, write: Write, trigger: str) -> None:
    write(tmp_path / name)
    found = with_embeddings(tiny, [str(tmp_path / name)])
    count = 1 if name.endswith(".bin") else 3
    assert ids_of(found, f"a {trigger}") == [ids_of(tiny, "a")[0], *range(FIRST, FIRST + count)]
    part, old = found.components["text_encoder"], tiny.components["text_encoder"]
    assert part.config["vocab_size"] == FIRST + count and old.config["vocab_size"] == 49408
    table = part.weights[TABLE].numpy()
    assert np.array_equal(table[:FIRST], old.weights[TABLE].numpy()[:FIRST]) and table.dtype == np.float32
    np.testing.assert_allclose(table[FIRST:], VECTORS[:count], rtol=1e-3)
    (output,) = build(found).graph("text_encoder").graph.outputs
    assert output.shape is not None and output.shape.numpy() == (1, 77, WIDTH)


def test_triggers(tiny: Checkpoint, tmp_path: Path) -> None:
    """Several files; letters as they are written; a word that is no part of others."""
    one, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_safetensors(one, {"emb_params": VECTORS[:1]})
    write_safetensors(other, {"emb_params": VECTORS[1:]})
    found = with_embeddings(tiny, [f"{one}:Ring", f"{other}:<x>"])
    assert ids_of(found, "Ring <x>") == [FIRST, FIRST + 1, FIRST + 2]
    assert ids_of(found, "ring Rings strRing") == ids_of(tiny, "ring Rings strRing")
    np.testing.assert_array_equal(found.components["text_encoder"].weights[TABLE].numpy()[FIRST:], VECTORS)
    assert Source("sd14", embedding=[f"{one}:Ring", str(other)]).resolved().embedding == (f"{one}:Ring", str(other))


def test_two_encoders_and_where_a_text_ends(sdxl: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "ring9.safetensors"
    write_safetensors(path, {"clip_l": VECTORS[:2], "clip_g": OTHERS[:2]})
    found = with_embeddings(sdxl, [str(path)])
    for tokenizer, part, vectors in (("tokenizer", "text_encoder", VECTORS), ("tokenizer_2", "text_encoder_2", OTHERS)):
        assert ids_of(found, "ring9", tokenizer) == [FIRST, FIRST + 1]
        np.testing.assert_allclose(found.components[part].weights[TABLE].numpy()[FIRST:], vectors[:2], rtol=1e-6)
    # by 2 the largest id would end a text, and these are larger than the end's
    assert sdxl.components["text_encoder_2"].config["eos_token_id"] == 2
    assert found.components["text_encoder_2"].config["eos_token_id"] == VOCAB["<|endoftext|>"]


WRONG: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "of another width": (
        {"emb_params": np.zeros((2, 24), np.float32)},
        "its vectors do not fit the text_encoder (got FLOAT[2, 24], expected [count, 20])",
    ),
    "of two encoders": ({"clip_l": VECTORS, "clip_g": OTHERS}, "it is for 2 text encoders, and this model has 1"),
    "several": ({"a": VECTORS, "b": VECTORS}, "it is no textual inversion embedding (it has 2 tensors: a, b)"),
    "of three dimensions": (
        {"emb_params": np.zeros((1, 1, WIDTH), np.float32)},
        "its vectors do not fit the text_encoder (got FLOAT[1, 1, 20]",
    ),
    "empty": ({"a": np.zeros((0, WIDTH), np.float32)}, "wrong number of vectors (got 0, expected 1 to 75"),
    "too many vectors": ({"a": np.zeros((76, WIDTH), np.float32)}, "wrong number of vectors (got 76, expected 1 to 75"),
    "no numbers": ({"a": np.zeros((1, WIDTH), np.int64)}, "its vectors do not fit the text_encoder (got INT64[1, 20]"),
}


@pytest.mark.parametrize(("arrays", "what"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit(tiny: Checkpoint, tmp_path: Path, arrays: dict[str, np.ndarray], what: str) -> None:
    path = tmp_path / "wrong.safetensors"
    write_safetensors(path, arrays)
    assert message(lambda: with_embeddings(tiny, [str(path)])).startswith(f"{path}: {what}")


def test_what_else_is_refused(tiny: Checkpoint, sdxl: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "ca.safetensors"  # a piece of words
    write_safetensors(path, {"emb_params": VECTORS})
    twin = tmp_path / "twin.safetensors"
    write_safetensors(twin, {"clip_l": VECTORS, "clip_g": OTHERS})
    text = message(lambda: with_embeddings(sdxl, [str(path)]))
    assert "it has vectors for one text encoder, [3, 20], and this model has 2" in text and "clip_l and clip_g" in text
    taken = message(lambda: with_embeddings(tiny, [str(path)]), UsageError)
    fix = f"Fix: name another trigger, such as --embedding '{path}:<ca>'."
    assert taken == f"--embedding {path}: 'ca' is a token of this model already. {fix}"
    taken = message(lambda: with_embeddings(tiny, [f"{path}:<a>", f"{path}:<a>_1"]), UsageError)
    assert "'<a>_1' is a token of this model already" in taken
    write_safetensors(path, {"clip_l": VECTORS[:2], "clip_g": OTHERS})
    assert "wrong number of vectors (got 2, 3, expected" in message(lambda: with_embeddings(sdxl, [str(path)]))
    for trigger in (" a", "a" * 511):
        found = message(lambda trigger=trigger: with_embeddings(sdxl, [f"{twin}:{trigger}"]), UsageError)
        assert "cannot be a token (expected 1 to 512 letters)" in found
    graphs = replace(tiny, graphs={"unet": object()})
    for refused, flag in (
        (lambda: with_embeddings(graphs, ["a.pt"]), "--embedding"),
        (lambda: with_clip_skip(graphs, 1), "--clip-skip"),
    ):
        assert message(refused, UsageError).startswith(f"{flag}: an exported graph")
    assert "there is no such file" in message(lambda: with_embeddings(tiny, ["none.pt"]), CheckpointError)


def test_layers_left_out(tiny: Checkpoint, sdxl: Checkpoint) -> None:
    assert with_clip_skip(tiny, 0).components == tiny.components
    for checkpoint, role, layers in ((tiny, "text_encoder", 1), (sdxl, "text_encoder", 0), (sdxl, "text_encoder_2", 3)):
        graph = build(with_clip_skip(checkpoint, 1)).graph(role)
        names = {name for name in graph.graph.initializers if ".self_attn.q_proj.weight" in name}
        assert len(names) == layers, role  # what is pooled goes through all
    for skipped in (-1, 2):
        text = message(lambda skipped=skipped: with_clip_skip(tiny, skipped), UsageError)
        assert text.startswith(f"--clip-skip: the text_encoder has 2 layers (got {skipped}, expected 0 to 1)")
