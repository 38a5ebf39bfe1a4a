"""A tokenizer's files, in both layouts."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

from benchmarks.fuzz.mutate.data import havoc, of_files, pack, unpack
from benchmarks.fuzz.mutate.values import json_value, lines_of, words_of_line
from benchmarks.fuzz.reader import Mutate, Reader, holds
from ondevice.converters.read.tokenizer_files import read_tokenizer
from ondevice.diffusion.tokenizer import Tokenizer
from ondevice.diffusion.unigram import UnigramTokenizer
from ondevice.vocabulary.settings import LONGEST
from ondevice.vocabulary.unigram import read_unigram

_UNIGRAM = Path(__file__).resolve().parents[3] / "tests" / "golden" / "tokens" / "unigram" / "small.json"
_PROMPTS = ("", "a cat's life", "<|endoftext|> é  \n日本 <cat> 12", "!" * 90)
_MERGES = ("c a", "ca t</w>", "a t</w>")
_VOCAB = (
    "<|startoftext|>",
    "<|endoftext|>",
    *"!act",
    *(f"{letter}</w>" for letter in "!act"),
    "ca",
    "cat</w>",
    "at</w>",
)
_SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "!",
}


def _files() -> dict[str, bytes]:
    added = {
        str(len(_VOCAB)): {
            "content": "<cat>",
            "special": False,
            "normalized": False,
            "lstrip": False,
            "rstrip": True,
            "single_word": False,
        }
    }
    given = {
        "vocab.json": {token: i for i, token in enumerate(_VOCAB)},
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "added_tokens_decoder": added,
            "model_max_length": 77,
        },
        "special_tokens_map.json": _SPECIAL
        | {"bos_token": {"content": "<|startoftext|>", "lstrip": False, "normalized": True}},
        "added_tokens.json": {"<cat>": len(_VOCAB)},
    }
    return {name: json.dumps(value).encode() for name, value in given.items()} | {
        "merges.txt": "\n".join(("#version: 0.2", *_MERGES)).encode()
    }


def _seeds() -> list[bytes]:
    files = _files()
    return [pack(files), pack({name: files[name] for name in ("vocab.json", "merges.txt")})]


def _one_file_seeds() -> list[bytes]:
    vocab = {token: i for i, token in enumerate(_VOCAB)}
    added = [
        {"id": i, "content": name, "special": True, "normalized": False}
        for i, name in ((0, _VOCAB[0]), (1, _VOCAB[1]), (len(_VOCAB), "<cat>"))
    ]
    seeds = []
    for merges in ([list(_MERGES)], [pair.split(" ") for pair in _MERGES]):
        model = {"type": "BPE", "end_of_word_suffix": "</w>", "unk_token": "<|endoftext|>", "vocab": vocab}
        model["merges"] = merges[0] if len(merges) == 1 else merges
        files = _files()
        kept = {name: files[name] for name in ("tokenizer_config.json", "special_tokens_map.json")}
        seeds.append(
            pack(
                {"tokenizer.json": json.dumps({"version": "1.0", "added_tokens": added, "model": model}).encode()}
                | kept
            )
        )
    return seeds


def _use(tokenizer: Tokenizer) -> None:
    """Any prompt becomes as many ids as the tokenizer says, each with a row in a table of `size`."""
    holds(3 <= tokenizer.length <= LONGEST, "its texts have a length that no text encoder takes")
    for prompt in _PROMPTS:
        ids = tokenizer(prompt)
        holds(
            ids.shape == (tokenizer.length,) and ids.min() >= 0 and ids.max() < tokenizer.size,
            "a prompt has an id that the tokenizer says it has not",
        )
        holds(all(isinstance(token, str) for token in tokenizer.tokens(ids.tolist())), "an id has no token")


def _read(data: bytes, _folder: Path) -> None:
    _use(Tokenizer.from_files(unpack(data)))


def _read_folder(data: bytes, folder: Path) -> None:
    """As `convert` takes a tokenizer out of a checkpoint, and `generate` out of a bundle."""
    names = ("tokenizer.json", *_files())
    given = unpack(data)
    for name in names:
        (folder / name).unlink(missing_ok=True)
        if name in given:
            (folder / name).write_bytes(given[name])
    _use(Tokenizer.from_files(read_tokenizer(folder)))


def _by_name(name: str) -> Mutate:
    return lines_of(words_of_line) if name.endswith(".txt") else json_value


def _unigram_files() -> dict[str, bytes]:
    """A bundle's, of the golden."""
    held = json.loads(_UNIGRAM.read_text(encoding="utf-8"))["files"]
    return {
        "unigram.json": json.dumps(held["unigram.json"]).encode(),
        "charsmap.bin": bytes.fromhex(held["charsmap.bin"]),
    }


def _unigram_seeds() -> list[bytes]:
    """The bundle's files, and the same as sentencepiece and transformers write it."""
    files = _unigram_files()
    whole, table = json.loads(files["unigram.json"]), files["charsmap.bin"]
    rows = [(text.encode(), score) for text, score in whole["pieces"]]
    types = {whole["unknown"]: 2, whole["end"]: 3, whole["padding"]: 3}

    def part(key: int, value: bytes) -> bytes:
        size = len(value)
        count = bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
        return bytes([key]) + count + value

    pieces = [
        part(0x0A, part(0x0A, text) + b"\x15" + struct.pack("<f", score or 0) + b"\x18" + bytes([types.get(i, 1)]))
        for i, (text, score) in enumerate(rows)
    ]
    model = b"".join(pieces) + part(0x12, b"\x18\x01") + part(0x1A, part(0x12, table))
    config = {"tokenizer_class": "T5Tokenizer", "added_tokens_decoder": whole["added"]}
    normalizer = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}
    one = {
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
        "model": {"type": "Unigram", "unk_id": 2, "vocab": [[text.decode(), score or 0.0] for text, score in rows]},
    }
    settings = {"tokenizer_config.json": json.dumps(config).encode()}
    return [
        pack(files),
        pack({"spiece.model": model} | settings),
        pack({"tokenizer.json": json.dumps(one).encode()} | settings),
    ]


def _read_unigram(data: bytes, _folder: Path) -> None:
    vocabulary = read_unigram(unpack(data))
    holds(read_unigram(vocabulary.files()) == vocabulary, "what a bundle holds is another tokenizer")
    tokenizer = UnigramTokenizer(vocabulary)
    for prompt in (*_PROMPTS, "a \u00bdcat e\u0301\u0301 <extra_id_0> \ufb01\u2581"):
        text, ids, starts = tokenizer.piece(prompt)
        holds(text == prompt and len(ids) == len(starts) and starts == sorted(starts), "ids begin nowhere")
        holds(all(0 <= index < tokenizer.size for index in ids), "a prompt has an id that no table has a row for")
        holds(all(isinstance(token, str) for token in tokenizer.tokens(ids)), "an id has no token")


READERS = (
    Reader(
        "unigram", _unigram_seeds, of_files(lambda name: json_value if name.endswith(".json") else havoc), _read_unigram
    ),
    Reader("tokenizer", _seeds, of_files(_by_name, optional=True), _read),
    Reader(
        "tokenizer_folder", lambda: [*_one_file_seeds(), *_seeds()], of_files(_by_name, optional=True), _read_folder
    ),
)
