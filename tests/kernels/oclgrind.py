"""Oclgrind as a device: an interpreter that reports accesses outside a buffer and data races.

It looks at a buffer as a whole, so each operand gets one of its own, in a process that sees no other driver. Run as a
program this file is that process.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from kernels.array_device import ArrayDevice, Bound

from ondevice.errors import DeviceError, OnDeviceError

DRIVER = Path("/usr/lib/oclgrind/liboclgrind-rt-icd.so")
REPORTED = 40  # lines of a report


class Oclgrind(ArrayDevice):
    """Oclgrind in a process of its own. After a report it starts anew: it stops reporting after some hundreds."""

    dialect = "opencl"
    name = "Oclgrind"

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ondevice-oclgrind-")  # removed when this process ends
        vendors = Path(self._folder.name, "vendors")
        vendors.mkdir()
        (vendors / "oclgrind.icd").write_text(f"{DRIVER}\n")
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = os.environ | {
            "OCL_ICD_VENDORS": f"{vendors}/",
            "OCLGRIND_DATA_RACES": "1",
            "OCLGRIND_LOG": str(vendors.with_name("log")),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }

    def build(self, source: str, entry: str, where: str) -> tuple[str, str, str]:
        """Compile a kernel. Raises DeviceError with the compiler's complaint."""
        self._ask((source, entry, where))
        return source, entry, where

    def run(self, bound: Bound, grid: Sequence[int], group: Sequence[int]) -> int:
        arrays, local, report = self._ask((*bound.program, bound.operands, tuple(grid), tuple(group)))
        for one, array in zip(bound.operands, arrays, strict=False):
            if one.flags.writeable:
                one[:] = array
            elif not np.array_equal(one, array):  # a weight, where its file is mapped
                raise DeviceError("it wrote to a weight.", where=bound.where)
        if report:
            self._process = None  # it ends where its questions do
            raise DeviceError("\n".join(report.splitlines()[:REPORTED]), where=bound.where)
        return int(local)

    def _ask(self, question: Any) -> Any:
        if self._process is None:
            command, pipe = [sys.executable, __file__], subprocess.PIPE
            self._process = subprocess.Popen(command, env=self._environment, stdin=pipe, stdout=pipe)
        assert self._process.stdin and self._process.stdout
        try:
            pickle.dump(question, self._process.stdin)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        except BaseException:  # a test ran out of time: nobody waits for this answer any more
            self._process.kill()
            self._process = None
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer


def serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answer a source by building it; with operands, by what they hold after a launch, the local memory that it took,
    and what was reported."""
    from kernels.opencl_device import PhoneOpenCL

    device, programs = PhoneOpenCL("Oclgrind"), {}
    reported = 0
    while True:
        try:
            source, entry, where, *launch = pickle.load(questions)
        except EOFError:
            return
        answer: Any = None
        try:
            if source not in programs:
                programs[source] = device.build(source, entry, where)
            if launch:
                operands, grid, group = launch
                arrays = [one for one in operands if one.dtype == np.uint8]
                numbers = [one.item() for one in operands if one.dtype != np.uint8]
                buffers = [device.alloc(one.nbytes, "operand") for one in arrays]
                for buffer, one in zip(buffers, arrays, strict=True):
                    device.write(buffer, one)
                device.launch(device.bind(programs[source], buffers, numbers), grid, group)
                device.finish()
                held = [device.read(b, one.shape, one.dtype) for b, one in zip(buffers, arrays, strict=True)]
                report = Path(os.environ["OCLGRIND_LOG"]).read_text()
                answer, reported = (held, device.local_bytes, report[reported:].strip()), len(report)
        except OnDeviceError as error:
            answer = DeviceError(str(error))
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
