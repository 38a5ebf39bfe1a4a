"""What MIL's ops are given and what they must give; the ops are in `mil_arithmetic` and `mil_moves`.

Floats come and go as float32; whoever calls rounds to the type that the program declares. Each function gets its
parameters by MIL's names and the declared types of its results, and allocates nothing larger than these.
Reference for all of them: the op definitions in coremltools (converters/mil/mil/ops/defs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ondevice.errors import BundleError
from ondevice.export.runtimes.mil_file import Type

Given = dict[str, Any]  # by parameter: an array; a list of arrays for `values`
Evaluate = Callable[[Given, Sequence[Type]], Any]  # an array, or a list of several


def entry(table: dict[str, Evaluate], name: str) -> Callable[[Evaluate], Evaluate]:
    """Puts a function into a table of ops."""

    def put(function: Evaluate) -> Evaluate:
        table[name] = function
        return function

    return put


def expect(shape: Sequence[int], types: Sequence[Type]) -> None:
    """Raise unless the result is as the program says it is; asked before anything that could be large is made."""
    if tuple(shape) != types[0].shape:
        what = f"gives {list(shape)} (expected {list(types[0].shape)})."
        raise BundleError(what, fix="write the package again")


def scalar(given: Given, name: str, default: Any) -> Any:
    """A parameter that is one number, text or truth value."""
    return given[name].item() if name in given else default


def numbers(given: Given, name: str, default: Sequence[int]) -> list[int]:
    return [int(one) for one in np.atleast_1d(given[name])] if name in given else list(default)


def along(x: np.ndarray, axes: Sequence[int], parameter: np.ndarray) -> np.ndarray:
    """A parameter that has only `axes` of `x`, to be broadcast."""
    axes = [axis % x.ndim for axis in axes]
    return parameter.reshape([size if i in axes else 1 for i, size in enumerate(x.shape)])
