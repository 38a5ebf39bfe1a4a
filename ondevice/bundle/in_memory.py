"""Plans and weights that are replayed where they were made, without a folder: what measures many plans of one model."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence

import numpy as np

from ondevice.bundle.weights import WeightSource, lay_out, shard_chunks, shard_sizes
from ondevice.errors import BundleError
from ondevice.graph.origin import origin_of
from ondevice.lower.kernel_file import KernelFile
from ondevice.lower.program import Program
from ondevice.lower.provenance import expression_of
from ondevice.plan import weight_key
from ondevice.plan.plan import Plan


def weight_sources(program: Program) -> dict[str, WeightSource]:
    """What `write_bundle` and a `MemoryBundle` take:
    a program's weights, lazy, by the keys that its plan reads them under."""
    tensors = {name: program.tensors[name] for name in program.weights}
    return {
        weight_key(program.component, name): WeightSource(
            values, tensors[name].dtype, tensors[name].shape, expression_of(origin_of(values))
        )
        for name, values in program.weights.items()
    }


class MemoryBundle:
    """What a session asks of a bundle. All weights are one shard, which is filled when it is first asked for."""

    def __init__(
        self, plans: Sequence[Plan], weights: Mapping[str, WeightSource], kernels: Mapping[str, KernelFile]
    ) -> None:
        self._plans, self._weights, self._kernels = list(plans), weights, kernels
        self._placed = lay_out(self._plans, weights, shard_bytes=1 << 62)
        self._shards: dict[str, np.ndarray] = {}

    def plan(self, component: str, **sizes: int) -> Plan:
        """The plan of a component at exactly these sizes. Raises BundleError where there is none."""
        for plan in self._plans:
            if plan.component == component and plan.sizes == sizes:
                return plan
        raise BundleError(
            f"no plan of {component} for {sizes} was given.", where="plans in memory", fix="give it the plan"
        )

    def weight(self, key: str) -> tuple[str, int, int]:
        """(shard, offset, bytes) of a weight."""
        entry = self._placed[key]
        return entry.file, entry.offset, entry.bytes

    def shard(self, name: str) -> np.ndarray:
        """All bytes of a shard, uint8, read-only, at the start of a page as a mapped file's are:
        a device reads them where they lie."""
        if name not in self._shards:
            size = shard_sizes(self._placed)[name]
            memory, end = mmap.mmap(-1, size), 0
            for chunk in shard_chunks(name, self._placed, self._weights):
                memory[end : end + len(chunk)] = bytes(chunk)
                end += len(chunk)
            self._shards[name] = np.frombuffer(memory, np.uint8)
            self._shards[name].flags.writeable = False
        return self._shards[name]

    def unmap(self, name: str) -> None:
        """Forget a shard until it is asked for again; it is then filled again."""
        self._shards.pop(name, None)

    def fetch(self, name: str, start: int, nbytes: int) -> None:
        """Nothing: it is in memory."""

    def expect(self, name: str, start: int, nbytes: int) -> None:
        """Nothing, either."""

    def drop(self, name: str, start: int, nbytes: int) -> None:
        """Nothing: there is no file to read it from again."""

    def source(self, file: str, dialect: str, defines: Mapping[str, int] | tuple[tuple[str, int], ...]) -> str:
        """The program to build."""
        return self._kernels[file].source(dialect, **dict(defines))

    def kernel_source(self, file: str) -> str:
        """Text of a kernel, without prelude and defines."""
        return self._kernels[file].text
