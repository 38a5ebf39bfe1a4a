"""Ids of texts from the C++ player: the goldens', and of any text those of the Python package."""

import hashlib
import json
import random
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from small_tokenizer import SPECIAL, small_files

from ondevice.base.paths import MODELS
from ondevice.bundle import open_bundle
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.tokenizer import Tokenizer
from ondevice.errors import BundleError, CheckpointError

TESTS = Path(__file__).parents[1]
GOLDEN = sorted((TESTS / "golden" / "tokens").glob("*.json"))
PROMPTS = json.loads((TESTS / "data" / "prompts" / "clip_tokens.json").read_text())["prompts"]
CLIP = {name: (MODELS / "clip_tokenizer" / name).read_bytes() for name in ("vocab.json", "merges.txt")}
MAP, CONFIG = "special_tokens_map.json", "tokenizer_config.json"


@pytest.fixture
def written(tmp_path):
    """`written(files)`: arguments for the tool, which name them."""

    def write(files):
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        return [f"{name}={tmp_path / name}" for name in files]

    return write


@pytest.fixture
def ids(tool, written):
    """`ids(files, texts, length)`: of each text how many ids were cut (-1: it was refused) and its `length` ids."""

    def encode(files, texts, length):
        data = [text.encode() for text in texts]
        sizes = b"".join(struct.pack("<I", len(text)) + text for text in data)
        done = tool("check_tokens", "encode", length, *written(files), input=sizes, text=False)
        assert done.returncode == 0, done.stderr
        out, found = np.frombuffer(done.stdout, "<i4"), []
        while len(out):
            cut = int(out[0])
            count = 1 + (length if cut >= 0 else 0)
            found.append((cut, out[1:count].tolist()))
            out = out[count:]
        return found

    return encode


def check_same(ids, files, texts, length=600):
    """All ids are the Python package's."""
    tokenizer = Tokenizer.from_files(files)
    for text, (cut, got) in zip(texts, ids(files, texts, length), strict=True):
        want = tokenizer.encode(tokenizer.spelled_out(text))
        assert cut == max(len(want) - length, 0), ascii(text)
        end = [tokenizer.eos] if cut else [tokenizer.pad] * (length - len(want))
        want = want[: length - len(end)] + end
        assert got == want, ascii(text)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_ids_are_the_goldens(ids, path):
    golden = json.loads(path.read_text())
    files = CLIP | {name: json.dumps(content).encode() for name, content in golden["files"].items()}
    length = golden["length"]
    found = ids(files, [row["text"] for row in golden["texts"]], length)
    for row, (_, got) in zip(golden["texts"], found, strict=True):
        assert got == row["ids"] + [golden["pad"]] * (length - len(row["ids"])), row["text"]


@pytest.mark.parametrize(("pad", "key"), [("<|endoftext|>", "pad_eos"), ("!", "pad_bang")])
def test_ids_of_prompts(ids, pad, key):
    files = CLIP | {MAP: json.dumps({**SPECIAL, "pad_token": pad}).encode()}
    found = ids(files, [row["prompt"] for row in PROMPTS], 77)
    assert [got for _, got in found] == [row["ids77"][key] for row in PROMPTS]


# Letters of every kind: those that change in the normal form, marks and Hangul, case, numbers, spaces, and all others.
KINDS = [
    (0x20, 0x7E), (0x20, 0x7E), (0x41, 0x5A), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x58F), (0x590, 0x8FF),
    (0x900, 0xDFF), (0x1100, 0x11FF), (0x1AB0, 0x1DFF), (0x1E00, 0x1FFF), (0x2000, 0x2BFF), (0x3000, 0x30FF),
    (0xA640, 0xA7FF), (0xAC00, 0xD7A3), (0xF900, 0xFDFF), (0x10400, 0x10FFF), (0x11000, 0x11FFF), (0x1D100, 0x1D7FF),
    (0x1E000, 0x1EFFF), (0x1F300, 0x1FAFF), (0, 0xD7FF), (0xE000, 0x10FFFF),
]  # fmt: skip
PIECES = [
    "'s",
    "'LL",
    "'re",
    " ",
    "\u3000",
    "\x85",
    "<|endoftext|>",
    "<|STARTofTEXT|>",
    "!",
    "photo",
    "\u0130",
    "\u03a3",
]


def any_text(chance, most=60, pieces=PIECES):
    parts = []
    for _ in range(chance.randrange(most)):
        low, high = chance.choice(KINDS)
        parts.append(chance.choice(pieces) if chance.random() < 0.3 else chr(chance.randint(low, high)))
    return "".join(parts)


def test_ids_of_any_text_are_pythons(ids):
    chance = random.Random(11)
    check_same(ids, CLIP, [any_text(chance) for _ in range(3000)])


def test_every_letter_is_pythons(ids):
    """Twelve at a time, each after a mark and in a word, so that its class, case and normal form all count."""
    letters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and code % 7 in (0, 3)]
    letters = [letter for letter in letters if ord(letter) < 0x20000 or ord(letter) % 64 == 0]
    texts = ["".join(f"x{letter}\u0345\u0334" for letter in letters[i : i + 12]) for i in range(0, len(letters), 12)]
    check_same(ids, CLIP, texts[::4], 200)


