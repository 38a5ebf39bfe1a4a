"""sentencepiece's table of replacements: which letters of a text become which others before it is cut into pieces.

A trie as a double array (Darts), then the replacements, each ended by a zero byte. The format and how it is used are in
docs/tokenizer.md, "Unigram". Reference: sentencepiece's normalizer.cc, darts-clone's darts.h.
"""

from __future__ import annotations

import struct

from ondevice.errors import CheckpointError
from ondevice.vocabulary.files import CHECK

LONGEST = 64
"""Bytes of what one replacement stands for; T5's longest has 12."""


class Charsmap:
    """Replaces the letters of a text.

    Args:
        data: the table; none: every letter stays.

    Raises:
        CheckpointError: it is cut, or its replacements are no text.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self._units: tuple[int, ...] = ()
        self._replacements = b""
        self._known: dict[int, str | None] = {}
        if not data:
            return
        size = struct.unpack_from("<I", data)[0] if len(data) >= 4 else 0
        if not size or size % 4 or 4 + size > len(data):
            what = f"its trie does not fit (got {size} bytes of {len(data)}, expected a multiple of 4, and less)."
            raise CheckpointError(what, where=where, fix=CHECK)
        self._units = struct.unpack_from(f"<{size // 4}I", data, 4)
        self._replacements = data[4 + size :]
        try:
            self._replacements.decode()
        except UnicodeDecodeError:
            raise CheckpointError("its replacements are no UTF-8 text.", where=where, fix=CHECK) from None
        if self._replacements[-1:] not in (b"", b"\0"):
            raise CheckpointError("its last replacement has no end.", where=where, fix=CHECK)

    def replaced(self, text: str, most: int) -> tuple[str, list[int]] | None:
        """The text with its replacements, and of each letter of it the place in `text` of what it stands for;
        None where it would have more than `most` letters."""
        data, at, place = text.encode(), 0, 0
        letters: list[str] = []
        places: list[int] = []
        while place < len(text):
            count, new = self._longest(data, at)
            if not count:
                count, new = len(text[place].encode()), text[place]
            letters += new
            places += [place] * len(new)
            if len(letters) > most:
                return None
            place += len(data[at : at + count].decode())
            at += count
        return "".join(letters), places

    def _longest(self, data: bytes, at: int) -> tuple[int, str]:
        """(bytes from `at` on, what stands for them) of the longest entry that ends with a letter; (0, "") for none."""
        units = self._units
        found = 0, ""
        if not units:
            return found
        node = _offset(units[0])
        for end in range(at, min(at + LONGEST, len(data))):
            node ^= data[end]
            if node >= len(units) or units[node] & 0x800000FF != data[end]:
                break
            unit = units[node]
            node ^= _offset(unit)
            whole = end + 1 == len(data) or data[end + 1] & 0xC0 != 0x80
            if unit & 0x100 and whole and node < len(units):
                new = self._replacement(units[node] & 0x7FFFFFFF)
                if new is not None:
                    found = end + 1 - at, new
        return found

    def _replacement(self, start: int) -> str | None:
        """The replacement that begins there; None within a letter, or beyond the last."""
        if start not in self._known:
            inside = start >= len(self._replacements) or self._replacements[start] & 0xC0 == 0x80
            end = self._replacements.find(b"\0", start)
            self._known[start] = None if inside else self._replacements[start:end].decode()
        return self._known[start]


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 0x200) >> 6)
