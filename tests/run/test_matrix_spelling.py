"""A device's compiler is told of the matrix unit where that is right, and of nothing else."""

from __future__ import annotations

import logging
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from ondevice.base.matrix_unit import AMX, DPBF16, MatrixUnit
from ondevice.run import discovery, matrix_spelling
from ondevice.run.cache import KernelCache
from ondevice.run.discovery import Found, unit_of
from ondevice.run.opencl import OpenCLDevice


class Handle:
    """What is asked of a pyopencl device."""

    platform = SimpleNamespace(version="OpenCL 3.0")


IN_BF16 = "#define F16 1\n#define MATH_bf16 1\n#define V 16\n__kernel ..."


def made_up(platform: str = "Intel(R) OpenCL", kind: str = "cpu", name: str = "A CPU") -> Found:
    return Found("0:0", name, platform, "OpenCL 3.0", "1", kind, Handle())


@pytest.fixture
def unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose CPU has a unit."""
    monkeypatch.setattr(discovery, "matrix_unit", lambda: MatrixUnit(DPBF16, "the CPU has avx512_bf16"))
    monkeypatch.delenv(discovery.LIMIT, raising=False)


@pytest.mark.parametrize(
    "found, limit, why",
    [
        (made_up(), "", None),
        (
            made_up("Portable Computing Language"),
            "",
            "Portable Computing Language gets plain C; it is spelled for Intel",
        ),
        (made_up(kind="gpu"), "", "it is no CPU"),
        (made_up(), "core-avx2", "CL_CONFIG_CPU_TARGET_ARCH is 'core-avx2'"),
    ],
)
def test_which_devices_offer_it(
    unit: None, monkeypatch: pytest.MonkeyPatch, found: Found, limit: str, why: str | None
) -> None:
    monkeypatch.setenv(discovery.LIMIT, limit)
    assert unit_of(found).name == ("" if why else DPBF16)
    assert why is None or unit_of(found).why.startswith(why)


def test_only_programs_that_multiply_in_it_are_told(unit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that all others keep their keys in the cache of compiled kernels."""
    monkeypatch.setattr(matrix_spelling, "_probed", lambda found, name: None)
    found = made_up(name="told")
    assert matrix_spelling.options_for(IN_BF16, found) == ("-DOD_DPBF16=1",)
    others = (IN_BF16.replace("bf16 1", "bf16 0"), "#define MATRIX_UNIT 1\n", "// #define MATH_bf16 1\n")
    assert not any(matrix_spelling.options_for(source, found) for source in others)


def test_a_unit_that_is_wrong_is_not_used(
    unit: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path))
    answers: list[Any] = [
        subprocess.CompletedProcess([], 1, b"is off by 0.5\n"),
        subprocess.CompletedProcess([], -4, b""),
        subprocess.TimeoutExpired([], 60),
        FileNotFoundError(),
    ]
    said = ["is off by 0.5", "ended its process (-4)", "could not be run (TimeoutExpired)", "(FileNotFoundError)"]

    def run(*_: Any, **__: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(matrix_spelling.subprocess, "run", run)
    for number, words in enumerate(said):
        found = made_up(name=f"wrong {number}")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert not matrix_spelling.options_for(IN_BF16, found) and not matrix_spelling.options_for(IN_BF16, found)
        (line,) = caplog.messages  # once, though asked twice
        assert line.startswith("products in bf16 are computed in plain C on wrong") and words in line
    answers.append(subprocess.CompletedProcess([], 0, b""))
    assert matrix_spelling.usable(made_up(name="right")).name == DPBF16
    matrix_spelling.usable.cache_clear()
    assert matrix_spelling.usable(made_up(name="right")).name == DPBF16, "remembered, and not tried again"


def test_the_unit_of_this_machine_is_right(device: OpenCLDevice) -> None:
    """The probe itself, on the real instruction where there is one; what it prints where it finds a fault."""
    unit = unit_of(device.found)
    if not unit.name:
        pytest.skip(unit.why)
    assert matrix_spelling.usable(device.found).name == unit.name
    assert device.facts()["matrix_unit"] == unit.name and "matrix_unit" in device.facts()["caps"]
    wrong = matrix_spelling.PROBES[unit.name].replace("row * 16 + k", "row * 16").replace("tilezero %%tmm0", "nop")
    done = subprocess.run(
        [matrix_spelling.sys.executable, "-c", SWAPPED.format(index=device.found.index, name=unit.name, source=wrong)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout[:10]) == (1, "is off by "), done.stderr


def test_a_probe_says_how_far_sums_are_off(device: OpenCLDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = """__kernel void probe(__global const ushort* left, __global const ushort* right, __global float* sums) {
        for (int i = 0; i < 256; i++) sums[i] = 0.0f;
    }"""
    monkeypatch.setitem(matrix_spelling.PROBES, DPBF16, zeros)
    assert str(matrix_spelling.probe(device.found.handle, DPBF16)).startswith("is off by ")


def test_tiles_of_amx_compile_anywhere(device: OpenCLDevice) -> None:
    """Inline assembly, which is no error where the CPU has no such tiles; they are run only where it has."""
    if device.found.kind != "cpu":
        pytest.skip("it is no CPU")
    program = discovery.opencl().Program(discovery.opencl().Context([device.found.handle]), matrix_spelling.PROBES[AMX])
    assert discovery.compile_program(program, "probe")[1].num_args == 3


SWAPPED = """
from ondevice.run import matrix_spelling
matrix_spelling.PROBES[{name!r}] = {source!r}
raise SystemExit(matrix_spelling.main({index!r}, {name!r}))
"""


def test_keys_differ_by_the_unit(unit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that was compiled without the unit is not taken for one with it."""
    monkeypatch.setattr(matrix_spelling, "_probed", lambda found, name: "wrong" if found.name == "without" else None)
    given = [matrix_spelling.options_for(IN_BF16, made_up(name=name)) for name in ("with", "without")]
    assert len({KernelCache.key(IN_BF16, " ".join((*discovery.OPTIONS, *options))) for options in given}) == 2