VOCAB = json.loads(small_files()["vocab.json"])
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
NAMES = ["<a>", "<a>_1", "<a>_2", "<A>", "sks", " sp", "sp ", "ab", "abc", "e\u0301", "\u00c9", "x y", "<|end", "Ring",
         "ring", "\u4e2d", "!", "<b>", "<b>_1", "a"]  # fmt: skip


def token(chance, name):
    return {"content": name, **{flag: chance.random() < 0.4 for flag in FLAGS if chance.random() < 0.8}}


def settings(chance):
    """Files that say in some way which tokens are added."""
    config, special = {}, {}
    for role, content in SPECIAL.items():
        place = chance.choice([config, special, {}])
        place[role] = content if chance.random() < 0.4 else token(chance, content)
    if chance.random() < 0.4:
        chance.choice([config, special])["pad_token"] = chance.choice(["!", token(chance, "!")])
    names = chance.sample(NAMES, chance.randrange(len(NAMES)))
    if chance.random() < 0.7:
        decoder = config["added_tokens_decoder"] = {}
        fresh = len(VOCAB)
        for name in names:
            decoder[str(VOCAB.get(name, fresh))] = token(chance, name)
            fresh += name not in VOCAB
    else:
        twice = [*names, *names[:2]]
        names = [token(chance, name) if chance.random() < 0.5 else name for name in twice]
        key = chance.choice(["additional_special_tokens", "extra_special_tokens"])
        chance.choice([config, special])[key] = names
    files = {}
    if config:
        files[CONFIG] = json.dumps(config).encode()
    if special:
        files[MAP] = json.dumps(special).encode()
    return files


def test_added_tokens_are_pythons(tool, ids, written):
    """Flags, places that name them, several vectors; what Python refuses is refused."""
    chance = random.Random(5)
    taken = 0
    for _ in range(150):
        files = small_files() | settings(chance)
        texts = [any_text(chance, 25, [*NAMES, *PIECES]) for _ in range(40)]
        try:
            Tokenizer.from_files(files)
        except CheckpointError:
            done = tool("check_tokens", "open", *written(files))
            assert done.returncode == 9 and done.stderr.startswith("tokenizers/tokenizer/"), files
            continue
        taken += 1
        check_same(ids, files, texts, 400)
    assert taken > 50


