"""An OpenCL device of this machine, held to what phones' GPUs do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ondevice.errors import DeviceError
from ondevice.run.discovery import find_device, opencl
from ondevice.run.opencl import OpenCLDevice

QUALCOMM = Path(__file__).with_name("qualcomm.h")


class PhoneOpenCL(OpenCLDevice):
    """Says what local memory a launch takes, and may have sub-groups of another width than the driver's choice.

    Args:
        spec: which device, as `find_device` takes it.
        sub_group: work-items of a sub-group in kernels that use them, where the driver lets one say so
            (cl_intel_required_subgroup_size).
        qualcomm: has stand-ins for Qualcomm's loads of constants, in kernels that use them.
    """

    def __init__(self, spec: str | None = None, sub_group: int | None = None, qualcomm: bool = False) -> None:
        self._handle = find_device(spec).handle
        super().__init__(find_device(spec))
        self.sub_group, self.qualcomm, self.local_bytes = sub_group, qualcomm, 0

    def build(self, source: str, entry: str, where: str) -> Any:
        used = set(re.findall(r"^#define (SUBGROUPS|WAVE_CONSTANTS) 1$", source, re.MULTILINE))
        if self.qualcomm and "WAVE_CONSTANTS" in used:
            source = QUALCOMM.read_text() + source
        if self.sub_group and used:
            word = f"__attribute__((intel_reqd_sub_group_size({self.sub_group})))"
            source = re.sub(r"\b__kernel\b", f"{word} __kernel", source)
        if "Portable Computing Language" not in self.facts()["platform"]:
            return super().build(source, entry, where)
        with pytest.MonkeyPatch.context() as patch:  # its optimizer takes a minute for a kernel of unrolled tiles
            patch.setenv("PYOPENCL_BUILD_OPTIONS", "-cl-opt-disable")
            return super().build(source, entry, where)

    def launch(self, bound: Any, grid: tuple[int, int, int], group: tuple[int, int, int]) -> Any:
        taken = opencl().kernel_work_group_info.LOCAL_MEM_SIZE
        self.local_bytes = int(bound[0].get_work_group_info(taken, self._handle))
        if self.local_bytes > self._handle.local_mem_size:  # some drivers crash
            raise DeviceError(f"it takes {self.local_bytes} bytes of local memory.", where=bound[2])
        return super().launch(bound, grid, group)
