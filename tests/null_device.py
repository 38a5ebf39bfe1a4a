"""A device that runs nothing and remembers everything, for tests of what sessions bind and dispatch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ondevice.target import CAPABILITIES


@dataclass(slots=True)
class NullDevice:
    """`log` holds one line per verb; `limits` goes into `facts()`."""

    name: str = "null"
    dialect: str = "opencl"
    limits: dict[str, Any] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "global_bytes": 0, "maps_weights": True, "caps": sorted(CAPABILITIES)} | self.limits

    def prepare(self, programs: Sequence[tuple[str, str]], apart: bool) -> None:
        if programs:
            self.log.append(f"prepare{' apart' if apart else ''} {' '.join(entry for _, entry in programs)}")

    def build(self, source: str, entry: str, where: str) -> str:
        self.log.append(f"build {where}")
        return entry

    def alloc(self, nbytes: int, what: str) -> np.ndarray:
        self.log.append(f"alloc {what} {nbytes}")
        return np.zeros(nbytes, np.uint8)

    def upload(self, data: np.ndarray, what: str) -> np.ndarray:
        self.log.append(f"upload {what} {data.nbytes}")
        return data.reshape(-1).view(np.uint8)

    def sub(self, buffer: np.ndarray, offset: int, nbytes: int) -> np.ndarray:
        return buffer[offset : offset + nbytes]

    def image(self, buffer: np.ndarray, width: int, height: int, dtype: str, what: str) -> np.ndarray:
        self.log.append(f"image {what} {dtype} {width}x{height}")
        return buffer

    def write(self, buffer: np.ndarray, data: np.ndarray) -> None:
        self.log.append(f"write {data.nbytes}")
        buffer[: data.nbytes] = np.frombuffer(data.tobytes(), np.uint8)

    def give(self, buffer: np.ndarray, data: np.ndarray) -> None:
        self.write(buffer, data)

    def fill(self, buffer: np.ndarray, offset: int, data: np.ndarray) -> None:
        self.log.append(f"fill {offset} {data.nbytes}")
        buffer[offset : offset + data.nbytes] = data

    def read(self, buffer: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        self.log.append(f"read {dtype}{list(shape)}")
        return np.frombuffer(buffer.tobytes(), dtype).reshape(shape).copy()

    def copy(self, source: np.ndarray, target: np.ndarray, nbytes: int, offset: int = 0) -> None:
        self.log.append(f"copy {nbytes}")
        target[offset : offset + nbytes] = source[:nbytes]

    def bind(self, program: str, buffers: Sequence[Any], scalars: Sequence[int | float], where: str = "") -> str:
        return f"{program}{tuple(scalars)}"

    def launch(self, bound: str, grid: tuple[int, int, int], group: tuple[int, int, int]) -> float:
        self.log.append(f"launch {bound} grid={grid} group={group}")
        return 0.0

    def flush(self) -> None:
        pass

    def wait(self, launched: float) -> None:
        self.log.append("wait")

    def waiting(self, launched: float) -> Callable[[], None]:
        self.wait(launched)
        return lambda: None

    def reading(self, buffer: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> Callable[[], np.ndarray]:
        found = self.read(buffer, shape, dtype)
        return lambda: found

    def seconds(self, launched: float) -> float:
        return launched

    def span(self, launched: float) -> tuple[float, float]:
        return 0.0, launched

    def finish(self) -> None:
        self.log.append("finish")

    def settle(self, seconds: float) -> bool:
        self.log.append("finish")
        return True
