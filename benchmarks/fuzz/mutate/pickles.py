"""Changes of what torch.save writes: the directory of a zip archive, and the pickle in it opcode by opcode."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from random import Random

from benchmarks.fuzz.mutate.data import EDGES, havoc, number, text
from benchmarks.fuzz.reader import Words

_NAMES = (
    "torch FloatStorage",
    "torch HalfStorage",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "os system",
)
_NAMES += (
    "collections OrderedDict",
    "numpy dtype",
    "builtins set",
    "builtins eval",
    "torch Size",
    "numpy.core.multiarray _reconstruct",
)
_OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]


def archive(files: Mapping[str, bytes]) -> bytes:
    """A zip archive as torch.save writes it: nothing is compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name, data in files.items():
            out.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()


def checkpoint(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """A change of an archive: of its pickle, of its entries, or of a field of its directory."""
    if rng.random() < 0.25:
        return _directory(data, rng, words)
    files, others = _entries(data), _entries(other)
    if not files:
        return havoc(data, rng, other, words)
    name = rng.choice(sorted(files))
    pickled = next((name for name in files if name.endswith("data.pkl")), name)
    match rng.randrange(10):
        case 0:
            files[name] = havoc(files[name], rng, others.get(name, b""), words)
        case 1:
            files[rng.choice((text(rng, words), name + "0", "archive/data/9", "data.pkl"))[:200]] = files.pop(name)
        case 2:
            del files[name]
        case 3 if name in others:
            files[name] = others[name]
        case _:
            files[pickled] = pickle(files[pickled], rng, others.get(pickled, b""), words)
    try:
        return archive({name.encode("utf-8", "replace").decode(): content for name, content in files.items()})
    except (ValueError, struct.error):
        return havoc(data, rng, other, words)


def _entries(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as found:
            return {
                info.filename: found.read(info)
                for info in found.infolist()
                if info.file_size < 1 << 16 and not info.compress_type
            }
    except Exception:  # zipfile raises many types on what fuzzing makes
        return {}


_FIELDS = {
    b"PK\x01\x02": (8, 10, 20, 24, 28, 30, 32, 42),
    b"PK\x05\x06": (4, 6, 8, 10, 12, 16, 20),
    b"PK\x03\x04": (6, 8, 18, 22, 26, 28),
}
_LONG = (20, 24, 42, 12, 16, 18, 22)


def _directory(data: bytes, rng: Random, words: Words) -> bytes:
    """One number of a zip header, central entry or end record."""
    magic = rng.choice(list(_FIELDS))
    places = [at for at in range(len(data) - 3) if data[at : at + 4] == magic]
    if not places:
        return havoc(data, rng, data, words)
    field = rng.choice(_FIELDS[magic])
    at, form = rng.choice(places) + field, "<I" if field in _LONG else "<H"
    bits = 8 * struct.calcsize(form)
    value = rng.choice((number(rng, words), rng.choice(EDGES), rng.randrange(len(data)), -1)) & ((1 << bits) - 1)
    return data[:at] + struct.pack(form, value) + data[at + bits // 8 :]


def pickle(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """A change of one opcode: gone, twice, moved, another's, another argument, or one that no checkpoint has."""
    parts, others = _opcodes(data), _opcodes(other)
    if not parts:
        return havoc(data, rng, other, words)
    at = rng.randrange(len(parts))
    match rng.randrange(9):
        case 0:
            del parts[at]
        case 1:
            parts.insert(at, parts[at])
        case 2:
            to = rng.randrange(len(parts))
            parts[at], parts[to] = parts[to], parts[at]
        case 3 if others:
            begin = rng.randrange(len(others))
            parts[at : at + rng.choice((0, 1, 3))] = others[begin : begin + rng.choice((1, 2, 8))]
        case 4:
            parts.insert(at, rng.choice(_OPCODES) + (bytes((rng.randrange(256),)) * rng.choice((0, 1, 2, 4, 8))))
        case 5:
            module, _, name = rng.choice((*_NAMES, *(word for word in words.texts if word.count(" ") == 1))).partition(
                " "
            )
            parts[at] = f"c{module}\n{name}\n".encode("utf-8", "surrogatepass")
        case 6:
            value = number(rng, words)
            packed = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
            parts[at] = b"\x8a" + bytes((len(packed) % 256,)) + packed
        case 7:
            packed = text(rng, words).encode("utf-8", "surrogatepass")
            parts[at] = b"X" + struct.pack("<I", len(packed)) + packed
        case _:
            parts[at] = parts[at][:1] + havoc(parts[at][1:], rng, other, words)
    return b"".join(parts)


def legacy(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """A change of one of the pickles that such a file begins with, or of the bytes behind them."""
    parts, others = _pickles(data), _pickles(other)
    at = rng.randrange(len(parts))
    if at == len(parts) - 1 or rng.random() < 0.1:
        parts[at] = havoc(parts[at], rng, others[-1], words)
    else:
        parts[at] = pickle(parts[at], rng, others[min(at, len(others) - 1)], words)
    return b"".join(parts)


def _pickles(data: bytes) -> list[bytes]:
    """The pickles one after the other, five at most, and what follows them."""
    parts: list[bytes] = []
    file = io.BytesIO(data)
    try:
        for _ in range(5):
            begin = file.tell()
            for _opcode in pickletools.genops(file):
                pass
            parts.append(data[begin : file.tell()])
    except Exception:  # as above
        pass
    return [*parts, data[sum(map(len, parts)) :]]


def _opcodes(data: bytes) -> list[bytes]:
    """The bytes of each opcode; what cannot be decoded is the last."""
    starts = []
    try:
        for _, _, position in pickletools.genops(data):
            starts.append(position or 0)
    except Exception:  # pickletools raises many types on what fuzzing makes
        pass
    return [data[begin:end] for begin, end in zip(starts, [*starts[1:], len(data)], strict=False)]
