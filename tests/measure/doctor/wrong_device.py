"""A device that computes one kernel wrongly, on purpose."""

from __future__ import annotations

from typing import Any

import numpy as np

from ondevice.errors import KernelBuildError


class WrongDevice:
    """Does as `device` does, but where the kernel `wrong` has run, bytes of its last operand, an output, are `instead`;
    and it refuses to build the kernel `refused`."""

    def __init__(self, device: Any, wrong: str = "", instead: bytes = bytes(8), refused: str = "") -> None:
        self._device, self._wrong, self._instead, self._refused = device, wrong, instead, refused

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def build(self, source: str, entry: str, where: str) -> Any:
        if entry == self._refused:
            raise KernelBuildError("the driver refused it: internal compiler error", where=where)
        return self._device.build(source, entry, where), entry

    def bind(self, program: Any, buffers: Any, scalars: Any, where: str = "") -> Any:
        built, entry = program
        spoiled = buffers[-1] if entry == self._wrong else None
        return self._device.bind(built, buffers, scalars, where), spoiled

    def launch(self, bound: Any, grid: Any, group: Any) -> Any:
        kernel, spoiled = bound
        launched = self._device.launch(kernel, grid, group)
        if spoiled is not None:
            self._device.write(spoiled, np.frombuffer(self._instead, np.uint8))
        return launched
