"""A tokenizer of bytes and a few words, as files."""

from __future__ import annotations

import json
from typing import Any

SPECIAL = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}


def byte_letters() -> list[str]:
    """The 256 letters that byte-level pairs are written in."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


def small_files(**changes: Any) -> dict[str, bytes]:
    """A vocabulary of bytes and a few words, as a small model has."""
    merges = [("r", "e"), ("re", "d</w>"), ("c", "a"), ("ca", "t</w>")]
    letters = byte_letters()
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(m) for m in merges),
        *sorted(set(SPECIAL.values())),
    ]
    files = {
        "vocab.json": json.dumps({token: i for i, token in enumerate(tokens)}).encode(),
        "merges.txt": ("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n").encode(),
    }
    return files | {name.replace("_json", ".json").replace("_txt", ".txt"): data for name, data in changes.items()}
