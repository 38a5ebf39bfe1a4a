"""What people write into prompts beside words: `(w:1.2)`, `[w]`, `\\(`, BREAK and AND, as AUTOMATIC1111's web UI reads
them. The specification is docs/prompts.md. Every text can be read."""

from __future__ import annotations

import re
from dataclasses import dataclass

ROUND, SQUARE = 1.1, 1 / 1.1  # what brackets without a number multiply with
LARGEST = 1000.0  # of a weight, either sign

_SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
_SPACE = f"[{_SPACES}]*"
_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"  # no text takes longer than its length
_SIGNS = re.compile(rf"\\(?P<escaped>[()\[\]\\]?)|:{_SPACE}(?P<number>{_NUMBER}){_SPACE}\)|[()\[\]]")
_BREAK = re.compile(r"(?<![A-Za-z0-9_])BREAK(?![A-Za-z0-9_])")
_AND = re.compile(r"(?<![A-Za-z0-9_])AND(?![A-Za-z0-9_])")
_AT_END = re.compile(rf":{_SPACE}({_NUMBER}){_SPACE}\Z")


@dataclass(slots=True)
class Piece:
    """Text of one weight. It is made into tokens by itself."""

    text: str
    weight: float = 1.0


Sections = list[list[Piece]]
"""What lies between the BREAKs of a text; of each, its pieces in order."""


def plain(text: str) -> Sections:
    """A text in which no sign means anything."""
    return [[Piece(text)]]


def sections(text: str) -> Sections:
    """The weighted pieces of a text, section by section. Neighbours of one weight are one piece."""
    found: list[Piece | None] = []  # None: BREAK
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where brackets that are not closed yet begin
    done = 0
    for sign in _SIGNS.finditer(text):
        _add(found, text[done : sign.start()])
        done = sign.end()
        if sign["escaped"] is not None:
            found += [Piece(sign["escaped"])] if sign["escaped"] else []
        elif sign[0] in opened:
            opened[sign[0]].append(len(found))
        elif sign["number"] is not None and opened["("]:
            _multiply(found, opened["("].pop(), float(sign["number"]))
        elif sign[0] == ")" and opened["("]:
            _multiply(found, opened["("].pop(), ROUND)
        elif sign[0] == "]" and opened["["]:
            _multiply(found, opened["["].pop(), SQUARE)
        else:
            found.append(Piece(sign[0]))
    _add(found, text[done:])
    for bracket, factor in (("(", ROUND), ("[", SQUARE)):
        for start in opened[bracket]:
            _multiply(found, start, factor)
    return _joined(found)


def parts(text: str) -> list[tuple[str, float]]:
    """The texts between the ANDs, and the weight at each one's end; a text without AND is its one part, with what
    stands at its end."""
    texts = _AND.split(text)
    if len(texts) == 1:
        return [(text, 1.0)]
    return [
        (part[: end.start()], _bounded(float(end[1]))) if (end := _AT_END.search(part)) else (part, 1.0)
        for part in texts
    ]


def _add(found: list[Piece | None], text: str) -> None:
    texts = _BREAK.split(text)
    for place, part in enumerate(texts):
        if place:
            found.append(None)
            part = part.lstrip(_SPACES)
        part = part.rstrip(_SPACES) if place < len(texts) - 1 else part
        found += [Piece(part)] if part else []


def _multiply(found: list[Piece | None], start: int, factor: float) -> None:
    for piece in found[start:]:
        if piece is not None:
            piece.weight = _bounded(piece.weight * _bounded(factor))


def _bounded(weight: float) -> float:
    return min(max(weight, -LARGEST), LARGEST)


def _joined(found: list[Piece | None]) -> Sections:
    joined: Sections = [[]]
    for piece in found:
        if piece is None:
            joined.append([])
        elif joined[-1] and joined[-1][-1].weight == piece.weight:
            joined[-1][-1].text += piece.text
        else:
            joined[-1].append(piece)
    return joined
