"""A launch by its meaning in NumPy, and where that is not known, or would take too long, by a device."""

from __future__ import annotations

from math import prod

import numpy as np

from ondevice.bundle.kernels import own_kernel
from ondevice.bundle.reader import Bundle
from ondevice.lower.kernel_file import KernelFile
from ondevice.measure.doctor.content import content
from ondevice.measure.doctor.launches import Launch
from ondevice.measure.doctor.meaning import KNOWN, MEANINGS, Given
from ondevice.measure.doctor.runner import LaunchRunner
from ondevice.plan.plan import home
from ondevice.run.check import NUMPY, WHOLE

MOST_FLOPS = 2e10  # of a launch: some seconds
MOST_BYTES = 1 << 30  # of an operand, or of a row's scores, in float64


class NumpyRunner:
    """What a reference is asked for. `meant` are the launches (their ids) that NumPy computed, not `other`."""

    def __init__(self, bundle: Bundle, other: LaunchRunner) -> None:
        self.bundle, self.other, self.device = bundle, other, other.device
        self.meant: set[int] = set()

    def run(self, launch: Launch, fill: str) -> list[np.ndarray]:
        """As `LaunchRunner.run`."""
        kernel = self._known(launch)
        if kernel is not None:
            given = given_to(self.bundle, launch, kernel, fill)
            with np.errstate(all="ignore"):
                made = MEANINGS[kernel.name](given)
            operand = launch.operands[-1]
            if made.size == prod(operand.shape):
                self.meant.add(id(launch))
                return [_stored(made.reshape(operand.shape), operand.dtype)]
        return self.other.run(launch, fill)

    def _known(self, launch: Launch) -> KernelFile | None:
        """The kernel of a launch whose meaning is known: this package's own text, one result, of moderate size."""
        name = launch.kernel.file
        small = launch.dispatch.flops <= MOST_FLOPS and all(8 * prod(x.shape) <= MOST_BYTES for x in launch.operands)
        args = launch.dispatch.scalars
        known = all(define in KNOWN for define, _ in launch.kernel.defines if define.startswith("ACT_"))
        kernel = own_kernel(name, self.bundle.manifest.files[f"kernels/{name}.cl"].sha256) if name in MEANINGS else None
        if kernel is None or not (small and known) or launch.dispatch.outputs != 1:
            return None
        numbers = dict(zip(kernel.arg_types, args, strict=True))
        scores = prod(numbers.get(one, 1) for one in ("batch", "heads", "queries", "keys")) if "keys" in numbers else 0
        return kernel if 8 * scores <= MOST_BYTES else None


def given_to(bundle: Bundle, launch: Launch, kernel: KernelFile, fill: str) -> Given:
    """What a launch is given, as `LaunchRunner` gives it."""
    numbers = {**dict(launch.kernel.defines), **dict(zip(kernel.arg_types, launch.dispatch.scalars, strict=True))}
    numbers["PANELS"] = int(bool(numbers.get("PANELS")) or kernel.kernel_class == "mobile")
    homes = [home(launch.plan.operands, index) for index in launch.dispatch.operands]
    operands: dict[str, np.ndarray] = {}
    for place, name in enumerate(kernel.inputs):
        held = homes[place]
        if launch.in_place and name in kernel.header["inplace"]:
            held = homes[-1]  # it stands where the result is written
        operand = launch.plan.operands[held]
        if operand.weight is not None:
            values = bundle.array(operand.weight)
        else:
            values = content(operand.shape, operand.dtype, homes.index(held), fill)
        operands[name] = values if operand.dtype in WHOLE else values.astype(np.float64)
    return Given(operands, numbers)


def _stored(values: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(NUMPY[dtype])