def test_long_texts_take_no_long_time(ids):
    """One word of a million letters; marks in the wrong order; and one letter more than is read."""
    most = 1 << 20
    texts = ["a" * most, "a" + "\u0345" * (most // 2) + "\u0334" * (most // 2 - 1), " " * most, "a" * (most + 1)]
    assert [cut for cut, _ in ids(CLIP, texts, 77)] == [130998, 2097076, 0, -1]


def test_texts_that_are_none_or_too_long_are_refused(tool, written):
    def refused(files, data):
        sizes = struct.pack("<I", len(data)) + data
        done = tool("check_tokens", "encode", 77, *written(files), input=sizes, text=False)
        assert done.returncode == 0 and done.stdout == struct.pack("<i", -1)
        return done.stderr.decode()

    assert refused(CLIP, b"a \xff").startswith("prompt: the prompt is not valid Unicode")
    names = ["<a>", *(f"<a>_{i}" for i in range(1, 100))]
    decoder = {str(len(VOCAB) + i): {"content": name} for i, name in enumerate(names)}
    files = small_files(tokenizer_config_json=json.dumps({"added_tokens_decoder": decoder}).encode())
    assert "it is too long with all vectors of '<a>'. Fix: name the token less often." in refused(files, b"<a>" * 2000)


def test_lengths(ids):
    files = small_files()
    end, start = VOCAB["<|endoftext|>"], VOCAB["<|startoftext|>"]
    red = VOCAB["red</w>"]
    assert ids(files, ["red red"], 1) == [(2, [end])]
    assert ids(files, ["red red"], 2) == [(2, [start, end])]
    assert ids(files, ["red red"], 3) == [(1, [start, red, end])]
    assert ids(files, ["red red"], 5) == [(0, [start, red, red, end, end])]


def test_a_bundles_tokenizer(tool, tmp_path):
    """Its length is the bundle's; one of T5's kind without T5's files is refused by both players."""
    folder = tmp_path / "picture.ondevice"
    shutil.copytree(TESTS / "golden" / "bundle" / "picture.ondevice", folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    [(name, entry)] = manifest["tokenizers"].items()
    for file, data in small_files().items():
        path = f"tokenizers/{name}/{file}"
        (folder / path).write_bytes(data)
        manifest["files"][path] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "bundle.json").write_text(json.dumps(manifest))
    tokenizer = Tokenizer.from_files(small_files())
    done = tool("check_tokens", "bundle", folder, input=struct.pack("<I", 1) + b"a", text=False)
    want = tokenizer.encode("a")
    padded = [0, *want, *[tokenizer.pad] * (entry["length"] - len(want))]
    assert done.stdout == struct.pack(f"<{len(padded)}i", *padded), done.stderr

    entry["kind"] = "unigram"
    (folder / "bundle.json").write_text(json.dumps(manifest))
    done = tool("check_tokens", "bundle", folder)
    message = f"tokenizers/{name}/unigram.json: is missing."
    assert done.returncode == 9 and done.stderr.startswith(message)
    with pytest.raises(BundleError, match=re.escape(f"tokenizers/{name}: is of the kind 'unigram' and has no")):
        Pipeline.of(open_bundle(folder), None)


def with_tokens(**tokens):
    return json.dumps({"added_tokens_decoder": tokens}).encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_json": None}, "vocab.json: is missing."),
        ({"merges_txt": None}, "merges.txt: is missing."),
        ({"vocab_json": b"{"}, "vocab.json: is not valid JSON"),
        ({"vocab_json": b"[1]"}, "vocab.json: is a list of 1 (expected a JSON object)."),
        ({"vocab_json": b"{}"}, "has a wrong number of tokens (got 0"),
        ({"vocab_json": json.dumps(VOCAB | {"a": "1"}).encode()}, 'token "a" has no usable id (got "1"'),
        ({"vocab_json": json.dumps(VOCAB | {"a": True}).encode()}, 'token "a" has no usable id (got true'),
        ({"vocab_json": json.dumps(VOCAB | {"a": -1}).encode()}, 'token "a" has no usable id (got -1'),
        ({"vocab_json": json.dumps(VOCAB | {"a": 10**30}).encode()}, 'token "a" has no usable id (got 1e+30'),
        ({"vocab_json": json.dumps(VOCAB | {"a": VOCAB["b"]}).encode()}, "has two tokens with the id 65"),
        ({"vocab_json": b'{"a": 0}', "merges_txt": b""}, 'bos_token is not in the vocabulary (got "<|startoftext|>"'),
        ({"merges_txt": b"\xff"}, "merges.txt: is no UTF-8 text (at byte 0)."),
        ({"merges_txt": b"a b c"}, "line 1 is no pair"),
        ({"merges_txt": b"#version\na"}, "line 2 is no pair"),
        ({"merges_txt": "r \u00a0e".encode()}, "line 1 is no pair"),
        ({"merges_txt": b"q z"}, "line 1 merges what vocab.json lacks"),
        ({"merges_txt": b"r e\n" * ((1 << 20) + 1)}, "has too many merges (expected at most 1048576)."),
        ({"tokenizer_json": b"{}"}, "tokenizer.json: a bundle's tokenizer has no such file."),
        ({"added_tokens_json": b"{}"}, "added_tokens.json: a bundle's tokenizer has no such file."),
        ({"tokenizer_config_json": b" " * (1 << 21)}, "tokenizer_config.json: is too large"),
        ({"tokenizer_config_json": b'{"tokenizer_class": "T5Tokenizer"}'}, 'is no CLIP tokenizer\'s (got "T5T'),
        ({"tokenizer_config_json": b'{"model_max_length": 2}'}, "model_max_length is 2 (expected a whole number"),
        ({"tokenizer_config_json": b'{"padding_side": "left"}'}, "padding_side is not CLIP's"),
        ({"tokenizer_config_json": b'{"split_special_tokens": true}'}, "split_special_tokens is not CLIP's"),
        ({"tokenizer_config_json": b'{"added_tokens_decoder": []}'}, "added_tokens_decoder is a list of 0"),
        ({"tokenizer_config_json": with_tokens(x={"content": "q"})}, 'has the key "x" (expected an id'),
        ({"tokenizer_config_json": with_tokens(**{"900": {"content": "q1"}})}, "the id 900 (expected 518, as"),
        ({"tokenizer_config_json": with_tokens(**{"518": {"content": ""}})}, "expected an added token, a text of 1.."),
        ({"tokenizer_config_json": with_tokens(**{"518": {"content": "q", "odd": True}})}, 'has "odd" true'),
        ({"tokenizer_config_json": with_tokens(**{"518": {"content": "q", "lstrip": 1}})}, 'has "lstrip" 1'),
        (
            {"tokenizer_config_json": with_tokens(**{"518": {"content": "Xy"}, "519": {"content": "xY"}})},
            'has two added tokens that are "xy" in lower case',
        ),
        ({"special_tokens_map_json": b'{"pad_token": "nowhere"}'}, 'pad_token is not in the vocabulary (got "nowhere"'),
        ({"special_tokens_map_json": b'{"pad_token": 3}'}, "pad_token is 3 (expected an added token"),
        ({"special_tokens_map_json": b'{"additional_special_tokens": 3}'}, "is 3 (expected a list)"),
    ],
)  # fmt: skip
def test_files_that_are_no_tokenizer_are_refused(tool, written, changes, message):
    """By both players."""
    files = {name: data for name, data in small_files(**changes).items() if data is not None}
    done = tool("check_tokens", "open", *written(files))
    assert done.returncode == 9 and message in done.stderr and done.stderr.startswith("tokenizers/tokenizer/")
    if not set(files) & {"tokenizer.json", "added_tokens.json"}:
        with pytest.raises(CheckpointError):
            Tokenizer.from_files(files)
