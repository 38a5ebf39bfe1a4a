"""Changes of containers of chunks (PNG, JPEG, RIFF), of NumPy's .npy and of files that begin with a length
and a JSON header."""

from __future__ import annotations

import ast
import json
import struct
import zlib
from collections.abc import Sequence
from random import Random
from typing import Any

from benchmarks.fuzz.mutate.data import havoc, number, text
from benchmarks.fuzz.mutate.values import change, json_bytes
from benchmarks.fuzz.reader import Words

Chunk = tuple[bytes, bytes]  # name, content
PNG = b"\x89PNG\r\n\x1a\n"
_PNG_NAMES = (
    b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"gAMA", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"pHYs", b"acTL",
    b"fcTL",
)  # fmt: skip
_PNG_NAMES += (b"fdAT", b"sRGB", b"cHRM", b"bKGD", b"sBIT")
_RIFF_NAMES = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP ")


def chunks_changed(
    chunks: list[Chunk], others: Sequence[Chunk], names: Sequence[bytes], rng: Random, words: Words
) -> None:
    """One change of a list of chunks, in place."""
    at = rng.randrange(len(chunks))
    name, content = chunks[at]
    match rng.randrange(7):
        case 0:
            del chunks[at]
        case 1:
            chunks.insert(rng.randrange(len(chunks) + 1), chunks[at])
        case 2 if others:
            chunks.insert(at, rng.choice(others))
        case 3:
            chunks[at] = rng.choice(names), content
        case 4:
            to = rng.randrange(len(chunks))
            chunks[at], chunks[to] = chunks[to], chunks[at]
        case _:
            chunks[at] = name, _content(name, content, rng, others, words)


def _content(name: bytes, content: bytes, rng: Random, others: Sequence[Chunk], words: Words) -> bytes:
    """A changed content: what a PNG deflates is changed inflated, half the time."""
    other = rng.choice(others)[1] if others else content
    if name == b"IHDR" and len(content) == 13 and rng.random() < 0.6:
        fields = list(struct.unpack(">2I5B", content))
        at = rng.randrange(7)
        fields[at] = number(rng, words) % (1 << 31) if at < 2 else rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        return struct.pack(">2I5B", *fields)
    if name == b"IDAT" and rng.random() < 0.5:
        try:
            return zlib.compress(havoc(zlib.decompressobj().decompress(content, 1 << 16), rng, other, words), 1)
        except zlib.error:
            pass
    return havoc(content, rng, other, words)


