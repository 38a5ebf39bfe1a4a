"""A kernel in Metal, compiled for the CPU: its text is parsed as far as its parameters and its variables in threadgroup
memory, and g++ does the rest with the header beside this file.

A text has one kernel. What is built is kept by its hash beside pytest's other caches.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ondevice.base import machine
from ondevice.errors import KernelBuildError

HERE = Path(__file__).parent
LANGUAGE = ("-x", "c++", "-std=c++17", f"-I{HERE}")
# `(float4)(a, b, c, d)` is legal C++: a comma expression, so Metal would silently splat `d`. Metal has no double, and a
# phone's OpenCL need not.
WARNINGS = (
    "-Wall",
    "-Werror",
    "-Wdouble-promotion",
    "-Wvla",
    "-Wno-attributes",
    "-Wno-unknown-pragmas",  # of UNROLL: GCC has its own
    "-Wno-unused-function",
    "-Wno-unused-variable",
)
FAST = ("-O2", "-march=native")
SANITIZED = ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# half rounds at every operation, and nothing is joined that the kernel has apart
ARITHMETIC = ("-ffp-contract=off", "-fexcess-precision=16", "-fno-math-errno", "-fno-strict-aliasing")

_KERNEL = re.compile(r"\bkernel\s+void\s+(\w+)\s*\(")
_ATTRIBUTE = re.compile(r"\[\[\s*(\w+)(?:\((\d+)\))?\s*\]\]")
_VARIABLE = re.compile(r"\bthreadgroup\s+([\w:<>, ]*[\w>])\s+(\w+)((?:\s*\[[^\];]*\])*)\s*;")
_UNREAD = re.compile(r"\bthreadgroup\b[^;()*&]*;")
_TYPES = r"(?:float|half|char|uchar|short|ushort|int|uint|bool)\d?"
_NAMED = re.compile(r"\btypedef\b[^;]*?(\w+)\s*;|\bstruct\s+(\w+)")
_SPACE = re.compile(r"\b(device|constant|thread|threadgroup)\b")
_TOGETHER = re.compile(r"\b(threadgroup_barrier|simdgroup_\w+|simd_\w+)\s*\(")
VECTORS = {
    "thread_position_in_grid": "grid",
    "thread_position_in_threadgroup": "local",
    "threadgroup_position_in_grid": "group",
    "threadgroups_per_grid": "groups",
    "threads_per_threadgroup": "sizes",
}
NUMBERS = {
    "thread_index_in_threadgroup": "index",
    "thread_index_in_simdgroup": "lane",
    "simdgroup_index_in_threadgroup": "simdgroup",
    "threads_per_simdgroup": "width",
    "simdgroups_per_threadgroup": "simdgroups",
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """A kernel's parameters that a caller gives, in order: "buffer", "value" or "texture"; and its C++."""

    kinds: tuple[str, ...]
    text: str


@functools.lru_cache(256)  # several devices build the same text in turn
def parse(source: str, entry: str) -> Parsed:
    """The C++ of a kernel `entry` in Metal, with `shim_run`, which launches it.

    Raises:
        KernelBuildError: it has no such kernel, a parameter that is not understood, or a pointer without an address
            space, which Metal refuses.
    """
    own = re.sub(r"#include\s*<metal_\w+>", "", source)
    text = _run(("g++", *LANGUAGE, "-E", "-"), entry, own)
    types = "|".join([_TYPES, *(named or struct for named, struct in _NAMED.findall(text))])
    pointers = re.findall(rf"[^;{{}}(),<]*\b(?:{types})\s*(?:const\s*)?[*&](?![&=])", text)
    if naked := next((found for found in pointers if not _SPACE.search(found)), None):
        raise KernelBuildError(f"a pointer or a reference says no address space: {naked.strip()}", where=entry)
    text = _VARIABLE.sub(r"static \1 \2\3; shim::shim_local((void*)&\2, sizeof \2);", text)
    if unread := _UNREAD.search(text):
        raise KernelBuildError(f"write one variable per line: {unread[0]}", where=entry)
    start = next((found for found in _KERNEL.finditer(text) if found[1] == entry), None)
    if start is None:
        raise KernelBuildError("the text has no kernel of this name.", where=entry)
    arguments = [_argument(one, entry) for one in _parameters(text, start.end())]
    kinds = tuple(kind for kind, _, _ in arguments if kind != "id")
    for kind in ("buffer", "texture"):  # a value is in a buffer, too
        given = [index for one, _, index in arguments if (one if one != "value" else "buffer") == kind]
        if any(index not in (None, number) for number, index in enumerate(given)):
            raise KernelBuildError(f"its {kind}s are not numbered in their order ({given}).", where=entry)
    places = iter(range(len(kinds)))
    values = ", ".join(value if kind == "id" else value % next(places) for kind, value, _ in arguments)
    plain = int(not _TOGETHER.search(text))
    return Parsed(kinds, f"#include <metal_stdlib>\n{text}\n{_RUN % {'call': f'{entry}({values})', 'plain': plain}}")


