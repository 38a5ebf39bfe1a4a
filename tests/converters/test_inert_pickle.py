"""Opcodes of a pickle one by one: what follows them makes a value that is told here, or is refused with the place."""

from __future__ import annotations

from typing import Any

import pytest
from checkpoint_files import Op

from ondevice.converters.read.inert_pickle import follow
from ondevice.converters.read.inert_values import Inert, PickleRefused, StorageRef

FLOATS = Op.storage("FloatStorage", "0", 6)
BYTES = FLOATS.replace(Op.named("torch", "FloatStorage"), Op.named("torch.storage", "UntypedStorage"))
REBUILD, PARAMETER = Op.named("torch._utils", "_rebuild_tensor_v2"), Op.named("torch._utils", "_rebuild_parameter")
NO_TENSOR = "a tensor is made from arguments that describe none"
THING = Op.named("my.tools", "Thing")
ODD = "the opcode {} does not fit what is on the stack"

REFUSED = {
    "a mark that takes the place of a value": (b"}N(s.", ODD.format("SETITEM")),
    "a mark at the end": (b"(.", "the pickle ends with 0 values on a stack of 1 (expected one)"),
    "a mark that is kept": (b"(q\x000N.", ODD.format("BINPUT")),
    "a mark that is kept without a number": (b"(\x940N.", ODD.format("MEMOIZE")),
    "a mark twice": (b"(2.", ODD.format("DUP")),
    "no mark": (b"N1.", ODD.format("POP_MARK")),
    "nothing to take": (b"0N.", ODD.format("POP")),
    "items into a dictionary": (b"}(N\x90.", ODD.format("ADDITEMS")),
    "a value behind a dictionary": (b"}Na.", ODD.format("APPEND")),
    "values behind a tuple": (b")(NNe.", ODD.format("APPENDS")),
    "an item into a list": (b"]NaK\x00Ns.", ODD.format("SETITEM")),
    "a key without a value": (b"}(Nu.", ODD.format("SETITEMS")),
    "half a pair in DICT": (b"(Nd.", ODD.format("DICT")),
    "a key twice": (Op.dict([(Op.text("w"), b"N"), (Op.text("w"), b"N")]) + b".", "a dictionary has the key 'w' twice"),
    "a key twice in an object": (
        THING + b")R}0(" + 2 * (Op.text("w") + b"N") + b"u.",
        "a dictionary has the key 'w' twice",
    ),
    "a name that is no text": (b"N" + Op.text("w") + b"\x93.", ODD.format("STACK_GLOBAL")),
    "a name in a module that is no text": (Op.text("w") + b"N\x93.", ODD.format("STACK_GLOBAL")),
    "a name without end": (
        Op.named("m", "w" * 1000) + b".",
        f"the pickle names {'m.' + 'w' * 198!r}, which is no part of a tensor",
    ),
    "what never was": (b"h\x07.", "the pickle recalls a value before it was made"),
    "a call without arguments": (THING + b"NR.", "the opcode REDUCE calls something that is no tensor maker"),
    "a call of nothing": (b"N)R.", "the opcode REDUCE calls something that is no tensor maker"),
    "an object of nothing": (b"N)}\x92.", ODD.format("NEWOBJ_EX")),
    "an old object of nothing": (b"(No.", ODD.format("OBJ")),
    "state of a list": (b"]Nb.", ODD.format("BUILD")),
    "a storage of two kinds": (
        b"](" + Op.storage("FloatStorage", "0", 6) + Op.storage("HalfStorage", "0", 6) + b"e.",
        "the storage '0' is of two kinds",
    ),
    "a storage of two sizes": (
        b"](" + Op.storage("FloatStorage", "0", 6) + Op.storage("FloatStorage", "0", 7) + b"e.",
        "the storage '0' is of two kinds",
    ),
    "a parameter of a number": (PARAMETER + b"K\x01\x85R.", "a parameter is made from something that is no tensor"),
    "a tensor of bytes": (Op.tensor(BYTES, 0, [6], [1]) + b".", NO_TENSOR),
    "a tensor without a storage": (Op.tensor(b"N", 0, [6], [1]) + b".", NO_TENSOR),
    "a tensor that begins before its storage": (Op.tensor(FLOATS, -1, [6], [1]) + b".", NO_TENSOR),
    "a tensor of a negative size": (Op.tensor(FLOATS, 0, [-6], [1]) + b".", NO_TENSOR),
    "a tensor that goes back": (Op.tensor(FLOATS, 0, [6], [-1]) + b".", NO_TENSOR),
    "a tensor of a size that no file has": (Op.tensor(FLOATS, 0, [1 << 48, 0], [1, 1]) + b".", NO_TENSOR),
    "a tensor with fewer strides": (Op.tensor(FLOATS, 0, [6, 1], [1]) + b".", NO_TENSOR),
    "a tensor whose shape is a list": (REBUILD + Op.tuple(FLOATS, b"K\x00", b"]", b")") + b"R.", NO_TENSOR),
    "a tensor whose strides are a list": (REBUILD + Op.tuple(FLOATS, b"K\x00", b")", b"]") + b"R.", NO_TENSOR),
    "text that is none": (b"X\x01\x00\x00\x00\xff.", "the pickle is damaged ('utf-8' codec can't decode"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    data, what = REFUSED[case]
    with pytest.raises(PickleRefused) as caught:
        follow(data)
    assert str(caught.value).startswith(what)


def told(value: Any) -> Any:
    """The value, its placeholders as their names with what they hold."""
    if isinstance(value, Inert):
        return value.name, told(value.items)
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items()}
    return [told(item) for item in value] if isinstance(value, list) else value


FOLLOWED = {
    "items of an object": (THING + b")R(" + Op.text("w") + b"Nu.", ("my.tools Thing", {"w": None})),
    "values into an object": (THING + b")R(NNe.", ("my.tools Thing", {})),
    "one value into an object": (THING + b")RNa.", ("my.tools Thing", {})),
    "its state": (THING + b")R" + Op.dict([(Op.text("w"), b"\x88")]) + b"b.", ("my.tools Thing", {"w": True})),
    "its state in slots": (
        THING + b")RN" + Op.dict([(Op.text("w"), b"\x88")]) + b"\x86b.",
        ("my.tools Thing", {"w": True}),
    ),
    "an object by class": (THING + b")}\x92.", ("my.tools Thing", {})),
    "old objects": (b"]((imy.tools\nThing\n(" + THING + b"oe.", [("my.tools Thing", {})] * 2),
    "an escape that Python does not know": (b"S'a\\l'\n.", "a\\l"),
    "a set": (b"\x8f(NN\x90.", ("builtins set", {})),
    "a frozen set": (b"(NN\x91.", ("builtins frozenset", {})),
    "lists and tuples": (b"](NN\x86N\x85K\x01K\x02K\x03\x87e.", [(None, None), (None,), (1, 2, 3)]),
    "a value twice": (b"](N2e.", [None, None]),
    "what was kept": (b"]K\x07q\x05ah\x05a.", [7, 7]),
    "what was kept by count": (b"K\x07\x94\x85\x94\x85h\x00\x86.", (((7,),), 7)),
    "keys that name no weight": (
        Op.dict([(b")", b"N"), (Op.number(1 << 60), b"N"), (b"K\x02", b"N")]) + b".",
        {2: None},
    ),
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_followed(case: str) -> None:
    data, value = FOLLOWED[case]
    assert told(follow(data).value) == value


def test_storages_are_told_by_key() -> None:
    followed = follow(Op.storage("HalfStorage", "a/b", 6) + b".rest")
    assert followed.value == StorageRef("Half", "a/b", 6) and followed.storages == {"a/b": followed.value}
    assert followed.end == len(Op.storage("HalfStorage", "a/b", 6)) + 1
