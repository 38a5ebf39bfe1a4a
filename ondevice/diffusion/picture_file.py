"""The file of a picture, in the format that its name says, with what it was drawn with inside.

PNG has two texts: `parameters` (as WebUI writes it) and `ondevice` (JSON); its bytes are those of docs/png.md. JPEG and
WebP have the first in EXIF's UserComment and the second in XMP, as `ondevice:parameters`.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image, features

from ondevice.base.publish import published_file
from ondevice.diffusion.files import fix_of
from ondevice.diffusion.parameters import describe
from ondevice.diffusion.png import encode_png
from ondevice.errors import UsageError

log = logging.getLogger(__name__)
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
SIDES = {"JPEG": 65500, "WEBP": 16383}
"""The longest side that the formats can say; PNG's is longer than any picture's."""

QUALITY = 95
SEGMENT = 65000
"""Bytes of EXIF and of XMP in a JPEG, whose segments end at 65,535."""

_CODECS = {"JPEG": "jpg", "WEBP": "webp"}  # that Pillow may have been built without
_SOFTWARE, _EXIF, _USER_COMMENT = 0x0131, 0x8769, 0x9286
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:ondevice="urn:ondevice:picture" ondevice:parameters={}/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def format_of(path: Path, size: tuple[int, int] = (1, 1)) -> str:
    """PNG, JPEG or WEBP, by the end of a file's name, for a picture of size (width, height).

    Raises:
        UsageError: another name, or a format that cannot hold the picture or be written on this machine.
    """
    name = FORMATS.get(path.suffix.lower())
    plain = path.stem if path.suffix[1:].isalpha() else path.name
    if name is None:
        got = f"got {path.suffix!r}" if path.suffix else "the name says none"
        what = f"pictures are written as PNG, JPEG or WebP ({got[:40]}, expected {', '.join(FORMATS)})."
        raise UsageError(what, where=f"--out: {path}", fix=f"name it {plain}.png")
    if max(size) > SIDES.get(name, max(size)):
        what = f"a {name} has at most {SIDES[name]} pixels per side (got {size[0]}x{size[1]})."
        raise UsageError(what, where=f"--out: {path}", fix=f"name it {plain}.png")
    if name in _CODECS and not features.check(_CODECS[name]):
        raise UsageError(
            f"Pillow was built without {name} here.", where=f"--out: {path}", fix="install Pillow from PyPI"
        )
    return name


def free_names(path: Path) -> Iterator[Path]:
    """Names that nobody has yet: a.png, a-1.png, a-2.png..."""
    names = itertools.chain([path], (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(1)))
    return (name for name in names if not os.path.lexists(name))


def write_picture(
    path: Path,
    pixels: np.ndarray,
    parameters: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    *,
    numbered: bool = False,
) -> Path:
    """Writes uint8[h, w, 3] in the format that the name says, with its parameters; gives the path that it has.

    A file that is there already is replaced, and a link's target where it is a link; `numbered`: nothing is replaced,
    and the first of `free_names` is taken, which no other process gets. `config`: the scheduler's, for WebUI's words.
    The file appears whole or not at all.

    Raises:
        UsageError: it cannot be written there. It is then kept in the folder for temporary files, if that takes it, and
            the error names it.
    """
    return publish(path, encoded(path, pixels, parameters, config), numbered=numbered)


def publish(path: Path, data: bytes, *, numbered: bool = False) -> Path:
    """Writes a picture's file as `write_picture` does, of which the bytes are there."""
    for target in free_names(path) if numbered else (path,):
        try:
            with published_file(target, replace=not numbered) as file:
                file.write(data)
        except FileExistsError:  # another process took the name just now
            continue
        except OSError as error:
            kept = _kept(data, path.suffix)
            what = (
                f"the picture cannot be written ({error.strerror or error}){f'; it is kept as {kept}' if kept else ''}."
            )
            raise UsageError(
                what, where=str(target), fix=f"move it from there; {fix_of(error)}" if kept else fix_of(error)
            ) from None
        return target
    raise UsageError(
        "the picture cannot be written (its name was taken meanwhile).", where=str(path), fix="choose another --out"
    )


def _kept(data: bytes, suffix: str) -> str | None:
    """Where a picture is that its own place refused: the work of minutes is not lost for a full disk."""
    try:
        with tempfile.NamedTemporaryFile(prefix="ondevice-", suffix=suffix, delete=False) as file:
            file.write(data)
        return file.name
    except OSError:
        return None


def encoded(
    path: Path, pixels: np.ndarray, parameters: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> bytes:
    """The bytes that `write_picture` writes. Raises UsageError for a name of another format."""
    kind = format_of(path)
    if kind == "PNG":
        own = json.dumps(dict(parameters), sort_keys=True)
        return encode_png(pixels, {"parameters": describe(parameters, config), "ondevice": own})
    image, out = Image.fromarray(pixels), io.BytesIO()
    exif, xmp = exif_and_xmp(parameters, config) if kind == "WEBP" else _short_tags(parameters, config)
    # 4:4:4: small red shapes are blurred otherwise. (WebP has no such choice.)
    image.save(out, format=kind, quality=QUALITY, exif=exif, xmp=xmp, **({"subsampling": 0} if kind == "JPEG" else {}))
    return out.getvalue()


def exif_and_xmp(parameters: Mapping[str, Any], config: Mapping[str, Any] | None) -> tuple[bytes, bytes]:
    """(EXIF, XMP). UserComment is big-endian UTF-16, as WebUI reads it."""
    exif = Image.Exif()
    exif[_SOFTWARE] = str(parameters.get("version", "ondevice"))
    exif.get_ifd(_EXIF)[_USER_COMMENT] = b"UNICODE\0" + describe(parameters, config).encode("utf-16-be")
    return exif.tobytes(), _XMP.format(quoteattr(json.dumps(dict(parameters), sort_keys=True))).encode()


def _short_tags(parameters: Mapping[str, Any], config: Mapping[str, Any] | None) -> tuple[bytes, bytes]:
    """The same for a JPEG. Long texts lose their ends there; the model reads 77 tokens of a prompt."""
    tags, limit = exif_and_xmp(parameters, config), 1 << 14
    while max(map(len, tags)) > SEGMENT:
        limit //= 2
        cut = {
            key: value[:limit] + "..." if isinstance(value, str) and len(value) > limit else value
            for key, value in parameters.items()
        }
        tags = exif_and_xmp(cut | {"texts_cut_at": limit}, config)
    if limit < 1 << 14:
        log.warning(
            "a JPEG has no room for all of the prompt: its parameters hold the first %d characters of each text", limit
        )
    return tags
