"""Hostile folders, and files that are no JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from player.hostile import MANIFEST, PLAN, TINY, Hostile, damaged, raw


def with_text(old: str, new: str) -> Callable[[bytes], bytes]:
    """The file, with a part of it exchanged that is there once."""

    def change(data: bytes) -> bytes:
        text = json.dumps(json.loads(data))
        assert text.count(old) >= 1, old
        return text.replace(old, new, 1).encode("utf-8", "surrogatepass")

    return change


ARENA, NAME = '"arena": 1536', '"name": "x"'
JSON: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "spaces": lambda data: b" \n\t" * 100,
    "a mark of byte order": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "UTF-32": lambda data: data.decode().encode("utf-32"),
    "a byte that is no UTF-8": lambda data: data.replace(b"tiny", b"tin\xff", 1),
    "a slash in two bytes": lambda data: data.replace(b"tiny", b"ti\xc0\xafy", 1),
    "a surrogate in UTF-8": lambda data: data.replace(b"tiny", b"ti\xed\xa0\x80y", 1),
    "half of a pair": with_text(NAME, '"name": "\\ud800"'),
    "the other half": with_text(NAME, '"name": "\\udc00"'),
    "a pair in the wrong order": with_text(NAME, '"name": "\\udc00\\ud800"'),
    "NaN": with_text(ARENA, '"arena": NaN'),
    "Infinity": with_text(ARENA, '"arena": Infinity'),
    "-Infinity": with_text(ARENA, '"arena": -Infinity'),
    "1e999": with_text(ARENA, '"arena": 1e999'),
    "hexadecimal": with_text(ARENA, '"arena": 0x600'),
    "a zero before": with_text(ARENA, '"arena": 01536'),
    "a plus before": with_text(ARENA, '"arena": +1536'),
    "a point at the end": with_text(ARENA, '"arena": 1536.'),
    "an exponent": with_text(ARENA, '"arena": 1536e0'),
    "an underscore": with_text(ARENA, '"arena": 1_536'),
    "a digit of another script": with_text(ARENA, '"arena": ١'),
    "a comment": with_text(ARENA, '"arena": 1536 /* all */'),
    "quotation marks of another kind": with_text(ARENA, "'arena': 1536"),
    "a comma at the end": lambda data: data.rstrip()[:-1] + b",}",
    "two commas": with_text(ARENA + ",", ARENA + ",,"),
    "a key twice": with_text(ARENA, ARENA + ', "arena": 512'),
    "a key twice, once escaped": with_text(ARENA, ARENA + ', "\\u0061rena": 512'),
    "a key twice, far inside": with_text(NAME, '"name": "x", "name": "x"'),
    "a value after it": lambda data: data + b"{}",
    "a bracket after it": lambda data: data + b"]",
    "a zero byte after it": lambda data: data + b"\0",
    "a zero byte in a text": with_text(NAME, '"name": "x\0"'),
    "a line feed in a text": with_text(NAME, '"name": "x\n"'),
    "its first half": lambda data: data[: len(data) // 2],
    "all but its last bracket": lambda data: data.rstrip()[:-1],
    "33 lists": lambda data: b"[" * 33 + b"]" * 33,
    "33 objects": lambda data: b'{"a":' * 33 + b"1" + b"}" * 33,
    "100,000 lists without an end": lambda data: b"[" * 100_000,
    "1,900,000 lists, each in the last": lambda data: b"[" * 1_900_000,
    "2,000,001 values": lambda data: b"[" + b"0," * 2_000_000 + b"0]",
    "a list": lambda data: b"[]",
    "a text": lambda data: b'"bundle"',
    "null": lambda data: b"null",
    "a name of a million letters": with_text(NAME, f'"name": "{"x" * 1_000_000}"'),
    "a list for the component": lambda data: json.dumps(json.loads(data) | {"component": [[]]}).encode(),
}  # of a plan
OTHERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a kernel that is no text": ("kernels/pick.cl", lambda data: b"\xff\xfe" + data),
    "a kernel of 5 MB": ("kernels/pick.cl", lambda data: data + b" " * (5 << 20)),
    "a prelude that is no text": ("kernels/prelude/opencl.h", lambda data: b"\x80"),
    "a sampler that is a list": ("samplers/tiny_2.json", lambda data: b"[]"),
    "a sampler that is no JSON": ("samplers/tiny_2.json", lambda data: b"{'a': 1}"),
    "a scheduler of NaN": ("scheduler/scheduler_config.json", lambda data: b'{"beta": NaN}'),
    "a scheduler that is a number": ("scheduler/scheduler_config.json", lambda data: b"1"),
    "a scheduler without an end": ("scheduler/scheduler_config.json", lambda data: b"{" * 1000),
}


def swap(path: Path, other: Callable[[Path], Any]) -> None:
    path.unlink()
    other(path)


def flip(path: Path) -> None:
    """The same size, and one bit of another value."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def by_two_links(path: Path) -> None:
    (path.parent / "out").write_bytes(bytes(1536))
    (path / "weights" / "up").symlink_to("..")
    swap(path / "weights" / "tiny-000.bin", lambda file: file.symlink_to("up/../out"))