def entry(source: str) -> str:
    """The name of the kernel of a text. Raises KernelBuildError where there is none."""
    text = _run(("g++", *LANGUAGE, "-E", "-"), "kernel", re.sub(r"#include\s*<metal_\w+>", "", source))
    if (found := _KERNEL.search(text)) is None:
        raise KernelBuildError("the text has no kernel.", where="kernel")
    return found[1]


_RUN = """
extern "C" long shim_launch(void (*)(void*), void*, const unsigned*, const unsigned*, unsigned, int, int, char*,
                            unsigned long);
extern "C" long shim_run(void** operands, const unsigned* groups, const unsigned* sizes, unsigned width, int reverse,
                         char* why, unsigned long why_size) {
  return shim_launch([](void* given) {
    void** at = (void**)given;
    const shim::Item& item = *shim::shim_item;
    (void)at; (void)item;
    %(call)s;
  }, operands, groups, sizes, width, reverse, %(plain)d, why, why_size);
}
"""


def _parameters(text: str, start: int) -> list[str]:
    """What is between the parenthesis that was opened before `start` and the one that closes it, cut at its commas."""
    depth, parts = 0, [""]
    for letter in text[start:]:
        if letter in ")" and not depth:
            break
        depth += (letter in "(<[") - (letter in ")>]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _argument(parameter: str, entry: str) -> tuple[str, str, int | None]:
    """(kind, how `shim_run` spells it, its index if it says one)."""
    attribute = _ATTRIBUTE.search(parameter)
    word, index = (attribute[1], attribute[2]) if attribute else ("buffer", None)
    declared = re.fullmatch(r"(.*?)\s*(\w+)", _ATTRIBUTE.sub("", parameter).strip(), re.DOTALL)
    if declared is None:
        raise KernelBuildError(f"a parameter has no name: {parameter}", where=entry)
    kind, number = declared[1], None if index is None else int(index)
    if word in NUMBERS:
        return "id", f"({kind})item.{NUMBERS[word]}", None
    if word in VECTORS:
        parts = [f"item.{VECTORS[word]}[{d}]" for d in range(int(kind[-1]) if kind[-1] in "23" else 1)]
        return "id", f"{kind}({', '.join(parts)})", None
    if word == "texture" or "texture2d" in kind:
        return "texture", f"{kind}{{*(shim::Texture*)at[%d]}}", number
    if word == "buffer" and kind.endswith("&"):
        return "value", f"*({kind[:-1]}*)at[%d]", number
    if word == "buffer" and kind.endswith("*") and "threadgroup" not in kind:
        return "buffer", f"({kind})at[%d]", number
    raise KernelBuildError(f"a parameter is not understood: {parameter}", where=entry)


def check(source: str, entry: str) -> None:
    """Whether a kernel compiles. Raises KernelBuildError with what the compiler says."""
    _run(("g++", *LANGUAGE, *WARNINGS, "-fsyntax-only", "-"), entry, parse(source, entry).text)


def library(source: str, entry: str, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """A kernel's shared library in `folder`, which needs `runtime`'s, and the kinds of its parameters."""
    parsed, flags = parse(source, entry), (*FAST, *ARITHMETIC, "-fPIC", "-shared")
    return _built(parsed.text, (*WARNINGS, *flags), folder, f"{entry}.so"), parsed.kinds


def program(source: str, entry: str, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """A kernel as an executable in `folder` that checks every access (runner.cpp), and the kinds of its parameters."""
    parsed = parse(source, entry)
    objects = [
        _built((HERE / name).read_text(), (*SANITIZED, *ARITHMETIC, "-c"), folder, f"{name}.o")
        for name in ("runtime.cpp", "runner.cpp")
    ]
    linked = ("-x", "none", *map(str, objects))
    return _built(parsed.text, (*WARNINGS, *SANITIZED, *ARITHMETIC), folder, entry, linked), parsed.kinds


def runtime(folder: Path) -> Path:
    """The shared library that runs the work-items of every kernel."""
    text = (HERE / "runtime.cpp").read_text()
    return _built(text, (*FAST, "-fPIC", "-shared"), folder, "runtime.so")


@functools.cache
def _identity() -> str:
    """What a build depends on beside its own text: the header, the runtime's interface, the compiler, the CPU."""
    version = _run(("g++", "--version"), "g++").splitlines()[0]
    return "\n".join([(HERE / "metal_stdlib").read_text(), version, machine.cpu_features()])


def _built(text: str, flags: tuple[str, ...], folder: Path, name: str, linked: tuple[str, ...] = ()) -> Path:
    """What g++ makes of `text`, in a place that its hash names; made by one process, even if several ask."""
    key = hashlib.sha256("\0".join([text, *flags, *linked, _identity()]).encode()).hexdigest()[:32]
    path = folder / f"{key}-{name}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as apart:
            made = Path(apart, name)
            _run(("g++", *LANGUAGE, *flags, "-o", str(made), "-", *linked), name, text)
            os.replace(made, path)
    return path


def _run(command: tuple[str, ...], entry: str, text: str = "") -> str:
    """A compiler's output. Raises KernelBuildError with its complaints."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise KernelBuildError("there is no g++ here: install your system's g++ package.", where=entry) from None
    if done.returncode:
        raise KernelBuildError(f"g++ refused it:\n{done.stderr[:4000]}", where=entry)
    return done.stdout
