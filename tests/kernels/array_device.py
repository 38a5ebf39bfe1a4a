"""The device verbs of ondevice/run/device.py over arrays in this process, for whatever runs a launch to its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ALIGNMENT = 128  # of a buffer's first byte


@dataclass(frozen=True, slots=True)
class Image:
    """Rows of texels of four values each, over the bytes of a buffer."""

    buffer: np.ndarray
    width: int
    height: int
    dtype: str  # "f16" or "f32"


@dataclass(frozen=True, slots=True)
class Bound:
    """A program with its operands in the order of its parameters: buffers, images, and numbers as arrays of one."""

    program: Any
    operands: tuple[np.ndarray | Image, ...]
    where: str


class ArrayDevice:
    """A buffer is an array of bytes, and a launch is done when `launch` returns."""

    dialect: str
    name: str
    caps: tuple[str, ...] = ()
    local_bytes = 0  # of local memory: what the last launch took

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "global_bytes": 0, "maps_weights": True, "caps": sorted(self.caps)}

    def prepare(self, programs: Sequence[tuple[str, str]], apart: bool) -> None:
        """There is nothing to spare."""

    def build(self, source: str, entry: str, where: str) -> Any:
        """Compile `source`. Raises KernelBuildError."""
        raise NotImplementedError

    def run(self, bound: Bound, grid: Sequence[int], group: Sequence[int]) -> int:
        """Run it, and return what it took of local memory. Raises DeviceError where it does what it must not."""
        raise NotImplementedError

    def launch(self, bound: Bound, grid: tuple[int, int, int], group: tuple[int, int, int]) -> float:
        self.local_bytes = self.run(bound, grid, group)
        return 0.0

    def alloc(self, nbytes: int, what: str) -> np.ndarray:
        whole = np.empty(nbytes + ALIGNMENT, np.uint8)
        start = -whole.ctypes.data % ALIGNMENT
        return whole[start : start + nbytes]

    def upload(self, data: np.ndarray, what: str) -> np.ndarray:
        return data.reshape(-1).view(np.uint8)

    def sub(self, buffer: np.ndarray, offset: int, nbytes: int) -> np.ndarray:
        return buffer[offset : offset + nbytes]

    def image(self, buffer: np.ndarray, width: int, height: int, dtype: str, what: str) -> Image:
        return Image(buffer, width, height, dtype)

    def write(self, buffer: np.ndarray, data: np.ndarray) -> None:
        buffer[: data.nbytes] = np.ascontiguousarray(data).reshape(-1).view(np.uint8)

    def give(self, buffer: np.ndarray, data: np.ndarray) -> None:
        self.write(buffer, data)

    def read(self, buffer: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return buffer[: int(np.prod(shape)) * dtype.itemsize].copy().view(dtype).reshape(shape)

    def copy(self, source: np.ndarray, target: np.ndarray, nbytes: int, offset: int = 0) -> None:
        target[offset : offset + nbytes] = source[:nbytes]

    def bind(
        self, program: Any, buffers: Sequence[np.ndarray | Image], scalars: Sequence[int | float], where: str = ""
    ) -> Bound:
        numbers = [np.array([one], np.float32 if isinstance(one, float) else np.int32) for one in scalars]
        return Bound(program, (*buffers, *numbers), where)

    def wait(self, launched: float) -> None:
        pass

    def waiting(self, launched: float) -> Callable[[], None]:
        return lambda: None

    def reading(self, buffer: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> Callable[[], np.ndarray]:
        found = self.read(buffer, shape, dtype)
        return lambda: found

    def seconds(self, launched: float) -> float:
        return launched

    def span(self, launched: float) -> tuple[float, float]:
        return 0.0, launched

    def finish(self) -> None:
        pass

    def settle(self, seconds: float) -> bool:
        return True
