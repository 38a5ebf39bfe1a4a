"""The texts in a picture's file: read from what we and others write, refused where they are damaged."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from diffusion.pictures import chunk
from PIL import Image, PngImagePlugin

from ondevice.diffusion import picture_texts
from ondevice.diffusion.parameters import describe
from ondevice.diffusion.picture_file import write_picture
from ondevice.diffusion.picture_texts import PictureTexts, read_texts
from ondevice.errors import UsageError

PARAMETERS = {"prompt": "a <'&\"> 猫\n😀", "steps": 3, "seed": 1, "width": 6, "height": 4}
PIXELS = np.zeros((4, 6, 3), np.uint8)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_what_is_written_is_read(name: str, tmp_path: Path) -> None:
    write_picture(tmp_path / name, PIXELS, PARAMETERS)
    found = read_texts(tmp_path / name)
    assert found.infotext == describe(PARAMETERS) and json.loads(found.own or "") == PARAMETERS


def test_what_pillow_writes_is_read(tmp_path: Path) -> None:
    """As WebUI does: a PNG's text, packed or not; EXIF of either byte order."""
    for packed in (False, True):
        for text in ("plain\nSteps: 1", "é", "猫 and more"):
            info = PngImagePlugin.PngInfo()
            info.add_text("other", "x")
            info.add_text("parameters", text, zip=packed)
            Image.fromarray(PIXELS).save(tmp_path / "a.png", pnginfo=info)
            assert read_texts(tmp_path / "a.png") == PictureTexts(text, None)
    for order, coding in (("II*\0", "<"), ("MM\0*", ">")):
        for words, text in ((b"UNICODE\0" + "猫\nb".encode("utf-16-be"), "猫\nb"), (b"ASCII\0\0\0a\nb", "a\nb")):
            comment = struct.pack(f"{coding}HHII", 0x9286, 7, len(words), 44) + b"\0\0\0\0" + words
            exif = order.encode() + struct.pack(f"{coding}IHHHII", 8, 1, 0x8769, 4, 1, 26) + b"\0\0\0\0"
            exif += struct.pack(f"{coding}H", 1) + comment
            Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + exif)
            assert read_texts(tmp_path / "a.jpg").infotext == text
    Image.fromarray(PIXELS).save(tmp_path / "b.webp")
    assert read_texts(tmp_path / "b.webp") == PictureTexts(None, None)


def png(*chunks: bytes) -> bytes:
    return SIGNATURE + b"".join(chunks) + chunk(b"IEND", b"")


LIMIT = picture_texts.TEXT_LIMIT


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is none of PNG, JPEG and WebP"),
        (b"GIF89a", "it is none of PNG, JPEG and WebP"),
        (SIGNATURE + b"\0\0\0\x05tEXtab", "a chunk is cut"),
        (png(chunk(b"tEXt", b"parameters\0abc")[:-1] + b"x"), "a text is damaged: its checksum is another"),
        (png(chunk(b"zTXt", b"parameters\0\1abc")), "a text is packed in an unknown way"),
        (png(chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"abc")[:-3])), "a packed text is cut"),
        (png(chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(LIMIT + 1)))), "a text is too long (it unpacks to"),
        (png(chunk(b"tEXt", b"ondevice\0" + bytes(LIMIT + 1))), f"a text is too long (got {LIMIT + 1} bytes"),
        (png(chunk(b"iTXt", b"parameters\0\2\0\0\0a")), "an iTXt chunk is damaged"),
        (png(chunk(b"iTXt", b"parameters\0\0\0a")), "an iTXt chunk is damaged"),
        (png(chunk(b"iTXt", b"parameters\0\0\0\0\0\xff")), "can't decode byte 0xff"),
        (b"\xff\xd8\xff\xe1\0\x40Exif", "a segment is cut"),
        (b"\xff\xd8\0\0\0\0", "a segment is damaged"),
        (b"\xff\xd8\xff\xe1\0\x0eExif\0\0xxxxxx", "its EXIF has no header"),
        (b"\xff\xd8\xff\xe1\0\x0cExif\0\0II*\0", "its EXIF is cut"),
        (b"\xff\xd8\xff\xe1\0\x12Exif\0\0II*\0\x08\0\0\0\xff\xff", "a directory of 65535 entries"),
        (b"RIFF\0\0\0\0WEBPEXIF\xff\0\0\0", "a chunk is cut"),
    ],
)
def test_what_is_no_picture_with_texts_is_refused(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_texts(tmp_path / "a")
    assert words in str(caught.value) and ": no parameters can be read (" in str(caught.value)
    assert str(caught.value).endswith("that `ondevice generate` or AUTOMATIC1111's WebUI wrote.")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no parameters can be read \(no such file\)"):
        read_texts(tmp_path / "none.png")
