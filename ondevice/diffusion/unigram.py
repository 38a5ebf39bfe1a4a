"""T5's tokenizer: text -> ids, by the likeliest pieces.

Gives the ids of sentencepiece, and of transformers' T5Tokenizer where a text spells an added token such as `</s>`.
The specification is docs/tokenizer.md, "Unigram".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ondevice.diffusion.text.chunks import check_unicode, first_ids
from ondevice.errors import UsageError
from ondevice.vocabulary.charsmap import Charsmap
from ondevice.vocabulary.unigram import LENGTH, SPACE, Added, Unigram, read_unigram

UNKNOWN_PENALTY = 10.0
"""By how much a letter that no piece has is less likely than the least likely piece."""

_MAX_TEXT = 1 << 20  # letters of a prompt once they are replaced
_WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


class UnigramTokenizer:
    """Ids of a prompt. Make one with `UnigramTokenizer.from_files`.

    `size` is one more than the highest id; `eos` and `pad` are the ids of the end and the filling, `comma` that of a
    comma, if it has one; there is no start (`bos` is None); `length` is how many ids a text encoder takes.
    """

    bos = None

    def __init__(self, vocabulary: Unigram, length: int = LENGTH) -> None:
        self._vocabulary, self.length = vocabulary, length
        self._charsmap = Charsmap(vocabulary.charsmap, "charsmap")
        rows = enumerate(vocabulary.pieces)
        self._pieces = {text: (index, score) for index, (text, score) in rows if score is not None}
        self._lengths = sorted({len(text) for text in self._pieces})
        self._least = min(score for _, score in self._pieces.values()) - UNKNOWN_PENALTY
        self._added = {token.content: (index, token) for index, token in vocabulary.added.items()}
        longest_first = sorted(self._added, key=len, reverse=True)
        self._found = re.compile("|".join(map(re.escape, longest_first)) if longest_first else r"(?!)")
        self.eos, self.pad, self.size = vocabulary.end, vocabulary.padding, vocabulary.size
        self.comma: int | None = self._pieces[","][0] if "," in self._pieces else None

    @classmethod
    def from_files(cls, source: str | Path | Mapping[str, bytes], length: int = LENGTH) -> UnigramTokenizer:
        """Reads a tokenizer as a bundle holds it, or as transformers saves T5's.

        `source` is a folder, or the files' bytes by name. Raises CheckpointError for anything a tokenizer
        cannot be made of.
        """
        return cls(read_unigram(source), length)

    def encode(self, text: str) -> list[int]:
        """All ids of `text`, the end included, however long. Raises UsageError for what is no text."""
        return [*self.piece(text)[1], self.eos]

    def piece(self, text: str) -> tuple[str, list[int], list[int]]:
        """A text, its ids without the end, and where in it each begins."""
        check_unicode(text)
        ids: list[int] = []
        starts: list[int] = []
        for start, part in self._parts(text):
            if isinstance(part, int):
                ids.append(part)
                starts.append(start)
                continue
            letters, places = self._normal(part)
            for index, place in self._likeliest(letters):
                ids.append(index)
                starts.append(start + places[place])
        return text, ids, starts

    def __call__(self, text: str) -> np.ndarray:
        """int32 [length] of a plain text. Words that it has no room for are left out, and the log names them."""
        return first_ids(text, self)

    def tokens(self, ids: list[int]) -> list[str]:
        """The vocabulary's spelling of each id."""
        pieces, added = self._vocabulary.pieces, self._vocabulary.added
        return [added[index].content if index in added else pieces[index][0] for index in ids]

    def _parts(self, text: str) -> Iterator[tuple[int, int | str]]:
        """(where it begins, the id of an added token, or what is between such)."""
        start = 0
        for match in self._found.finditer(text):
            index, token = self._added[match.group()]
            before, after = _around(text, start, match, token)
            yield start, text[start:before]
            yield before, index
            start = after
        yield start, text[start:]

    def _normal(self, text: str) -> tuple[str, list[int]]:
        """The letters to cut, and the place in `text` of each: replaced, one SPACE before each word."""
        replaced = self._charsmap.replaced(text, _MAX_TEXT)
        if replaced is None:
            raise UsageError(
                f"it is too long (more than {_MAX_TEXT} letters).", where="prompt", fix="use a shorter text"
            )
        letters: list[str] = []
        places: list[int] = []
        begins = True
        for letter, place in zip(*replaced, strict=True):
            if letter == " ":
                begins = True
                continue
            letters += [SPACE, letter] if begins else [letter]
            places += [place, place] if begins else [place]
            begins = False
        return "".join(letters), places

    def _likeliest(self, letters: str) -> Iterator[tuple[int, int]]:
        """(id, where it begins) of the pieces whose scores have the largest sum; of a run of unknown letters one."""
        unknown = self._vocabulary.unknown
        best = [(-np.inf, 0, unknown)] * (len(letters) + 1)  # the sum, where the last piece begins, its id
        best[0] = (0.0, 0, unknown)
        for start in range(len(letters)):
            sum_before = best[start][0]
            for length in self._lengths:
                end = start + length
                if end > len(letters):
                    break
                piece = self._pieces.get(letters[start:end])
                if piece is not None and sum_before + piece[1] > best[end][0]:
                    best[end] = (sum_before + piece[1], start, piece[0])
            alone = letters[start] in self._pieces
            if not alone and sum_before + self._least > best[start + 1][0]:
                best[start + 1] = (sum_before + self._least, start, unknown)
        ends, found = len(letters), []
        while ends:
            _, start, index = best[ends]
            found.append((index, start))
            ends = start
        for place, (index, start) in enumerate(reversed(found)):
            if index != unknown or not place or found[-place][0] != unknown:
                yield index, start


def _around(text: str, start: int, match: re.Match[str], token: Added) -> tuple[int, int]:
    """(first, one past the last) letter of an added token, with the white space that belongs to it."""
    before, after = match.span()
    if token.lstrip:
        before = start + len(re.sub(f"[{_WHITE}]+\\Z", "", text[start:before]))
    if token.rstrip:
        white = re.compile(f"[{_WHITE}]*").match(text, after)
        after = white.end() if white else after
    return max(before, start), after
