"""Read the tensors of one file, whatever its suffix says:
.safetensors, .gguf, torch's zip archives, and torch's files of before 1.6."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from ondevice.converters.families import prefixes
from ondevice.converters.read import gguf_file
from ondevice.converters.read.ckpt_file import Ckpt, read_ckpt
from ondevice.converters.read.legacy_torch import MAGIC
from ondevice.converters.read.names import is_ignorable
from ondevice.converters.read.safetensors_file import HEADER_LIMIT, FileSlice, read_with_metadata
from ondevice.converters.read.signatures import HEAD, beginning, foreign
from ondevice.errors import CheckpointError

_WRAPPERS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_compiled_model"}
)


def read_weights(path: Path, *, averaged: bool = False) -> Ckpt:
    """The named tensors of a file, lazy; the kind is read from the first bytes, because downloads are often misnamed.

    `averaged=True` prefers averaged weights that a .ckpt keeps beside the last ones in a dictionary of their own.

    Raises CheckpointError saying what the file is where it is no weights, and what is wrong with it where it is
    damaged or hostile.
    """
    read = _read(path, averaged)
    tensors, note = unwrapped(read.tensors, str(path))
    return replace(read, tensors=tensors, notes=(*read.notes, note)) if note else read


def _read(path: Path, averaged: bool) -> Ckpt:
    file = FileSlice(path)
    head = bytes(file.read(0, min(HEAD, file.size)))
    if head.startswith((b"PK\x03\x04", MAGIC)):
        return read_ckpt(path, averaged=averaged)
    if head.startswith(gguf_file.MAGIC):
        return gguf_file.read_gguf(path)
    # A safetensors file has its JSON after 8 bytes of length; a text has letters there, which make a length
    # beyond every bound.
    if head[8:9] == b"{" and struct.unpack_from("<Q", head)[0] <= HEADER_LIMIT:
        return _safetensors(path)
    if kind := foreign(head):
        said = f" (it begins {beginning(head)!r})" if kind.says else ""
        raise CheckpointError(f"this is {kind.what}{said}.", where=str(path), fix=kind.fix)
    return _safetensors(path) if path.suffix == ".safetensors" else read_ckpt(path, averaged=averaged)


def _safetensors(path: Path) -> Ckpt:
    tensors, metadata = read_with_metadata(path)
    return Ckpt(tensors, metadata=metadata)


def without_wrappers(name: str) -> str:
    """A weight's name without the parts that DistributedDataParallel (module),
    torch.compile (_orig_mod) and their kin add."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def unwrapped(tensors: Mapping[str, ir.LazyTensor], where: str) -> tuple[dict[str, ir.LazyTensor], str]:
    """`tensors` without what training wrappers add to every name,
    and a sentence that says what that was; "" if nothing.

    Wrappers can stand inside a name. What stands before the prefixes of a whole checkpoint goes where all names but
    unused ones have it. Raises CheckpointError where two names become one.
    """
    renamed = {name: without_wrappers(name) for name in tensors}
    taken = sorted({part for name in tensors for part in name.split(".") if part in _WRAPPERS})
    if outer := _outer([name for name in renamed.values() if not is_ignorable(name)]):
        renamed = {old: new.removeprefix(outer) for old, new in renamed.items()}
        taken.append(outer.rstrip("."))
    if not taken:
        return dict(tensors), ""
    words = ", ".join(taken)[:100]
    tensors_by_name: dict[str, ir.LazyTensor] = {}
    for old, new in renamed.items():
        if new in tensors_by_name:
            what = f"the weight {new[:200]} is there under two names (with and without {words})."
            raise CheckpointError(what, where=where, fix="use another checkpoint")
        tensors_by_name[new] = tensors[old]
    return tensors_by_name, f"a training tool's {words} was left out of the names of weights"


def _outer(names: list[str]) -> str:
    """What all `names` have before the prefixes of a whole checkpoint; "" if nothing, or if not all of them have it."""
    inner = prefixes()
    for name in names:
        places = [at + 1 for prefix in inner if (at := name.find(f".{prefix}")) >= 0]
        if places or name.startswith(inner):
            outer = name[: min(places)] if places and not name.startswith(inner) else ""
            return outer if all(other.startswith(outer) for other in names) else ""
    return ""
