"""Files of the project's own making that people edit and pass on:
measured tunables, kernels' headers, rows of results."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from benchmarks.compare import compare, read, table
from benchmarks.fuzz.mutate.data import of_files, pack, unpack
from benchmarks.fuzz.mutate.values import json_value, lines_of, toml_value, words_of_line
from benchmarks.fuzz.reader import Reader, Words, holds
from benchmarks.rows import read_rows
from ondevice.base.paths import SHADERS
from ondevice.lower.kernel_file import KernelFile
from ondevice.measure.phones.result import of_row, parse_result, to_text
from ondevice.target import tuning
from ondevice.target.avoid import AvoidedProgram, dump_avoided, parse_avoided

_TUNING = """\
match = {kind = "cpu", vector_floats = 16}
measured = {device = "x", driver = "1"}
[kernel.unary]
default = {V = 4}
shape = [{at = {n = 5}, use = {X = 64}, us = 2.5, was_us = 3, runs = 1}, {at = {n = 6}, use = {}}]
[kernel.matmul]
default = {MR = 6}
with = [{at = {F16 = 1}, use = {MR = 4}}]
weight = [{at = {n = 8, k = 4}, use = {V = 8}}]
"""


def _read_tuning(data: bytes, folder: Path) -> None:
    path = folder / "t.toml"
    path.write_bytes(data)
    tuning._read.cache_clear()  # it goes by the time of the last change, which is coarse
    tuned = tuning.read_tuning(path)
    tuned.fits({"kind": "cpu", "name": "a"})
    path.write_text(tuned.to_toml(), encoding="utf-8")
    tuning._read.cache_clear()
    again = tuning.read_tuning(path)
    holds(
        again.kernels.keys() == tuned.kernels.keys() and again.match == tuned.match,
        "a file is another one when it is written again",
    )


def _kernel_seeds() -> list[bytes]:
    return [
        pack({path.name: path.read_bytes()}) for path in sorted(SHADERS.rglob("*.cl")) if path.stat().st_size < 4000
    ][:12]


def _kernel(data: bytes, rng: Random, other: bytes, words: Words) -> bytes:
    """A change of the header's value, or of a line of the text."""
    lines, others = data.decode("utf-8", "replace").split("\n"), other.decode("utf-8", "replace").split("\n")
    if rng.random() < 0.3:
        return lines_of(words_of_line)(data, rng, other, words)
    header, given = (
        "\n".join(line[3:] for line in text if line.startswith("//:")).encode() for text in (lines, others)
    )
    mutant = toml_value(header, rng, given, words).decode("utf-8", "replace").split("\n")
    return "\n".join(
        [*(f"//:{line}" for line in mutant), *(line for line in lines if not line.startswith("//:"))]
    ).encode()


def _read_kernel(data: bytes, folder: Path) -> None:
    for name, text in unpack(data).items():
        if not name.endswith(".cl") or "/" in name or len(name) > 64:
            continue
        path = folder / name
        path.write_bytes(text)
        try:
            kernel = KernelFile.read(path)
        finally:
            path.unlink()
        holds(kernel.ops and kernel.source("opencl"), "a kernel without an op or a source was taken")
        dims = dict.fromkeys([*kernel._sizes, *kernel.arg_types], 64)
        kernel.misfit(dims)
        kernel.scalars(dims)
        grid, group = kernel.launch(dims, kernel.tuning())
        holds(
            all(size % step == 0 for size, step in zip(grid, group, strict=True)), "a grid is no multiple of its group"
        )


def _rows() -> bytes:
    machine = {"cpu": "a", "cores": 1, "device": {"name": "b"}}
    spans = {"median": 1.2, "low": 1.1, "high": 1.3}
    rows = [{"machine": machine, "name": name, "median_ms": 2.5, "spread": 0.01} for name in ("x", "y")]
    return "\n".join(json.dumps(row) for row in [*rows, rows[0] | {"ratio": spans}]).encode()


def _row_seeds() -> list[bytes]:
    return [pack({"old.jsonl": _rows(), "new.jsonl": _rows().replace(b"2.5", b"3.5")})]


def _read_rows(data: bytes, folder: Path) -> None:
    files, sides = unpack(data), []
    for name in ("old.jsonl", "new.jsonl"):
        (folder / name).write_bytes(files.get(name, b""))
        sides.append(read(folder / name))
    lines = table(compare(*sides), *sides)
    "\n".join(lines).encode()


_RESULT = {
    "device": "x", "driver": "1", "source": "sd", "width": 8, "height": 8, "steps": 2, "first_seconds": 3.5,
    "median_seconds": 2.0, "sustained_seconds": 2.1, "runs": [2.0, 1.9, 2.1], "components": {"unet": 1.5},
    "ops": [{"op": "Conv", "kernel": "conv2d", "seconds": 1.5, "runs": 20, "flops": 3000, "bytes": 4000}],
    "plan_bytes": 1000, "peak_bytes": 2000, "player": "p 1", "phone": {"model": "m", "cores": 8, "memory_bytes": 1},
    "phone_before": {"thermal": "none", "celsius": {"gpu": 30.5}, "battery_percent": 80, "charging": True},
}  # fmt: skip


def _read_result(data: bytes, folder: Path) -> None:
    result = parse_result(data, "a result")
    to_text(result)
    row = result.row()
    holds(of_row(row).row() == row, "a row is another one when its result is read again")
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    read_rows(path)


def _avoided() -> bytes:
    program = AvoidedProgram("softmax", "0" * 64, (("F16", 1), ("V", 4)), "wrong")
    return dump_avoided({"name": "x", "driver": "1"}, [program])


def _read_avoided(data: bytes, folder: Path) -> None:
    found = parse_avoided(data, folder / "avoid.json")
    again = parse_avoided(dump_avoided({"name": found.device}, list(found.programs.values())), folder / "avoid.json")
    holds(again == found, "a list is another one when it is written and read again")


READERS = (
    Reader("tuning", lambda: [_TUNING.encode(), b"match = {}\n"], toml_value, _read_tuning),
    Reader("kernel_header", _kernel_seeds, of_files(lambda _: _kernel), _read_kernel),
    Reader("phone_result", lambda: [json.dumps(_RESULT).encode()], json_value, _read_result),
    Reader("avoid", lambda: [_avoided()], json_value, _read_avoided),
    Reader("compare", _row_seeds, of_files(lambda _: lines_of(json_value)), _read_rows),
)
