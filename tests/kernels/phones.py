"""The devices on which kernels for phones are tested, as no phone is at hand. See conftest.py."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from kernels.bench import PLAIN, Bench
from kernels.oclgrind import DRIVER, Oclgrind
from kernels.opencl_device import PhoneOpenCL
from metal.device import MetalOnCpu

from ondevice.errors import NoDeviceError
from ondevice.run.device import Device
from ondevice.target import Limits

LIMITS = Limits(work_group=256, local_memory=32 << 10, pitch_alignment=8)  # the last is that of Intel's CPU runtime
FOLDER = "ondevice-metal"  # of compiled kernels, beside those of OpenCL


@dataclass(frozen=True, slots=True)
class Condition:
    """A device, and the capabilities that kernels take advantage of on it; `quick` ones are part of `make test`."""

    make: Callable[[], Device]
    caps: tuple[str, ...] = ()
    quick: bool = False


def _metal(width: int, **options: bool) -> Callable[[], Device]:
    def make() -> Device:
        if not shutil.which("g++"):
            pytest.skip("there is no g++ here: install your system's g++ package")
        folder = Path(os.environ["ONDEVICE_CACHE"], FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        return MetalOnCpu(folder, width, **options)

    return make


def _opencl(spec: str | None = None, sub_group: int | None = None, qualcomm: bool = False) -> Callable[[], Device]:
    def make() -> Device:
        try:
            return PhoneOpenCL(spec, sub_group, qualcomm)
        except NoDeviceError as error:
            pytest.skip(f"{error}; apt-get install pocl-opencl-icd")

    return make


def _oclgrind() -> Device:
    if not DRIVER.exists():
        pytest.skip(f"{DRIVER} is not there: apt-get install oclgrind libclang-common-14-dev")
    return Oclgrind()


GPU = ("half", "image2d", "subgroups")
CONDITIONS = {
    "opencl": Condition(_opencl(), GPU, quick=True),
    "opencl-32": Condition(_opencl(sub_group=32), GPU),
    "opencl-64": Condition(_opencl(sub_group=64), GPU),
    "opencl-64-qualcomm": Condition(_opencl(sub_group=64, qualcomm=True), (*GPU, "wave_constants")),
    "pocl": Condition(_opencl("pocl")),
    "oclgrind": Condition(_oclgrind),
    "metal": Condition(_metal(32), MetalOnCpu.caps),
    "metal-16-reverse": Condition(_metal(16, reverse=True), MetalOnCpu.caps),
    "metal-64-reverse": Condition(_metal(64, reverse=True), MetalOnCpu.caps),
    "metal-plain-reverse": Condition(_metal(32, reverse=True)),
    "metal-sanitized": Condition(_metal(32, sanitized=True), MetalOnCpu.caps),
    "metal-plain-sanitized": Condition(_metal(32, sanitized=True)),
}


@functools.cache
def bench_for(name: str) -> Bench:
    """The bench of a condition; skips the test where its device cannot be had."""
    condition = CONDITIONS[name]
    return Bench(condition.make(), replace(PLAIN, caps=frozenset(condition.caps), limits=LIMITS))
