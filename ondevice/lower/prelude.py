"""The words that kernels are written in: one prelude a dialect."""

from __future__ import annotations

import functools

from ondevice.base.paths import SHADERS

DIALECTS = ("opencl", "metal")


@functools.cache
def prelude(dialect: str) -> str:
    """What stands before every kernel in that dialect: its own words, then those that both spell alike."""
    return "\n".join((SHADERS / "prelude" / f"{name}.h").read_text(encoding="utf-8") for name in (dialect, "common"))