def folders() -> list[Hostile]:
    shard = "weights/tiny-000.bin"
    return [
        damaged("folder: no manifest", TINY, lambda path: (path / MANIFEST).unlink()),
        damaged("folder: a manifest that is a folder", TINY, lambda path: swap(path / MANIFEST, Path.mkdir)),
        damaged("folder: a manifest that is a pipe", TINY, lambda path: swap(path / MANIFEST, os.mkfifo)),
        damaged(
            "folder: a manifest that leads to itself",
            TINY,
            lambda path: swap(path / MANIFEST, lambda file: file.symlink_to(file)),
        ),
        damaged(
            "folder: a manifest that leads out",
            TINY,
            lambda path: swap(path / MANIFEST, lambda file: file.symlink_to("/etc/hostname")),
        ),
        damaged(
            "folder: a shard that leads out",
            TINY,
            lambda path: swap(path / shard, lambda file: file.symlink_to("/dev/zero")),
        ),
        damaged("folder: a shard that leads out by two links", TINY, by_two_links),
        damaged("folder: a shard that is a pipe", TINY, lambda path: swap(path / shard, os.mkfifo)),
        damaged("folder: a shard that is a folder", TINY, lambda path: swap(path / shard, Path.mkdir)),
        damaged(
            "folder: a folder that leads out",
            TINY,
            lambda path: (
                (path / "weights").rename(path.parent / "elsewhere"),
                (path / "weights").symlink_to("../elsewhere"),
            ),
        ),
        damaged("folder: a shard that is cut", TINY, lambda path: os.truncate(path / shard, 100)),
        damaged("folder: a shard of 2^40 bytes", TINY, lambda path: os.truncate(path / shard, 1 << 40)),
        damaged("folder: a manifest of 65 MiB", TINY, lambda path: os.truncate(path / MANIFEST, 65 << 20)),
        damaged("folder: a bit of a shard", TINY, lambda path: flip(path / shard)),
        damaged("folder: a bit of a plan", TINY, lambda path: flip(path / PLAN)),
        damaged("folder: a bit of a kernel", TINY, lambda path: flip(path / "kernels/pick.cl")),
        damaged("folder: a bit of a tokenizer", TINY, lambda path: flip(path / "tokenizers/tiny/merges.txt")),
        damaged(
            "folder: a plan for another",
            TINY,
            lambda path: (path / PLAN).write_bytes((path / "plans/tiny_width1000.json").read_bytes()),
        ),
    ]


def files() -> list[Hostile]:
    found = [raw(f"JSON: {what}", TINY, PLAN, change) for what, change in JSON.items()]
    found += [raw(f"file: {what}", TINY, file, change) for what, (file, change) in OTHERS.items()]
    return found + folders()
