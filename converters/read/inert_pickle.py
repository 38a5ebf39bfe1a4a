"""Follow a pickle without running it: an interpreter of the opcodes that torch.save writes,
which can make plain values and tensors only.

Nothing is imported, called or instantiated. A GLOBAL is a name; REDUCE on one that makes tensors makes a description of
one (a `TensorRef`), and on any other an `Inert` placeholder, never a call: trainers keep configs, paths, dates and
callbacks of their own classes beside the weights. Names that only an attack holds (os.system) and whatever could make a
tensor wrong are refused with the opcode, the name and the byte offset. Memory is bounded by the size of the pickle and
by a budget of values, because one byte can ask for one dictionary.

Opcodes are decoded by the standard library's pickletools, which executes nothing either.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from dataclasses import dataclass
from typing import Any

from ondevice.converters.read.inert_values import (
    Global,
    Inert,
    PickleRefused,
    StorageRef,
    global_,
    made_by,
    put_items,
    storage_kind,
)

VALUE_BUDGET = 1_000_000  # a checkpoint with moving averages and optimizer state needs about 100,000
_MARK = object()


@dataclass(frozen=True, slots=True)
class Followed:
    """What a pickle describes, the storages that it names by key, and the byte after its end."""

    value: Any
    storages: dict[str, StorageRef]
    end: int


def follow(data: bytes, start: int = 0) -> Followed:
    """What the pickle at byte `start` describes: dicts, lists, tuples, strings, numbers, TensorRef and Inert.
    Raises PickleRefused."""
    machine, stream = _Machine(), io.BytesIO(data)
    stream.seek(start)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in text that Python does not know
            # up to STOP; a ValueError where there is none
            for opcode, argument, position in pickletools.genops(stream):
                if opcode.name != "STOP":
                    machine.step(opcode.name, argument, position or 0)
    except ValueError as error:  # from decoding an opcode's argument
        raise PickleRefused(f"the pickle is damaged ({str(error)[:200]})") from None
    values = [value for value in machine.stack if value is not _MARK]
    if len(machine.stack) != 1 or not values:
        raise PickleRefused(
            f"the pickle ends with {len(values)} values on a stack of {len(machine.stack)} (expected one)"
        )
    return Followed(values[0], machine.storages, stream.tell())


class _Machine:
    """Stack and memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}
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
        except (IndexError, TypeError, ValueError):
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

    def do_pop_mark(self, _: Any) -> None:
        """POP_MARK"""
        self.pop_to_mark()

    def do_dup(self, _: Any) -> None:
        """DUP"""
        self.stack.append(self.pop())
        self.stack.append(self.stack[-1])

    def do_empty_set(self, _: Any) -> None:
        """EMPTY_SET"""
        self.stack.append(Inert("builtins set"))

    def do_frozenset(self, _: Any) -> None:
        """FROZENSET"""
        self.pop_to_mark()
        self.stack.append(Inert("builtins frozenset"))

    def do_additems(self, _: Any) -> None:
        """ADDITEMS: into a set, or its kin"""
        self.pop_to_mark()
        if not isinstance(self.stack[-1], Inert):
            raise TypeError

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
        if not isinstance(target, dict | Inert):
            raise TypeError
        put_items(target, zip(values[::2], values[1::2], strict=True))

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
        self.stack.append(global_(name))

    def do_stack_global(self, _: Any) -> None:
        """STACK_GLOBAL"""
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise TypeError
        self.do_global(f"{module} {name}")

    def do_binpersid(self, _: Any) -> None:
        """BINPERSID: torch's ("storage", class, key, device, number of elements),
        and None for no view where torch is older than 1.6"""
        match self.pop():
            case ("storage", Global(name), str(key), _, int(numel), *view) if 0 <= numel < 1 << 48 and (
                view or [None]
            ) == [None]:
                kind = storage_kind(name)
                storage = StorageRef(kind, key, numel)
                if kind and self.storages.setdefault(key, storage) != storage:
                    raise PickleRefused(f"the storage {key[:100]!r} is of two kinds")
                # complex or quantized numbers: no weights, or weights to be refused
                self.stack.append(storage if kind else Inert(name))
            case _:
                raise PickleRefused("a persistent id is no torch storage")

    def do_reduce(self, _: Any) -> None:
        """REDUCE"""
        arguments, maker = self.pop(), self.pop()
        if not isinstance(maker, Global | Inert) or not isinstance(arguments, tuple):
            raise PickleRefused("the opcode REDUCE calls something that is no tensor maker")
        self.stack.append(made_by(maker.name, arguments) if isinstance(maker, Global) else Inert(maker.name))

    do_newobj = do_reduce

    def do_newobj_ex(self, _: Any) -> None:
        """NEWOBJ_EX: with keyword arguments, which no tensor is made with"""
        _, _, maker = self.pop(), self.pop(), self.pop()
        if not isinstance(maker, Global | Inert):
            raise TypeError
        self.stack.append(Inert(maker.name))

    def do_inst(self, name: str) -> None:
        """INST: protocol 0's object of a class by name"""
        arguments = tuple(self.pop_to_mark())
        self.stack.append(made_by(global_(name).name, arguments))

    def do_obj(self, _: Any) -> None:
        """OBJ: protocol 1's object of the class above the mark"""
        maker, *arguments = self.pop_to_mark()
        if not isinstance(maker, Global | Inert):
            raise TypeError
        self.stack.append(made_by(maker.name, tuple(arguments)) if isinstance(maker, Global) else Inert(maker.name))

    def do_build(self, _: Any) -> None:
        """BUILD: the state of an OrderedDict (its _metadata) or of something inert; no tensor has one"""
        state, target = self.pop(), self.stack[-1]
        if not isinstance(target, dict | Inert):
            raise TypeError
        # Held, not copied: a pickle can give one large state to a million objects.
        parts = state if isinstance(state, tuple) else (state,)  # (__dict__, slots) where a class has both
        if isinstance(target, Inert) and not target.items:
            target.items = next((part for part in parts if isinstance(part, dict) and part), {})


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
_BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8")
_LITERALS = frozenset((*_NUMBERS, *_TEXTS, *_BYTES))
_IGNORED = frozenset(("PROTO", "FRAME"))
