"""PNG files of the C++ player: the same bytes as Python's, and every kind of file read as Python reads it."""

import hashlib
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from diffusion.test_png import TEXTS, UNICODE, formula
from PIL import Image

from ondevice.diffusion import deflate
from ondevice.diffusion.init_image import read_image
from ondevice.diffusion.png import encode_png

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "png" / "pictures.json").read_text())


@pytest.fixture
def encode(tool):
    def call(pixels, texts):
        height, width, _ = pixels.shape
        words = [word for pair in texts.items() for word in pair]
        done = tool("check_png", "encode", width, height, *words, input=pixels.tobytes(), text=False)
        assert done.returncode == 0, done.stdout
        return done.stdout

    return call


@pytest.fixture
def decode(tool):
    """Pixels of each of several files, or the error."""

    def call(files, most=1 << 22):
        data = b"".join(struct.pack("<Q", len(file)) + file for file in files)
        done = tool("check_png", "decode", most, input=data, text=False)
        assert done.returncode == 0, done.stderr[-2000:]
        out, results = io.BytesIO(done.stdout), []
        while sides := out.read(8):
            width, height = struct.unpack("<2I", sides)
            if width:
                results.append(np.frombuffer(out.read(3 * width * height), np.uint8).reshape(height, width, 3))
            else:
                results.append(out.readline().decode().strip())
        assert len(results) == len(files)
        return results

    return call


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: row["name"].replace(" ", "_"))
def test_goldens(encode, row):
    if "formula" in row:
        data = encode(formula(row["formula"], row["width"], row["height"]), dict(row["texts"]))
        assert (len(data), hashlib.sha256(data).hexdigest()) == (row["bytes"], row["sha256"])
        return
    pixels = np.frombuffer(bytes.fromhex(row["pixels"]), np.uint8).reshape(row["height"], row["width"], 3)
    assert encode(pixels, dict(row["texts"])).hex() == row["png"]


def test_the_same_bytes_as_pythons(encode):
    chance = np.random.default_rng(0)
    for number in range(60):
        height, width = (int(side) for side in chance.integers(1, chance.choice([3, 40, 200]), 2))
        pixels = chance.integers(0, chance.choice([2, 5, 256]), (height, width, 3)).astype(np.uint8)
        if number % 3:
            pixels = np.repeat(pixels, chance.integers(1, 30), axis=number % 3 - 1)[:, :900]
        if number % 2:
            pixels = np.cumsum(pixels, axis=0, dtype=np.uint8)
        texts = (TEXTS, UNICODE, {})[number % 3]
        assert encode(pixels, texts) == encode_png(pixels, texts), (pixels.shape, number)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


SIGNATURE = b"\x89PNG\r\n\x1a\n"


def written(depth, colour, size=(9, 11), interlaced=False, extra=b"", level=6, most=256):
    """A file of any kind: random bytes below `most`, under random filters unless they are few."""
    width, height = size
    chance = np.random.default_rng((depth, colour, *size))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for x, y, across, down in passes if interlaced else [(0, 0, 1, 1)]:
        wide, high = -(-max(width - x, 0) // across), -(-max(height - y, 0) // down)
        for _ in range(high if wide else 0):
            row = chance.integers(0, most, -(-wide * channels * depth // 8), dtype=np.uint8)
            rows += bytes([chance.integers(0, 5) if most == 256 else 0]) + row.tobytes()
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, interlaced))
    palette = chunk(b"PLTE", chance.bytes(3 * 2**depth)) if colour == 3 else b""
    data = zlib.compress(rows, level)
    parts = chunk(b"IDAT", data[:7]) + chunk(b"IDAT", b"") + chunk(b"IDAT", data[7:])
    return SIGNATURE + head + palette + extra + parts + chunk(b"IEND", b"")


KINDS = [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (2, 3), (4, 3), (8, 3), (8, 4), (16, 4)]
KINDS += [(8, 6), (16, 6)]
KEYS = {0: b"\0\1", 2: b"\0\1\0\2\0\3", 3: bytes([0, 128])}


def test_files_of_every_kind_are_what_python_reads(decode, tmp_path):
    files = []
    for depth, colour in KINDS:
        for size in ((1, 1), (1, 13), (13, 1), (9, 11), (64, 40)):
            for interlaced in (False, True):
                files.append(written(depth, colour, size, interlaced, level=(0, 1, 9)[len(files) % 3]))
        if colour in KEYS:
            files.append(written(depth, colour, extra=chunk(b"tRNS", KEYS[colour]), most=2))
    for file, pixels in zip(files, decode(files), strict=True):
        (tmp_path / "a.png").write_bytes(file)
        assert np.array_equal(pixels, read_image(tmp_path / "a.png")), file[16:29].hex()


def test_files_of_pillow_and_ours_are_read(decode, tmp_path):
    picture = Image.fromarray(formula("smooth", 90, 70))
    files = []
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16"):
        for options in ({}, {"optimize": True}, {"compress_level": 0}, {"compress_level": 1}):
            out = io.BytesIO()
            image = picture.convert("L").convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
            image.save(out, "PNG", **options)
            files.append(out.getvalue())
    files += [encode_png(formula(name, 150, 120), TEXTS) for name in ("flat", "noise", "geometric")]
    for file, pixels in zip(files, decode(files), strict=True):
        (tmp_path / "a.png").write_bytes(file)
        assert np.array_equal(pixels, read_image(tmp_path / "a.png"))


def exif(orientation, order="<", kind=3, count=1, offset=8):
    """EXIF with two fields, of which the second is the orientation."""
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, offset)
    first = struct.pack(f"{order}2H2I", 0x0100, 4, 1, 9)
    value = struct.pack(f"{order}{'I' if kind == 4 else 'H'}", orientation).ljust(4, b"\0")
    return head + struct.pack(f"{order}H", 2) + first + struct.pack(f"{order}2HI", 0x0112, kind, count) + value


