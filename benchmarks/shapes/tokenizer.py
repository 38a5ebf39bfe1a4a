"""Make the demo model's small byte-pair vocabulary in CLIPTokenizer's file format.

Every byte is a token of its own, as in CLIP, so any text can be encoded. Pairs are merged until each caption word is
one token. Nothing is learned from data: the result depends only on `shapes.word_list()`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from benchmarks.shapes.pictures import word_list

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
LENGTH = 77


def byte_symbols() -> list[str]:
    """CLIP's printable stand-in for each of the 256 bytes, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    """Join every occurrence of `pair` in `word`, left to right."""
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding: merge the most frequent pair (first in sort order on ties) until each word is one symbol."""
    spelled = [[*word[:-1], word[-1] + END_OF_WORD] for word in words]
    merges = []
    while any(len(word) > 1 for word in spelled):
        counts = Counter(pair for word in spelled for pair in pairwise(word))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spelled = [merge(word, best) for word in spelled]
    return merges


def write(folder: Path, length: int = LENGTH) -> int:
    """Write the four tokenizer files, of texts of `length` tokens, and return the vocabulary size."""
    merges = learn_merges(word_list())
    symbols = byte_symbols()
    tokens = [*symbols, *(s + END_OF_WORD for s in symbols), *(a + b for a, b in merges), START, END]
    if len(set(tokens)) != len(tokens):
        raise ValueError("two merges make the same token; change the word list")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = special | {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": length,
        "tokenizer_class": "CLIPTokenizer",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False), "utf-8"
    )
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", "utf-8")
    return len(tokens)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    print(write(parser.parse_args().out), "tokens")
