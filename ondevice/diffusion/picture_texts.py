"""The texts in a picture's file, without its pixels: what it was drawn with, as WebUI writes it and as JSON.

Files come from strangers. Containers are taken apart here by hand, so that nothing is decoded, and every length is
checked before it is used (docs/files.md has the places; PNG 1.2 section 4.2.3, EXIF 2.3 section 4.6, RIFF).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import unescape

from ondevice.diffusion.files import opened
from ondevice.errors import UsageError

FILE_LIMIT = 1 << 26
"""Bytes of a file: pictures of any size that is drawn are smaller."""

TEXT_LIMIT = 1 << 20
"""Bytes of a text, unpacked. WebUI's are of a few thousand."""

KEYWORDS = (b"parameters", b"ondevice")
_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF, _USER_COMMENT = 0x8769, 0x9286
_OF_BYTES = (1, 2, 7)  # types of EXIF: BYTE, ASCII, UNDEFINED
_ENTRIES = 1024  # of a directory of EXIF
_XMP = re.compile(rb"""\bondevice:parameters=("[^"]*"|'[^']*')""")
_ENTITIES = {"&quot;": '"', "&apos;": "'", "&#10;": "\n", "&#13;": "\r", "&#9;": "\t"}
_ADOBE = b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True, slots=True)
class PictureTexts:
    """`infotext` as WebUI writes it, `own` our JSON; None where a picture has none."""

    infotext: str | None
    own: str | None


def read_texts(path: Path) -> PictureTexts:
    """The texts of a PNG, JPEG or WebP.

    Raises:
        UsageError: it cannot be read, is damaged, or is no such picture.
    """

    def refused(why: str) -> UsageError:
        return UsageError(
            f"no parameters can be read ({why}).",
            where=str(path),
            fix="name a PNG, JPEG or WebP that `ondevice generate` or AUTOMATIC1111's WebUI wrote",
        )

    with opened(path, FILE_LIMIT, refused) as (file, _):
        data = file.read(FILE_LIMIT)
    try:
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _tagged(_jpeg(data))
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _tagged(_webp(data))
    except (ValueError, zlib.error) as error:
        raise refused(str(error)) from None
    raise refused("it is none of PNG, JPEG and WebP")


def _png(data: bytes) -> PictureTexts:
    found: dict[bytes, str] = {}
    place = len(_PNG)
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind, end = data[place + 4 : place + 8], place + 12 + length
        if end > len(data):
            raise ValueError("a chunk is cut")
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            body = data[place + 8 : end - 4]
            if zlib.crc32(kind + body) != int.from_bytes(data[end - 4 : end], "big"):
                raise ValueError("a text is damaged: its checksum is another")
            keyword, _, rest = body.partition(b"\0")
            if keyword in KEYWORDS:
                found.setdefault(keyword, _png_text(kind, rest))
        if kind == b"IEND":
            break
        place = end
    return PictureTexts(found.get(KEYWORDS[0]), found.get(KEYWORDS[1]))


def _png_text(kind: bytes, rest: bytes) -> str:
    """The text behind a keyword and its zero."""
    if kind == b"tEXt":
        return _bounded(rest).decode("latin-1")
    if kind == b"zTXt":
        if rest[:1] != b"\0":
            raise ValueError("a text is packed in an unknown way")
        return _unpacked(rest[1:]).decode("latin-1")
    flags, rest = rest[:2], rest[2:]
    _language, first, rest = rest.partition(b"\0")
    _translated, second, rest = rest.partition(b"\0")
    if not (first and second) or flags not in (b"\0\0", b"\1\0"):
        raise ValueError("an iTXt chunk is damaged")
    return (_unpacked(rest) if flags[0] else _bounded(rest)).decode("utf-8")


def _bounded(text: bytes) -> bytes:
    if len(text) > TEXT_LIMIT:
        raise ValueError(f"a text is too long (got {len(text)} bytes, expected at most {TEXT_LIMIT})")
    return text


def _unpacked(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(packed, TEXT_LIMIT + 1)
    if len(text) > TEXT_LIMIT:
        raise ValueError(f"a text is too long (it unpacks to more than {TEXT_LIMIT} bytes)")
    if not unpacker.eof:
        raise ValueError("a packed text is cut")
    return text


def _jpeg(data: bytes) -> Iterator[tuple[str, bytes]]:
    """("EXIF" or "XMP", content) of its segments before the pixels."""
    place = 2
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            raise ValueError("a segment is damaged")
        kind = data[place + 1]
        if kind == 0xFF:  # a fill byte
            place += 1
            continue
        if kind in (0xDA, 0xD9):
            return
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if length < 2 or place + 2 + length > len(data):
            raise ValueError("a segment is cut")
        body = data[place + 4 : place + 2 + length]
        if kind == 0xE1 and body.startswith(b"Exif\0\0"):
            yield "EXIF", body[6:]
        elif kind == 0xE1 and body.startswith(_ADOBE):
            yield "XMP", body[len(_ADOBE) :]
        place += 2 + length


def _webp(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The same of its chunks."""
    place = 12
    while place + 8 <= len(data):
        kind, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if place + 8 + length > len(data):
            raise ValueError("a chunk is cut")
        body = data[place + 8 : place + 8 + length]
        if kind == b"EXIF":
            yield "EXIF", body.removeprefix(b"Exif\0\0")
        elif kind == b"XMP ":
            yield "XMP", body
        place += 8 + length + length % 2


def _tagged(parts: Iterator[tuple[str, bytes]]) -> PictureTexts:
    infotext = own = None
    for kind, body in parts:
        if kind == "EXIF" and infotext is None:
            infotext = _comment(body)
        elif kind == "XMP" and own is None and (match := _XMP.search(_bounded(body))):
            own = unescape(match[1][1:-1].decode("utf-8"), _ENTITIES)
    return PictureTexts(infotext, own)


def _comment(exif: bytes) -> str | None:
    """EXIF's UserComment; None where there is none."""
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        raise ValueError("its EXIF has no header")
    order: Literal["little", "big"] = "little" if exif[:1] == b"I" else "big"

    def number(place: int, size: int) -> int:
        if place + size > len(exif):
            raise ValueError("its EXIF is cut")
        return int.from_bytes(exif[place : place + size], order)

    def entry(directory: int, tag: int) -> int | None:
        """Where the entry of a tag is."""
        count = number(directory, 2)
        if count > _ENTRIES:
            raise ValueError(f"its EXIF is damaged (a directory of {count} entries)")
        places = (directory + 2 + 12 * i for i in range(count))
        return next((place for place in places if number(place, 2) == tag), None)

    if (sub := entry(number(4, 4), _EXIF)) is None or (found := entry(number(sub + 8, 4), _USER_COMMENT)) is None:
        return None
    length = number(found + 4, 4)
    start = found + 8 if length <= 4 else number(found + 8, 4)
    if start + length > len(exif) or number(found + 2, 2) not in _OF_BYTES:
        raise ValueError("its EXIF is cut")
    coding, text = exif[start : start + 8], _bounded(exif[start + 8 : start + length])
    if coding == b"UNICODE\0":  # big-endian by custom, whatever the rest is in
        return text.decode("utf-16-be")
    return text.decode("utf-8", errors="replace").strip("\0")
