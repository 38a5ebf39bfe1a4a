"""What an inert pickle can hold: descriptions of tensors, placeholders of everything else,
and which names make which."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


class PickleRefused(Exception):
    """What was refused and where; the reader of the file adds its name."""


@dataclass(eq=False, repr=False, slots=True)
class Inert:
    """A value of a class that is not looked at (a callback, a config, a NumPy scalar):
    its name, and what it holds under names of text.

    `items` are those of a dictionary's kin, or its attributes: a state dict may lie in either.
    """

    name: str
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StorageRef:
    """Raw numbers in the archive's entry data/<key>:
    `numel` of `kind` (torch's class name without "Storage"; "Untyped" are bytes)."""

    kind: str
    key: str
    numel: int

    @property
    def itemsize(self) -> int:
        """Bytes of one of them."""
        return _STORAGES[self.kind]


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A strided view of a storage; offset and strides count elements of `kind` (as storages name it)."""

    storage: StorageRef
    kind: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function by its "module name", to be named and not to be had."""

    name: str


_STORAGES = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
}
_STORAGES["Untyped"] = 1
_UNTYPED = ("torch.storage UntypedStorage", "torch UntypedStorage")
# those that have no storage class of their own
_TYPES = {"torch float8_e4m3fn": "Float8_e4m3fn", "torch float8_e5m2": "Float8_e5m2"}
_TENSOR_MAKERS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_TYPED_MAKERS = ("torch._utils _rebuild_tensor_v3",)
_PARAMETER_MAKERS = (
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state",
    "torch.nn.parameter Parameter",
    "torch.nn.parameter Buffer",
)
_RETYPED = ("torch._tensor _rebuild_from_type_v2",)
_DICT_MAKERS = ("collections OrderedDict",)
_FACTORY_DICTS = ("collections defaultdict",)
# Tensors that are made in another way than from a storage: their numbers would be missing, so that a state dict must
# not hold them.
ARRAYS = re.compile(
    r"torch\._utils _rebuild_\w+|torch\._tensor _rebuild_\w+|numpy\.(_core|core)\.multiarray _reconstruct"
)
# What runs code or reaches files when pickle.load follows it. No trainer saves one; a file that does is meant to
# harm who loads it.
_HARMFUL = re.compile(
    r"(os|posix|nt|subprocess|commands|sys|shutil|socket|ctypes|pty|runpy|importlib|_?pickle"
    r"|marshal|webbrowser)(\.\S*)? .*"
    r"|(builtins|__builtin__) (eval|exec|execfile|compile|open|file|__import__|breakpoint|input|apply)"
    r"|torch\.(hub|utils\.cpp_extension)\b.*",
    re.DOTALL,
)


def global_(name: str) -> Global:
    """The class or function of that "module name", to be named and not to be had."""
    if len(name) > 1000 or _HARMFUL.fullmatch(name):
        raise PickleRefused(f"the pickle names {name.replace(' ', '.', 1)[:200]!r}, which is no part of a tensor")
    return Global(name)


def storage_kind(name: str) -> str:
    """As StorageRef names the class `name`; "" if it is no storage."""
    if name in _UNTYPED:
        return "Untyped"
    kind = name.removeprefix("torch ").removesuffix("Storage")
    return kind if kind in _STORAGES and name == f"torch {kind}Storage" and kind != "Untyped" else ""


def put_items(target: dict[Any, Any] | Inert, pairs: Iterable[tuple[Any, Any]]) -> None:
    """Items into a dictionary or its kin. Those whose key is no name of a weight are left out."""
    items = target.items if isinstance(target, Inert) else target
    for key, value in pairs:
        # Only flat keys: hashing a tuple of tuples that share their parts takes time exponential in its depth.
        # Only small integers: a million chosen ones with one hash value take quadratic time.
        if not isinstance(key, str | bytes | int | Inert | Global | None) or (
            isinstance(key, int) and abs(key) >= 1 << 60
        ):
            continue
        if key in items:
            raise PickleRefused(f"a dictionary has the key {str(key)[:80]!r} twice")
        items[key] = value


def made_by(name: str, arguments: tuple[Any, ...]) -> Any:
    """What `name(*arguments)` would describe."""
    if name in _DICT_MAKERS:
        if arguments:
            raise PickleRefused("an OrderedDict is made from arguments")
        return {}
    if name in _FACTORY_DICTS:
        return {}
    if name in _PARAMETER_MAKERS:
        if not arguments or not isinstance(arguments[0], TensorRef):
            raise PickleRefused("a parameter is made from something that is no tensor")
        return arguments[0]
    if name in _TENSOR_MAKERS:
        match arguments:
            case (StorageRef() as storage, offset, shape, stride, *_) if storage.kind != "Untyped":
                return _tensor(storage, storage.kind, offset, shape, stride)
            case (Inert(), *_):
                return Inert(name)
        raise PickleRefused("a tensor is made from arguments that describe none")
    if name in _TYPED_MAKERS:
        match arguments:
            case (StorageRef("Untyped") as storage, offset, shape, stride, _, _, Global(dtype), *_) if dtype in _TYPES:
                return _tensor(storage, _TYPES[dtype], offset, shape, stride)
        return Inert(name)  # of whole numbers that torch has no storage class for: no weights
    if name in _RETYPED:
        match arguments:
            case (Global(maker), _, tuple(inner), *_) if maker in (*_TENSOR_MAKERS, *_TYPED_MAKERS, *_PARAMETER_MAKERS):
                return made_by(maker, inner)
    if name == "torch Size" and len(arguments) == 1 and isinstance(arguments[0], tuple):
        return arguments[0]
    if storage_kind(name):
        raise PickleRefused(f"the opcode REDUCE calls {name.replace(' ', '.')!r}, which makes no tensor")
    return Inert(name)


def _tensor(storage: StorageRef, kind: str, offset: Any, shape: Any, stride: Any) -> TensorRef:
    if (
        isinstance(shape, tuple)
        and isinstance(stride, tuple)
        and len(shape) == len(stride)
        and all(type(size) is int and 0 <= size < 1 << 48 for size in (offset, *shape, *stride))
    ):
        return TensorRef(storage, kind, offset, shape, stride)
    raise PickleRefused("a tensor is made from arguments that describe none")