def test_pictures_are_turned_upright(decode, tmp_path):
    said = [exif(number, order) for number in range(10) for order in "<>"]
    said += [exif(6, kind=4), exif(6, offset=1 << 31), exif(6)[:20], exif(6)[:7], b"", b"XX" + exif(6)[2:]]
    files = [written(8, 2, (5, 3), extra=chunk(b"eXIf", data)) for data in said]
    files.append(files[2][:-12] + chunk(b"eXIf", exif(8)) + files[2][-12:])  # after the pixels; the last counts
    for file, pixels in zip(files, decode(files), strict=True):
        (tmp_path / "a.png").write_bytes(file)
        assert np.array_equal(pixels, read_image(tmp_path / "a.png"))


def grey(stream, size=(3, 2)):
    """A file of 8-bit grey with these compressed rows."""
    head = chunk(b"IHDR", struct.pack(">2I5B", *size, 8, 0, 0, 0, 0))
    return SIGNATURE + head + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def bits(*pairs):
    """A zlib stream of (value, width) pairs, as blocks write them, with the Adler-32 of nothing."""
    total, at = 0, 0
    for value, width in pairs:
        total |= value << at
        at += width
    return b"\x78\x9c" + total.to_bytes(-(-at // 8), "little") + b"\0\0\0\1"


ROWS = bytes([0, 1, 2, 3, 0, 4, 5, 6])
GOOD = grey(zlib.compress(ROWS))
HEAD, IDAT, IEND = GOOD[8:33], GOOD[33:-12], GOOD[-12:]
DYNAMIC = [(1, 1), (2, 2)]
TWO_BITS, _REST = deflate._packed([deflate._header([1, *[0] * 255, 1, 2], True)])
TWO_BITS += int(_REST.values[0]).to_bytes(4, "little")
REFUSED = {
    "empty": (b"", "it is empty"),
    "no PNG": (b"GIF89a..........", "it is no PNG"),
    "cut in the header": (GOOD[:20], "it ends early"),
    "cut in the pixels": (GOOD[:45], "it ends early"),
    "without its end": (GOOD[:-12], "it ends early"),
    "a length beyond the end": (SIGNATURE + b"\xff\xff\xff\xff" + HEAD[4:] + IEND, "it ends early"),
    "no header first": (SIGNATURE + IDAT + IEND, "its header is damaged"),
    "two headers": (SIGNATURE + HEAD + HEAD + IDAT + IEND, "its header is damaged"),
    "a changed byte": (GOOD[:20] + b"\1" + GOOD[21:], "a part of it is damaged (CRC)"),
    "no pixels": (SIGNATURE + HEAD + IEND, "it has no pixels"),
    "pixels in two places": (
        SIGNATURE + HEAD + IDAT + chunk(b"tEXt", b"") + IDAT + IEND,
        "its pixels are in two places",
    ),
    "an unknown part": (SIGNATURE + HEAD + chunk(b"CgBI", b"") + IDAT + IEND, "it has a part that is not known"),
    "no palette": (written(8, 3).replace(b"PLTE", b"pLTE", 1), "a part of it is damaged (CRC)"),
    "a palette after the pixels": (SIGNATURE + HEAD + IDAT + chunk(b"PLTE", b"abc") + IEND, "its palette is damaged"),
    "a palette of 257": (SIGNATURE + HEAD + chunk(b"PLTE", b"abc" * 257) + IDAT + IEND, "its palette is damaged"),
    "half a colour": (SIGNATURE + HEAD + chunk(b"PLTE", b"abcd") + IDAT + IEND, "its palette is damaged"),
    "a key of another kind": (SIGNATURE + HEAD + chunk(b"tRNS", b"abc") + IDAT + IEND, "its transparency is damaged"),
    "opacity of no palette": (written(8, 6, extra=chunk(b"tRNS", b"a")), "its transparency is damaged"),
    "no zlib stream": (grey(b"abcdefgh"), "its data is no zlib stream"),
    "a stream of one byte": (grey(b"x"), "its data ends early"),
    "a dictionary": (grey(b"\x78\xbb" + bytes(9)), "its data is no zlib stream"),
    "a stream that is cut": (grey(zlib.compress(ROWS)[:-5]), "its data"),
    "no checksum": (grey(zlib.compress(ROWS)[:-4]), "its data ends early"),
    "another checksum": (grey(zlib.compress(ROWS)[:-1] + b"\0"), "its pixels are not those that were written"),
    "a row too many": (grey(zlib.compress(ROWS + ROWS[:4])), "it holds more pixels than it says"),
    "a byte too few": (grey(zlib.compress(ROWS[:-1])), "it holds fewer pixels than it says"),
    "a bomb": (grey(zlib.compress(bytes(1 << 20))), "it holds more pixels than it says"),
    "a filter that is none": (grey(zlib.compress(b"\5" + ROWS[1:])), "a row has no filter"),
    "a block of no type": (grey(bits((1, 1), (3, 2))), "a block has no type"),
    "a stored block of two sizes": (grey(bits((1, 1), (0, 7), (4, 16), (4, 16))), "the size of a block is damaged"),
    "a stored block too long": (grey(bits((1, 1), (0, 7), (9, 16), (0xFFF6, 16))), "it holds more pixels"),
    "before the beginning": (grey(bits((1, 1), (1, 2), (0b1000000, 7), (0, 5))), "it repeats what is before"),
    "287 symbols": (grey(bits(*DYNAMIC, (30, 5), (0, 5), (0, 4))), "a block has too many codes"),
    "31 distances": (grey(bits(*DYNAMIC, (0, 5), (30, 5), (0, 4))), "a block has too many codes"),
    "no codes of codes": (grey(bits(*DYNAMIC, (0, 5), (0, 5), (0, 4), (0, 12), (0, 64))), "the codes of a block are"),
    "codes of codes too many": (
        grey(bits(*DYNAMIC, (0, 5), (0, 5), (0, 4), *[(1, 3)] * 4, (0, 64))),
        "the codes of a block are damaged",
    ),
    "a distance's code of two bits": (grey(b"\x78\x9c" + TWO_BITS + bytes(9)), "the codes of a block are damaged"),
    "a repeat of nothing": (
        grey(bits(*DYNAMIC, (0, 5), (0, 5), (0, 4), (1, 3), (1, 3), (0, 3), (0, 3), (0, 64))),
        "the codes of a block are damaged",
    ),
    "a repeat past the end": (
        grey(bits(*DYNAMIC, (0, 5), (0, 5), (0, 4), (0, 3), (0, 3), (1, 3), (1, 3), (0xFF, 8), (0xFF, 8), (0xFF, 8))),
        "the codes of a block are damaged",
    ),
}


def test_hostile_files_are_refused(decode):
    short = SIGNATURE + chunk(b"IHDR", struct.pack(">2I5B", 3, 2, 1, 3, 0, 0, 0)) + chunk(b"PLTE", b"abc")
    short += chunk(b"IDAT", zlib.compress(b"\0\xff\0\xff")) + IEND
    cases = {"an index past the palette": (short, "a pixel has no colour"), **REFUSED}
    for depth, colour, rest in ((3, 0, 0), (16, 3, 0), (4, 2, 0), (8, 1, 0), (8, 7, 0), (8, 0, 1)):
        head = chunk(b"IHDR", struct.pack(">2I5B", 3, 2, depth, colour, rest, 0, 0))
        cases[f"kind {depth} {colour} {rest}"] = (SIGNATURE + head + IDAT + IEND, "its header is damaged")
    for size in ((0, 2), (3, 0)):
        cases[f"size {size}"] = (grey(b"", size), "its header is damaged")
    for (name, (_, why)), result in zip(cases.items(), decode([file for file, _ in cases.values()]), strict=True):
        assert isinstance(result, str) and result.startswith(f"a.png: not a readable image ({why}"), (name, result)
        assert result.endswith("expected PNG). Fix: save it as PNG and try again."), name
    assert isinstance(decode([GOOD], most=6)[0], np.ndarray)
    for size, most in (((3, 2), 5), ((1 << 16, 1 << 16), 1 << 30), ((65537, 1), 1 << 22)):
        got = f"got {size[0]}x{size[1]}, expected at most {most} pixels, 65536 per side"
        assert decode([grey(b"", size)], most)[0] == f"a.png: too large ({got}). Fix: shrink it."


def test_damaged_files_end_in_an_error_or_a_picture(decode):
    """Any byte, with its checksum put right, so that what is behind it is reached."""
    chance = np.random.default_rng(0)
    files = []
    for number in range(600):
        depth, colour = KINDS[number % len(KINDS)]
        head, *rest = (bytearray(part) for part in written(depth, colour, (7, 6), number % 2 == 1).split(b"IDAT", 1))
        data = head + b"IDAT" + rest[0]
        for _ in range(chance.integers(1, 4)):
            data[chance.integers(8, len(data))] = chance.integers(0, 256)
        out, at = bytearray(data[:8]), 8
        while at + 12 <= len(data):
            size = min(int.from_bytes(data[at : at + 4], "big"), len(data) - at - 12)
            out += chunk(bytes(data[at + 4 : at + 8]), bytes(data[at + 8 : at + 8 + size]))
            at += 12 + size
        files.append(bytes(out))
    results = decode(files, most=1 << 16)
    assert sum(isinstance(result, str) for result in results) > 300
