from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ondevice.errors import NoDeviceError
from ondevice.run import discovery
from ondevice.run.cache import KernelCache
from ondevice.run.discovery import Found, find_device

HANDLE = SimpleNamespace(
    platform=SimpleNamespace(version="OpenCL 3.0"), available=True, compiler_available=True, endian_little=True
)


def made_up(index: str, name: str, platform: str, kind: str, version: str = "OpenCL 3.0") -> Found:
    return Found(index, name, platform, version, "1", kind, HANDLE)  # type: ignore[arg-type]


POCL = made_up("0:0", "pthread-EPYC", "Portable Computing Language", "cpu", "OpenCL 3.0 PoCL")
INTEL = made_up("1:0", "AMD EPYC", "Intel(R) OpenCL", "cpu")
EMULATOR = made_up(
    "1:1", "Intel(R) FPGA Emulation Device", "Intel(R) FPGA Emulation Platform for OpenCL(TM)", "accelerator"
)
GPU = made_up("2:0", "NVIDIA H200", "NVIDIA CUDA", "gpu", "OpenCL 3.0 CUDA")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """All of the devices above; what a test puts into the dictionary is refused for that reason."""
    refused: dict[str, str] = {}
    found = tuple(sorted((POCL, INTEL, EMULATOR, GPU), key=lambda device: device.rank))
    monkeypatch.setattr(discovery, "discover", lambda: (found, ()))
    monkeypatch.setattr(discovery, "_refusal", lambda device: refused.get(device.index))
    monkeypatch.delenv("ONDEVICE_DEVICE", raising=False)
    return refused


def test_order_is_gpu_then_embedded_cpu_then_other_cpus(machine: dict[str, str]) -> None:
    order = []
    for _ in range(4):
        best = find_device()
        order.append(best)
        machine[best.index] = "seen"
    assert order == [GPU, INTEL, POCL, EMULATOR]


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("0", GPU),
        ("2", POCL),
        ("1:0", INTEL),
        ("1:1", EMULATOR),
        ("gpu", GPU),
        ("cpu", INTEL),
        ("CPU", INTEL),
        ("pocl", POCL),
        ("nvidia", GPU),
        ("portable computing", POCL),
        ("intel", INTEL),
        (" h200 ", GPU),
        ("", GPU),
        (None, GPU),
    ],
)
def test_names_and_numbers(machine: dict[str, str], spec: str | None, expected: Found) -> None:
    assert find_device(spec) == expected


def test_a_name_takes_the_best_usable_device_that_fits(machine: dict[str, str]) -> None:
    machine[INTEL.index] = "it is broken"
    assert find_device("cpu") == POCL


@pytest.mark.parametrize("letter", "9x")
def test_a_long_name_is_that_of_no_device(machine: dict[str, str], letter: str) -> None:
    with pytest.raises(NoDeviceError, match=rf"no device fits '{letter * 100}' \(found: 0 ") as said:
        find_device(letter * 5000)
    assert len(str(said.value)) < 500


def test_the_environment_names_a_device_and_the_flag_wins(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONDEVICE_DEVICE", "pocl")
    assert find_device() == POCL
    assert find_device("gpu") == GPU


def test_identity_changes_with_every_fact_a_binary_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [replace(GPU, **{field: "x"}) for field in ("name", "platform", "version", "driver")]
    assert len({device.identity for device in (GPU, *others)}) == 5
    whole = GPU.identity
    monkeypatch.setenv("CL_CONFIG_CPU_TARGET_ARCH", "core-avx2")  # the same device, for which other code is made
    assert GPU.identity != whole


def test_cpus_of_one_name_with_other_instructions_do_not_share_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home on several machines, or a virtual machine that moved:
    what was compiled for AVX-512 ends a lesser CPU's process."""
    (tmp_path / "kept").mkdir()
    cache, identities = KernelCache(tmp_path / "kept"), []
    for number, flags in enumerate(("fpu avx2 avx512f", "avx512f fpu  avx2", "fpu avx2", "")):
        core = f"processor : 0\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\nbugs : x{number}\n\n"
        (tmp_path / str(number)).write_text(core * 2)
        monkeypatch.setattr("ondevice.base.machine.CPUINFO", tmp_path / str(number))
        identities.append(INTEL.identity)
    assert identities[0] == identities[1] and len(set(identities)) == 3
    cache.save(cache.key("source", *identities[0]), b"vaddps zmm0")
    assert cache.load(cache.key("source", *identities[1])) and cache.load(cache.key("source", *identities[2])) is None
    monkeypatch.setattr("ondevice.base.machine.CPUINFO", tmp_path / "none")  # another system
    assert INTEL.identity[-1] and GPU.identity[-1] == ""


class Broken(Exception):
    pass


def fake_opencl(build_error: str | None) -> SimpleNamespace:
    builds = []

    class Program:
        def __init__(self, *_: object) -> None:
            pass

        def build(self, options: list[str]) -> Program:
            builds.append(options)
            if build_error:
                raise Broken(build_error)
            return self

    return SimpleNamespace(Error=Broken, Context=list, Program=Program, Kernel=lambda *_: None, builds=builds)


def test_a_driver_that_cannot_build_is_refused_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path))
    log = "clBuildProgram failed: BUILD_PROGRAM_FAILURE\n\nBuild on <device>:\n\nerror: unknown target CPU 'generic'\n"
    monkeypatch.setattr(discovery, "opencl", lambda: fake_opencl(log))
    assert discovery._refusal.__wrapped__(POCL) == "it cannot build a kernel: error: unknown target CPU 'generic'"


