"""A tokenizer's files, in both layouts."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.fuzz.mutate.data import of_files, pack, unpack
from benchmarks.fuzz.mutate.values import json_value, lines_of, words_of_line
from benchmarks.fuzz.reader import Mutate, Reader, holds
from ondevice.converters.read.tokenizer_files import read_tokenizer
from ondevice.diffusion.tokenizer import Tokenizer

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
    """Any prompt becomes 77 ids, each with a row in a table of `size`."""
    for prompt in _PROMPTS:
        ids = tokenizer(prompt)
        holds(
            ids.shape == (77,) and ids.min() >= 0 and ids.max() < tokenizer.size,
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


READERS = (
    Reader("tokenizer", _seeds, of_files(_by_name, optional=True), _read),
    Reader(
        "tokenizer_folder", lambda: [*_one_file_seeds(), *_seeds()], of_files(_by_name, optional=True), _read_folder
    ),
)
