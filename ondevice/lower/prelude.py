"""The words that kernels are written in: one prelude per dialect, assembled from `shaders/prelude/`.

A bundle has it as one file per dialect, so a player knows nothing of its parts."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from ondevice.base.paths import SHADERS

DIALECTS = ("opencl", "metal")
# What a dialect's words do for any device, also without an instruction for it.
SPELLED = {"opencl": frozenset({"matrix_unit", "wave_constants"}), "metal": frozenset({"wave_constants"})}
ANYWHERE = frozenset.intersection(*SPELLED.values())  # what every dialect has such words for: no program needs it
# A dialect's own words: of any device, of GPUs, of CPUs that have a matrix unit.
OWN = {"opencl": ("opencl", "opencl_gpu", "opencl_cpu"), "metal": ("metal", "metal_gpu")}
# in terms of a dialect's own words; a later one may use those before it
SHARED = ("common", "heads", "weights", "epilogue", "rows", "winograd", "reduce", "tiles", "matrix")


def missing(needs: Iterable[str], dialect: str, caps: Iterable[str]) -> list[str]:
    """Those needs of a plan that a device of these capabilities has not, and that its dialect has no words for."""
    has = SPELLED[dialect].union(caps)
    return [need for need in needs if need not in has]


@functools.cache
def prelude(dialect: str) -> str:
    """What stands before every kernel in that dialect: its own words, then those that all spell alike."""
    names = (*OWN[dialect], *SHARED)
    return "\n".join((SHADERS / "prelude" / f"{name}.h").read_text(encoding="utf-8") for name in names)


@functools.cache
def words(dialect: str) -> frozenset[str]:
    """The macros that the prelude defines whatever a build defines before it."""
    text = prelude(dialect)
    return frozenset(re.findall(r"^#define (\w+)", text, re.M)) - frozenset(re.findall(r"^#ifndef (\w+)", text, re.M))
