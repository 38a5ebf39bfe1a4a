"""T5's tokenizer in the C++ player: the goldens' ids, any text's as Python has them, and what is refused."""

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from unigram_files import bundle_files

from ondevice.diffusion.unigram import UnigramTokenizer
from ondevice.errors import CheckpointError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokens" / "unigram" / "small.json").read_text())
LETTERS = [*"cat abfi1,.", "  ", "ﬁ", "½", "Ａ", "e\u0301", "e\u0301\u0301", "猫", "\u200d", "\t", "\u00a0", "▁"]
LETTERS += ["<extra_id_0>", "</s>", "<pad>", "<extra", "é", "\0", "😀"]


@pytest.fixture
def run(tool, tmp_path):
    """`run(what, files, texts)`: what the tool says of files, and of texts."""

    def call(what, files, texts=()):
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        names = sorted(files, reverse=True)  # unigram.json is first
        data = b"".join(struct.pack("<I", len(text)) + text for text in (text.encode() for text in texts))
        return tool("check_tokens", *what, *(f"{name}={tmp_path / name}" for name in names), input=data, text=False)

    return call


def encoded(done, length):
    assert done.returncode == 0, done.stderr
    return np.frombuffer(done.stdout, "<i4").reshape(-1, length + 1)


def test_goldens(run):
    files = {"unigram.json": json.dumps(GOLDEN["files"]["unigram.json"]).encode()}
    files["charsmap.bin"] = bytes.fromhex(GOLDEN["files"]["charsmap.bin"])
    rows = encoded(run(("encode", 16), files, [row["text"] for row in GOLDEN["texts"]]), 16)
    assert rows[:, 1:].tolist() == [row["padded"] for row in GOLDEN["texts"]]
    assert rows[:, 0].tolist() == [max(len(row["ids"]) - 16, 0) for row in GOLDEN["texts"]]


@pytest.mark.parametrize("table", [True, False], ids=["replaced", "as it is"])
def test_any_text_has_pythons_ids(run, table):
    chance, files = random.Random(2), bundle_files()
    files = files if table else {"unigram.json": files["unigram.json"]}
    texts = ["".join(chance.choices(LETTERS, k=chance.randrange(60))) for _ in range(500)]
    tokenizer = UnigramTokenizer.from_files(files, 40)
    rows = encoded(run(("encode", 40), files, texts), 40)
    for text, row in zip(texts, rows, strict=True):
        assert row[1:].tolist() == tokenizer(text).tolist(), text


def changed(**values):
    whole = json.loads(bundle_files()["unigram.json"]) | values
    return bundle_files() | {"unigram.json": json.dumps(whole).encode()}


REFUSED = [
    {},
    changed(pieces=[]),
    changed(pieces=[["a", None]]),
    changed(pieces=[["a", 1], ["a", 2]]),
    changed(pieces=[["a" * 129, 1]]),
    changed(pieces=[["a", 1e10]]),
    changed(pieces=[["a"]]),
    changed(unknown=-1),
    changed(end=5),
    changed(padding=True),
    changed(added={"x": {"content": "a"}}),
    changed(added={"4": {"content": "<x>"}}),
    changed(added={"30": {"content": ""}}),
    changed(added={"30": {"content": "<x>"}, "31": {"content": "<x>"}}),
    bundle_files() | {"charsmap.bin": b"\1\0\0"},
    bundle_files() | {"charsmap.bin": struct.pack("<I", 8) + b"\0" * 4},
    bundle_files() | {"charsmap.bin": struct.pack("<I", 4) + b"\0" * 4 + b"\xff\0"},
    bundle_files() | {"charsmap.bin": struct.pack("<I", 4) + b"\0" * 4 + b"a"},
]


@pytest.mark.parametrize("files", REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_tokenizer_is_refused(run, files):
    files = files or {"unigram.json": b""}
    with pytest.raises(CheckpointError):
        UnigramTokenizer.from_files(files)
    done = run(("open",), files)
    assert done.returncode == 9 and b". Fix: " in done.stderr
