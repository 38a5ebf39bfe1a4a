"""Numbers, texts, JSON and hashes as the C++ player has them, beside Python's."""

import hashlib
import json
import random
import struct

import pytest

NUMBERS = [
    0.0,
    -0.0,
    1.0,
    7.5,
    0.1,
    1e-5,
    1.5e-5,
    0.0001,
    1e16,
    1.5e16,
    123456789012345.6,
    5e-324,
    1.7976931348623157e308,
]
REFUSED = [
    "", "{", "[1,]", "01", "1.", ".5", "+1", "1e", "NaN", "Infinity", "-", "nul", "[1 2]", '{"a" 1}', '{"a":1,}',
    '{"a":1,"a":2}', '"\\x"', '"\\u12"', '"\\ud800"', '"\\udc00"', '"\\ud800\\u0041"', '"a', "1 2", "1e400", '"\t"',
    "[" * 33 + "]" * 33, '{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"a":2}',
]  # fmt: skip
TAKEN = [
    "[" * 32 + "]" * 32, '"\\u00e9\\ud83d\\ude00 \\"\\\\\\/\\b\\f\\n\\r\\t\\u007f"', ' { "a" : [ ] , "b" : { } } ',
    '{"i":1,"h":2,"g":3,"f":4,"e":5,"d":6,"c":7,"b":8,"a":9,"":10}', '"é😀"', "[true,false,null]",
]  # fmt: skip


def floats(value):
    """As the tool prints JSON: every number as a float."""
    if isinstance(value, dict):
        return {key: floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [floats(item) for item in value]
    return float(value) if type(value) is int else value


def test_json_is_read_and_written_as_python_does(tool):
    chance = random.Random(0)
    numbers = [struct.unpack("<d", chance.randbytes(8))[0] for _ in range(2000)]
    lines = [*TAKEN, *(json.dumps(x) for x in [*NUMBERS, *numbers] if x == x and abs(x) != float("inf"))]
    out = tool("check_base", "json", input="\n".join(lines) + "\n").stdout.splitlines()
    assert out == [json.dumps(floats(json.loads(line))) for line in lines]


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_strict_json_is_refused(tool, text):
    assert tool("check_base", "json", input=text + "\n").stdout.startswith("refused: text: ")


def test_bytes_that_are_no_utf8_are_refused(tool):
    for data in (b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf5\x80\x80\x80"', b'"\xe2\x82"'):
        assert tool("check_base", "json", input=data + b"\n", text=False).stdout.startswith(b"refused: ")


def test_hashes(tool):
    lines = ["a" * count for count in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000)]
    out = tool("check_base", "sha256", input="\n".join(lines) + "\n").stdout.split()
    assert out == [hashlib.sha256(line.encode()).hexdigest() for line in lines]