def png(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """A change of a PNG's chunks; their checksums are right."""
    chunks = _png_chunks(data)
    if not chunks:
        return havoc(data, rng, other, words)
    chunks_changed(chunks, _png_chunks(other), _PNG_NAMES, rng, words)
    return png_bytes(chunks)


def png_bytes(chunks: Sequence[Chunk]) -> bytes:
    """A PNG file of these chunks."""
    body = (
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in chunks
    )
    return PNG + b"".join(body)


def _png_chunks(data: bytes) -> list[Chunk]:
    chunks, at = [], len(PNG)
    while data.startswith(PNG) and at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def riff(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """A change of a WebP's chunks; the lengths fit, mostly."""
    chunks = _riff_chunks(data)
    if not chunks:
        return havoc(data, rng, other, words)
    chunks_changed(chunks, _riff_chunks(other), _RIFF_NAMES, rng, words)
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for name, part in chunks
    )
    size = len(body) if rng.random() < 0.9 else number(rng, words) & 0xFFFFFFFF
    return b"RIFF" + struct.pack("<I", size) + body


def _riff_chunks(data: bytes) -> list[Chunk]:
    chunks, at = [], 12
    while data.startswith(b"RIFF") and at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        chunks.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return chunks


def jpeg(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """A change of a JPEG's segments; a segment's length is part of it, so that it may lie."""
    segments, others = _segments(data), _segments(other)
    if not segments:
        return havoc(data, rng, other, words)
    at = rng.randrange(len(segments))
    match rng.randrange(6):
        case 0:
            del segments[at]
        case 1:
            segments.insert(at, rng.choice(segments))
        case 2 if others:
            segments.insert(at, rng.choice(others))
        case 3:
            kind = rng.choice((0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xD9))
            segments[at] = bytes((0xFF, kind)) + segments[at][2:]
        case _:
            segments[at] = segments[at][:2] + havoc(segments[at][2:], rng, b"".join(others), words)
    return b"".join(segments)


def _segments(data: bytes) -> list[bytes]:
    """What lies from one marker to the next."""
    parts = data.split(b"\xff")
    merged: list[bytes] = []
    for part in parts[1:]:
        if merged and (part[:1] in (b"", b"\0") or 0xD0 <= part[0] <= 0xD7):  # inside the picture's bits
            merged[-1] += b"\xff" + part
        else:
            merged.append(b"\xff" + part)
    return merged


_KINDS = (
    "<f4",
    "<f8",
    "<f2",
    ">f4",
    "|b1",
    "|u1",
    "<i8",
    "<c8",
    "|O",
    "|V0",
    "<U0",
    "<U4",
    "|S3",
    "<M8[ns]",
    "f4",
    "float32",
    "<f4,<f4",
    "",
)


def npy(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """A change of a .npy file's header as the dictionary that it is; or of its version, or of its numbers."""
    size = 2 if data[6:7] == b"\x01" else 4
    head = data[8 + size : 8 + size + int.from_bytes(data[8 : 8 + size], "little")]
    body = data[8 + size + len(head) :]
    try:
        fields = ast.literal_eval(head.decode("latin-1"))
        if not isinstance(fields, dict) or rng.random() < 0.25:
            raise ValueError
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return havoc(data, rng, other, words)
    match rng.randrange(6):
        case 0:
            fields["descr"] = rng.choice(_KINDS)
        case 1:
            fields["descr"] = [("a", rng.choice(_KINDS)), ("b", rng.choice(_KINDS), (rng.choice((0, 1, 2)),))]
        case 2:
            fields["shape"] = tuple(number(rng, words) for _ in range(rng.choice((0, 1, 2, 4, 5, 33))))
        case 3:
            fields = change(fields, rng, {}, words)
        case 4:
            body = havoc(body, rng, other, words)
        case _:
            fields["fortran_order"] = rng.choice((True, False, 1, None, "x"))
    written = repr(fields)
    if rng.random() < 0.2:
        at = rng.randrange(len(written) + 1)
        written = (
            written[:at] + rng.choice((text(rng, words), "9" * 30, "(" * 200, "-", "L", ",", "0x7f")) + written[at:]
        )
    return npy_bytes(written.encode("utf-8", "surrogatepass"), body, version=rng.choice((1, 1, 1, 2, 3, 4, 0)))


def npy_bytes(head: bytes, body: bytes, version: int = 1) -> bytes:
    """A .npy file; the header is padded as NumPy does."""
    size = 2 if version == 1 else 4
    head += b" " * (-(len(head) + 9 + size) % 64) + b"\n"
    return b"\x93NUMPY" + bytes((version, 0)) + (len(head) % (1 << 8 * size)).to_bytes(size, "little") + head + body


def headed(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """A change of a .safetensors file's header; offsets are laid out anew half the time,
    so that only the change is wrong."""
    header, body = _header(data)
    given, _ = _header(other)
    if header is None:
        return havoc(data, rng, other, words)
    if rng.random() < 0.15:
        return _headed(json_bytes(header), havoc(body, rng, other, words))
    header = change(header, rng, given, words)
    if isinstance(header, dict) and rng.random() < 0.5:
        body = _laid_out(header, body)
    written = json_bytes(header) + b" " * rng.choice((0, 0, 0, 7, 300))
    return _headed(written, body, len(written) if rng.random() < 0.95 else number(rng, words) % (1 << 64))


_WIDTHS = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
_WIDTHS |= {"U64": 8, "U32": 4, "U16": 2}


def _laid_out(header: dict[str, Any], body: bytes) -> bytes:
    """Give every entry that makes sense its place, one after the other, and make the body as long."""
    at = 0
    for entry in header.values():
        shape = entry.get("shape") if isinstance(entry, dict) else None
        kind = entry.get("dtype") if isinstance(entry, dict) else None
        if (
            not isinstance(shape, list)
            or not isinstance(kind, str)
            or not all(type(x) is int and 0 <= x < 99 for x in shape)
        ):
            continue
        size = _WIDTHS.get(kind, 4)
        for count in shape:
            size *= count
        if size < 1 << 14:
            entry["data_offsets"] = [at, at + size]
            at += size
    return (body + bytes(max(at - len(body), 0)))[:at]


def _header(data: bytes) -> tuple[Any, bytes]:
    length = int.from_bytes(data[:8], "little")
    try:
        return json.loads(data[8 : 8 + length]), data[8 + length :]
    except (ValueError, RecursionError):
        return None, data


def _headed(header: bytes, body: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body
