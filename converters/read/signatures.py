"""What a file is by its first bytes, where it is no weights:
what a failed download or a wrong suffix leaves under a name such as .ckpt."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

HEAD = 1024  # bytes that `foreign` looks at; a tar archive's mark is at byte 257
_LOG_IN = "log in where it comes from (or set a token such as HF_TOKEN), and download the file again"
_UNPACK = "unpack it, and give the weight file that is in it"
_PLAIN = "use the .safetensors or .ckpt file of the same model"
_AGAIN = "download the file again"
BUNDLE = "bundle.json"  # the file that a folder of ours has, and the first one of a packed bundle
IS_BUNDLE = "this is a bundle, which is compiled already."
NO_BUNDLE = "draw with it, or give the checkpoint that it was made of"


@dataclass(frozen=True, slots=True)
class Signature:
    """One kind of file: `test` is true of its first bytes; `what` completes "this is "; `says`:
    its first words may say why it is so."""

    what: str
    fix: str
    test: Callable[[bytes], bool]
    says: bool = False


def _begins(*starts: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(starts)


def _matches(pattern: bytes) -> Callable[[bytes], bool]:
    compiled = re.compile(pattern, re.IGNORECASE | re.DOTALL)
    return lambda head: compiled.match(head) is not None


def _is_text(head: bytes) -> bool:
    """Whether these bytes are UTF-8 (the last character may be cut) without control characters but those of text."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return bool(text) and all(character.isprintable() or character in "\t\n\r\f\ufeff" for character in text)


_BLANK = rb"(\xef\xbb\xbf)?\s*"
SIGNATURES = (
    Signature("an empty file", f"{_AGAIN}, and see that the disk is not full", lambda head: not head),
    Signature(
        "a download that never came to its first byte (it begins with zeros)",
        _AGAIN,
        lambda head: len(head) > 8 and not any(head),
    ),
    Signature(
        "a web page, not weights",
        _LOG_IN,
        _matches(_BLANK + rb"(<!--((?!-->).)*-->\s*|<\?xml[^>]*>\s*)*<(!doctype html|html|head|body|script|meta)"),
    ),
    Signature("a server's answer in XML, not weights", _LOG_IN, _matches(_BLANK + rb"<[?!a-z]")),
    Signature(
        "a config or an index, not weights",
        "give the folder that it is in",
        _matches(_BLANK + rb"\{.*\"(weight_map|_class_name|_diffusers_version|model_type|architectures)\""),
    ),
    Signature(
        "JSON text (a server's answer), not weights",
        _LOG_IN,
        _matches(_BLANK + rb"[{\[]\s*([\"{\[}\]]|-?\d|$)"),
        says=True,
    ),
    Signature(
        "a GGML file of before GGUF",
        "use a .gguf or .safetensors file of the same model",
        _begins(b"ggml", b"lmgg", b"ggjt"),
    ),
    Signature(
        "an ONNX file",
        "give the folder that holds unet/model.onnx, text_encoder/model.onnx and the other parts",
        _matches(
            rb"\x08[\x01-\x10](\x12[\x01-\x40](pytorch|tf2onnx|onnx|skl|keras|torch)|.{0,200}ai\.onnx|(\x12\x00)?\x3a)"
        ),
    ),
    Signature("a Core ML model", _PLAIN, _matches(rb"\x08[\x01-\x10]\x12[^\x00].{0,2}\x0a")),
    Signature("an HDF5 file (Keras)", _PLAIN, _begins(b"\x89HDF\r\n\x1a\n")),
    Signature("a TFLite model", _PLAIN, lambda head: head[4:8] == b"TFL3"),
    Signature("a NumPy array", _PLAIN, _begins(b"\x93NUMPY")),
    Signature("a Flax file (msgpack)", _PLAIN, _matches(rb"([\x81-\x8f]|\xde..|\xdf....)([\xa1-\xbf]|\xd9.)[A-Za-z_]")),
    Signature("a gzip archive", _UNPACK, _begins(b"\x1f\x8b")),
    Signature("a bzip2 archive", _UNPACK, _begins(b"BZh")),
    Signature("an xz archive", _UNPACK, _begins(b"\xfd7zXZ\0")),
    Signature("a Zstandard archive", _UNPACK, _begins(b"\x28\xb5\x2f\xfd")),
    Signature("a 7z archive", _UNPACK, _begins(b"7z\xbc\xaf\x27\x1c")),
    Signature("a RAR archive", _UNPACK, _begins(b"Rar!\x1a\x07")),
    Signature("a tar archive", _UNPACK, lambda head: head[257:262] == b"ustar"),
    Signature("a PDF document", _PLAIN, _begins(b"%PDF-")),
    Signature(
        "a picture, not weights",
        _PLAIN,
        lambda head: (
            head.startswith((b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8"))
            or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        ),
    ),
    Signature(
        "macOS's side file of another (AppleDouble)",
        "give the file without the ._ before its name",
        _begins(b"\x00\x05\x16\x07"),
    ),
    Signature("a program", _PLAIN, _begins(b"\x7fELF", b"MZ\x90")),
    Signature("text, not weights", f"{_AGAIN}; log in or set a token where that asks for it", _is_text, says=True),
)
_PICKLE = Signature(
    "a Python pickle that torch did not write",
    "use a .safetensors file of the same model",
    _matches(rb"\x80[\x02-\x05]"),
)


def foreign(head: bytes) -> Signature | None:
    """What the file with these first bytes (HEAD of them, or all) is; None where nothing is known of it.
    Weights are not looked for."""
    head = _utf8(head)
    return next((kind for kind in (*SIGNATURES, _PICKLE) if kind.test(head)), None)


def beginning(head: bytes) -> str:
    """The first words of a text, on one line."""
    return " ".join(_utf8(head)[:400].decode("utf-8-sig", "replace").split())[:60]


def _utf8(head: bytes) -> bytes:
    """A text in UTF-16 that is marked so as UTF-8; anything else unchanged."""
    return head.decode("utf-16", "replace").encode() if head.startswith((b"\xff\xfe", b"\xfe\xff")) else head