def test_a_device_that_once_built_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path))
    cl = fake_opencl(None)
    monkeypatch.setattr(discovery, "opencl", lambda: cl)
    for _ in range(2):
        assert discovery._refusal.__wrapped__(POCL) is None
    assert len(cl.builds) == 1


def test_fpga_emulators_and_devices_without_compiler_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "opencl", lambda: fake_opencl(None))
    assert discovery._refusal.__wrapped__(EMULATOR) == "an FPGA emulator"
    for field, reason in (
        ("compiler_available", "no compiler"),
        ("available", "not available"),
        ("endian_little", "big-endian"),
    ):
        handle = SimpleNamespace(**(vars(HANDLE) | {field: False}))
        assert reason in str(discovery._refusal.__wrapped__(replace(POCL, handle=handle)))


def test_all_platforms_are_listed_best_first_and_failing_ones_remarked(monkeypatch: pytest.MonkeyPatch) -> None:
    def platform(name: str, *kinds: int) -> SimpleNamespace:
        here = SimpleNamespace(name=name)
        devices = [
            SimpleNamespace(name=" d ", platform=here, version="OpenCL 3.0", driver_version="1", type=kind)
            for kind in kinds
        ]
        here.get_devices = lambda: devices
        return here

    def fail() -> None:
        raise Broken("clGetDeviceIDs failed: OUT_OF_HOST_MEMORY")

    broken = SimpleNamespace(name="broken", get_devices=fail)
    platforms = [
        platform("Portable Computing Language", 2),
        broken,
        platform("Intel(R) OpenCL", 8, 2),
        platform("empty"),
        platform("CUDA", 4),
    ]
    cl = SimpleNamespace(
        Error=Broken, device_type=SimpleNamespace(CPU=2, GPU=4, ACCELERATOR=8), get_platforms=lambda: platforms
    )
    monkeypatch.setattr(discovery, "opencl", lambda: cl)
    monkeypatch.setattr(discovery, "embedded", lambda: "not installed")
    found, remarks = discovery.discover.__wrapped__()
    assert [(device.index, device.kind, device.name) for device in found] == [
        ("4:0", "gpu", "d"),
        ("2:1", "cpu", "d"),
        ("0:0", "cpu", "d"),
        ("2:0", "accelerator", "d"),
    ]
    assert remarks == (
        "embedded CPU runtime: not installed",
        "broken: clGetDeviceIDs failed: OUT_OF_HOST_MEMORY",
        "empty: it has no devices",
    )


@pytest.mark.device
def test_the_verb_lists_devices_and_the_default() -> None:
    done = subprocess.run([sys.executable, "-m", "ondevice.devices", "--json"], capture_output=True, text=True)
    if done.returncode == NoDeviceError.exit_code:
        pytest.skip(done.stderr)
    listed = json.loads(done.stdout)
    assert listed["default"] in [device["index"] for device in listed["devices"] if device["refused"] is None]
    assert all(device["max_alloc_bytes"] > 0 and device["max_work_group"] > 0 for device in listed["devices"])
