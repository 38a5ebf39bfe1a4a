"""Follow a pickle without running it: an interpreter of the opcodes that torch.save writes, which can make plain values and tensors only.

Nothing is imported, called or instantiated. A GLOBAL is looked up in a fixed table of names; REDUCE on one of them makes a
description (a `TensorRef`) or an `Inert` placeholder, never a call. Everything else is refused with the opcode, the name and the byte
offset. Memory is bounded by the size of the pickle and by a budget of values, because one byte can ask for one dictionary.

Opcodes are decoded by the standard library's pickletools, which executes nothing either.
"""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass
from typing import Any

VALUE_BUDGET = 1_000_000  # a checkpoint with moving averages and optimizer state needs about 100,000
_MARK = object()


class PickleRefused(Exception):
    """What was refused and where; the reader of the file adds its name."""


@dataclass(frozen=True, slots=True)
class Inert:
    """A value that nobody needs (a callback's class, a NumPy scalar): only its name is kept."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageRef:
    """Raw numbers in the archive's entry data/<key>: `numel` of `kind` (torch's class name without "Storage")."""

    kind: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A strided view of a storage; offset and strides count elements."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_TENSOR_MAKERS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_PARAMETER_MAKERS = ("torch._utils _rebuild_parameter",)
_DICT_MAKERS = ("collections OrderedDict",)
# What public Stable Diffusion 1.x files carry beside their weights: training callbacks with NumPy scalars in them.
_INERT = (
    "_codecs encode",
    "__builtin__ set",
    "builtins set",
    "collections defaultdict",
    "numpy dtype",
    "numpy ndarray",
    "numpy._core.multiarray _reconstruct",
    "numpy._core.multiarray scalar",
    "numpy.core.multiarray _reconstruct",
    "numpy.core.multiarray scalar",
    "pytorch_lightning.callbacks.model_checkpoint ModelCheckpoint",
    "torch Size",
    "torch device",
)
ALLOWED = frozenset((*_TENSOR_MAKERS, *_PARAMETER_MAKERS, *_DICT_MAKERS, *_INERT, *(f"torch {kind}Storage" for kind in _STORAGES)))


def follow(data: bytes) -> Any:
    """The value that `data` describes: dicts, lists, tuples, strings, numbers, TensorRef and Inert. Raises PickleRefused."""
    machine = _Machine()
    try:
        for opcode, argument, position in pickletools.genops(io.BytesIO(data)):
            if opcode.name == "STOP":
                if len(machine.stack) != 1 or machine.stack[0] is _MARK:
                    raise PickleRefused(f"the pickle ends with {len(machine.stack)} values (expected 1)")
                return machine.stack[0]
            machine.step(opcode.name, argument, position or 0)
    except (ValueError, OverflowError, RecursionError, MemoryError, KeyError, IndexError) as error:  # from decoding an opcode's argument
        raise PickleRefused(f"the pickle is damaged ({str(error)[:200]})") from None
    raise PickleRefused("the pickle has no end")


class _Machine:
    """Stack and memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.made = 0

    def step(self, name: str, argument: Any, position: int) -> None:
        """Do one opcode. Raises PickleRefused."""
        self.made += 1
        if self.made > VALUE_BUDGET:
            raise PickleRefused(f"the pickle makes more than {VALUE_BUDGET:,} values (byte {position})")
        try:
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]() if callable(_CONSTANTS[name]) else _CONSTANTS[name])
            elif name in _LITERALS:
                self.stack.append(argument)
            elif name in _IGNORED:
                pass
            elif action := getattr(self, f"do_{name.lower()}", None):
                action(argument)
            else:
                raise PickleRefused(f"the opcode {name} makes more than tensors")
        except PickleRefused as error:
            raise PickleRefused(f"{error} (byte {position})") from None
        except (IndexError, TypeError, ValueError, KeyError, AttributeError):
            # A popped value was missing or of another type than the opcode works on.
            raise PickleRefused(f"the opcode {name} does not fit what is on the stack (byte {position})") from None

    def pop(self) -> Any:
        """The top value, which must not be a mark."""
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError
        return value

    def pop_to_mark(self) -> list[Any]:
        """All values above the last mark; the mark goes too."""
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                values = self.stack[at + 1 :]
                del self.stack[at:]
                return values
        raise ValueError

    def do_mark(self, _: Any) -> None:
        """MARK"""
        self.stack.append(_MARK)

    def do_pop(self, _: Any) -> None:
        """POP"""
        self.stack.pop()

    def do_tuple(self, _: Any) -> None:
        """TUPLE"""
        self.stack.append(tuple(self.pop_to_mark()))

    def do_tuple1(self, _: Any) -> None:
        """TUPLE1"""
        self._tuple(1)

    def do_tuple2(self, _: Any) -> None:
        """TUPLE2"""
        self._tuple(2)

    def do_tuple3(self, _: Any) -> None:
        """TUPLE3"""
        self._tuple(3)

    def _tuple(self, count: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(count)])))

    def do_list(self, _: Any) -> None:
        """LIST"""
        self.stack.append(self.pop_to_mark())

    def do_dict(self, _: Any) -> None:
        """DICT"""
        values = self.pop_to_mark()
        self.stack.append({})
        self._set_items(values)

    def do_append(self, _: Any) -> None:
        """APPEND"""
        self._extend([self.pop()])

    def do_appends(self, _: Any) -> None:
        """APPENDS"""
        self._extend(self.pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Inert):
            raise TypeError

    def do_setitem(self, _: Any) -> None:
        """SETITEM"""
        value, key = self.pop(), self.pop()
        self._set_items([key, value])

    def do_setitems(self, _: Any) -> None:
        """SETITEMS"""
        self._set_items(self.pop_to_mark())

    def _set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if len(values) % 2 or not isinstance(target, dict | Inert):
            raise ValueError
        for key, value in zip(values[::2], values[1::2], strict=True):
            if isinstance(target, Inert):
                continue
            # Only flat keys: hashing a tuple of tuples that share their parts takes time exponential in its depth.
            # Only small integers: a million chosen ones with one hash value take quadratic time.
            if not isinstance(key, str | bytes | int | Inert | _Global | None) or (isinstance(key, int) and abs(key) >= 1 << 60):
                raise PickleRefused(f"a dictionary has a key that is no name (of type {type(key).__name__})")
            if key in target:
                raise PickleRefused(f"a dictionary has the key {str(key)[:80]!r} twice")
            target[key] = value

    def _memo(self, key: int) -> None:
        if self.stack[-1] is _MARK:
            raise ValueError
        self.memo[key] = self.stack[-1]

    def do_put(self, key: int) -> None:
        """PUT"""
        self._memo(key)

    do_binput = do_long_binput = do_put

    def do_memoize(self, _: Any) -> None:
        """MEMOIZE"""
        self._memo(len(self.memo))

    def do_get(self, key: int) -> None:
        """GET"""
        if key not in self.memo:
            raise PickleRefused("the pickle recalls a value before it was made")
        self.stack.append(self.memo[key])

    do_binget = do_long_binget = do_get

    def do_global(self, name: str) -> None:
        """GLOBAL"""
        if name not in ALLOWED:
            raise PickleRefused(f"the pickle names {name.replace(' ', '.', 1)[:200]!r}, which is no part of a tensor")
        self.stack.append(_Global(name))

    def do_stack_global(self, _: Any) -> None:
        """STACK_GLOBAL"""
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise TypeError
        self.do_global(f"{module} {name}")

    def do_binpersid(self, _: Any) -> None:
        """BINPERSID: torch's ("storage", class, key, device, number of elements)"""
        match self.pop():
            case ("storage", _Global(name), str(key), _, int(numel)) if name.endswith("Storage") and 0 <= numel < 1 << 48:
                self.stack.append(StorageRef(name.removeprefix("torch ").removesuffix("Storage"), key, numel))
            case _:
                raise PickleRefused("a persistent id is no torch storage")

    def do_reduce(self, _: Any) -> None:
        """REDUCE"""
        arguments, maker = self.pop(), self.pop()
        if not isinstance(maker, _Global) or not isinstance(arguments, tuple):
            raise PickleRefused("the opcode REDUCE calls something that is no tensor maker")
        self.stack.append(_reduced(maker.name, arguments))

    do_newobj = do_reduce

    def do_build(self, _: Any) -> None:
        """BUILD: the state of an OrderedDict (its _metadata) or of something inert; no tensor has one"""
        self.pop()
        if not isinstance(self.stack[-1], dict | Inert):
            raise TypeError


