"""A bundle with some of its plans mended: dispatches of theirs compute in float32 (ondevice/plan/widen.py)."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ondevice.errors import BundleError, NoKernelError
from ondevice.lower.kernel_file import KernelFile, kernel_paths
from ondevice.plan.plan import Plan
from ondevice.plan.widen import CAST, SUFFIX, widened
from ondevice.run.source import Changed, Source

Key = tuple[Any, ...]


def key_of(component: str, sizes: Mapping[str, int]) -> Key:
    """What a plan is known by."""
    return (component, *sorted(sizes.items()))


class Mended:
    """What a session asks of a bundle. A weight in float32 is a shard of its own, which is made when it is asked for,
    and lives as long as somebody has it: on a device with memory of its own until it is copied there."""

    def __init__(self, bundle: Source) -> None:
        self.bundle = bundle
        self._changed: Changed | None = None
        self._plans: dict[Key, Plan] = {}
        self._narrow: dict[str, str] = {}  # key of a weight in float32 -> the bundle's own
        self._shards: WeakValueDictionary[str, np.ndarray] = WeakValueDictionary()
        self._kernels: dict[str, KernelFile] = {}

    def widened(self, component: str, sizes: Mapping[str, int], wide: frozenset[int]) -> Plan:
        """The bundle's plan with these dispatches in float32. Raises PlanError as `ondevice.plan.widen.widened`."""
        plan = self.bundle.plan(component, **sizes)
        return widened(plan, wide, self.kernels(plan))

    def mend(self, made: Plan) -> None:
        """Give this plan in place of the bundle's own from now on."""
        own = {one.weight for one in self.bundle.plan(made.component, **made.sizes).operands}
        new = {one.weight for one in made.operands if one.weight is not None} - own
        self._narrow |= {key: key.removesuffix(SUFFIX) for key in new if key is not None}
        self._plans[key_of(made.component, made.sizes)] = made

    def kernels(self, plan: Plan) -> dict[str, KernelFile]:
        """The kernels of a plan that say how they are built, and CAST, this package's where the bundle has none."""
        for file in (*(kernel.file for kernel in plan.kernels), CAST):
            if file not in self._kernels:
                try:
                    self._kernels[file] = KernelFile.parse(file, self.bundle.kernel_source(file))
                except NoKernelError:
                    continue  # a stranger's, of which nothing is known
                except BundleError:
                    if file != CAST:
                        raise
                    self._kernels[file] = KernelFile.read(kernel_paths()[file])
        return self._kernels

    def plan(self, component: str, **sizes: int) -> Plan:
        """The mended plan of these sizes, or the bundle's."""
        return self._plans.get(key_of(component, sizes)) or self.bundle.plan(component, **sizes)

    def is_made(self, key: str) -> bool:
        """Whether a weight is one in float32, and in no file."""
        return key in self._narrow

    def weight(self, key: str) -> tuple[str, int, int]:
        """(shard, offset, bytes) of a weight."""
        if key not in self._narrow:
            return self.bundle.weight(key)
        return key, 0, 2 * self.bundle.weight(self._narrow[key])[2]

    def shard(self, name: str) -> np.ndarray:
        """All bytes of a shard, uint8, from the start of a page on: a device reads them where they lie."""
        if name not in self._narrow:
            return self.bundle.shard(name)
        if (known := self._shards.get(name)) is not None:
            return known
        halves = self.stored(self._narrow[name])
        made = np.frombuffer(mmap.mmap(-1, 2 * halves.nbytes), np.uint8)
        made.view(np.float32)[:] = halves.view(np.float16)
        made.flags.writeable = False
        self._shards[name] = made
        return made

    def stored(self, key: str) -> np.ndarray:
        """The bytes of a weight of the bundle, as they are now: uint8."""
        if self._changed is not None and key in self._changed.keys:
            return self._changed.values(key).reshape(-1).view(np.uint8)
        shard, offset, nbytes = self.bundle.weight(key)
        return self.bundle.shard(shard)[offset : offset + nbytes]

    def change(self, changed: Changed | None) -> list[str]:
        """Take these weights in place of the bundle's; the shards in float32, which are made anew when they are asked
        for."""
        self._changed = changed
        self._shards.clear()
        return list(self._narrow)

    def unmap(self, name: str) -> None:
        """Forget a shard until it is asked for again."""
        if name not in self._narrow:
            self.bundle.unmap(name)

    def fetch(self, name: str, start: int, nbytes: int) -> None:
        """Have bytes of a shard in memory now; those in float32 are."""
        if name not in self._narrow:
            self.bundle.fetch(name, start, nbytes)

    def expect(self, name: str, start: int, nbytes: int) -> None:
        """Begin to read these bytes."""
        if name not in self._narrow:
            self.bundle.expect(name, start, nbytes)

    def drop(self, name: str, start: int, nbytes: int) -> None:
        """Let these bytes leave memory; those in float32 stay."""
        if name not in self._narrow:
            self.bundle.drop(name, start, nbytes)

    def source(self, file: str, dialect: str, defines: Mapping[str, int] | tuple[tuple[str, int], ...]) -> str:
        """The program to build."""
        try:
            return self.bundle.source(file, dialect, defines)
        except BundleError:
            if file != CAST or CAST not in self._kernels:
                raise
            return self._kernels[file].source(dialect, **dict(defines))

    def kernel_source(self, file: str) -> str:
        """A kernel's own text."""
        return self.bundle.kernel_source(file)
