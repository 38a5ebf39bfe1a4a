"""What a GPU must be able to do for us. A handful of verbs; everything else is built on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


class Device(Protocol):
    """A queue that runs kernels in order."""

    name: str
    dialect: str  # "opencl" or "metal": picks the prelude

    def facts(self) -> dict[str, Any]:
        """Platform, driver, limits: what a benchmark row or a bug report must say."""
        ...

    def build(self, source: str, entry: str, where: str) -> Any:
        """Compile `source`; `where` names file and defines in an error. Returns what `bind` takes."""
        ...

    def alloc(self, nbytes: int, what: str) -> Any:
        """A buffer of undefined content; `what` names it in an error."""
        ...

    def upload(self, data: np.ndarray, what: str) -> Any:
        """A read-only buffer with the bytes of `data`, without a copy where the device shares memory with the host."""
        ...

    def sub(self, buffer: Any, offset: int, nbytes: int) -> Any:
        """Part of a buffer."""
        ...

    def write(self, buffer: Any, data: np.ndarray) -> None: ...

    def read(self, buffer: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray: ...

    def bind(self, program: Any, buffers: Sequence[Any], scalars: Sequence[int | float]) -> Any:
        """A kernel with its arguments set once; keeps the buffers alive."""
        ...

    def launch(self, bound: Any, grid: tuple[int, int, int], group: tuple[int, int, int]) -> Any:
        """Enqueue; returns what `seconds` takes."""
        ...

    def seconds(self, launched: Any) -> float:
        """How long a finished launch ran on the device."""
        ...

    def finish(self) -> None: ...


@dataclass(slots=True)
class NullDevice:
    """Runs nothing, remembers everything: lets a machine without a GPU test binding and dispatch."""

    name: str = "null"
    dialect: str = "opencl"
    log: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        return {"name": self.name}

    def build(self, source: str, entry: str, where: str) -> str:
        self.log.append(f"build {where}")
        return entry

    def alloc(self, nbytes: int, what: str) -> np.ndarray:
        self.log.append(f"alloc {what} {nbytes}")
        return np.zeros(nbytes, np.uint8)

    def upload(self, data: np.ndarray, what: str) -> np.ndarray:
        self.log.append(f"upload {what} {data.nbytes}")
        return data.view(np.uint8)

    def sub(self, buffer: np.ndarray, offset: int, nbytes: int) -> np.ndarray:
        return buffer[offset : offset + nbytes]

    def write(self, buffer: np.ndarray, data: np.ndarray) -> None:
        buffer[:] = np.frombuffer(data.tobytes(), np.uint8)

    def read(self, buffer: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.frombuffer(buffer.tobytes(), dtype).reshape(shape)

    def bind(self, program: str, buffers: Sequence[Any], scalars: Sequence[int | float]) -> str:
        return f"{program}{tuple(scalars)}"

    def launch(self, bound: str, grid: tuple[int, int, int], group: tuple[int, int, int]) -> float:
        self.log.append(f"launch {bound} grid={grid} group={group}")
        return 0.0

    def seconds(self, launched: float) -> float:
        return launched

    def finish(self) -> None:
        self.log.append("finish")