def _reduced(name: str, arguments: tuple[Any, ...]) -> Any:
    """What `name(*arguments)` would describe."""
    if name in _DICT_MAKERS:
        if arguments:
            raise PickleRefused("an OrderedDict is made from arguments")
        return {}
    if name in _PARAMETER_MAKERS:
        if not arguments or not isinstance(arguments[0], TensorRef):
            raise PickleRefused("a parameter is made from something that is no tensor")
        return arguments[0]
    if name in _TENSOR_MAKERS:
        match arguments:
            case (StorageRef() as storage, int(offset), tuple(shape), tuple(stride), *_) if len(shape) == len(stride) and all(
                type(size) is int and 0 <= size < 1 << 48 for size in (offset, *shape, *stride)
            ):
                return TensorRef(storage, offset, shape, stride)
        raise PickleRefused("a tensor is made from arguments that describe none")
    if name == "torch Size" and len(arguments) == 1 and isinstance(arguments[0], tuple):
        return arguments[0]
    if name in _INERT:
        return Inert(name)
    raise PickleRefused(f"the opcode REDUCE calls {name.replace(' ', '.')!r}, which makes no tensor")


_CONSTANTS: dict[str, Any] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING")
_BYTES = ("SHORT_BINBYTES", "BINBYTES")
_LITERALS = frozenset((*_NUMBERS, *_TEXTS, *_BYTES))
_IGNORED = frozenset(("PROTO", "FRAME"))
