"""What a user reads when there is no device, or none that fits.
Build, launch and memory errors are in tests/run/test_replay.py."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ondevice.errors import DeviceError, NoDeviceError
from ondevice.run import discovery, icd
from ondevice.run.discovery import Found, find_device
from ondevice.run.opencl import OpenCLDevice, choose_device

INSTALL = (
    'Fix: run pip install "ondevice[cpu]" (a CPU runtime, no root needed), or install your GPU vendor\'s OpenCL driver '
    "or apt-get install pocl-opencl-icd."
)


def no_device(spec: str | None) -> str:
    with pytest.raises(NoDeviceError) as caught:
        find_device(spec)
    return str(caught.value)


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Found:
    """A machine with one device, whose driver is broken."""
    found = Found("0:0", "llvmpipe", "rusticl", "OpenCL 3.0", "22", "cpu", None)
    monkeypatch.setattr(discovery, "discover", lambda: ((found,), ("embedded CPU runtime: not installed",)))
    monkeypatch.setattr(discovery, "_refusal", lambda device: "it cannot build a kernel: no LLVM")
    monkeypatch.delenv("ONDEVICE_DEVICE", raising=False)
    return found


def test_no_usable_device_says_what_there_is_and_what_to_install(one: Found) -> None:
    assert no_device(None) == (
        "no usable OpenCL device (0 llvmpipe [rusticl]: it cannot build a kernel: no LLVM; "
        "embedded CPU runtime: not installed). " + INSTALL
    )


def test_a_device_that_is_not_there(one: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in ("nvidia", "7", "0:5", "gpu", "²"):
        assert no_device(spec) == (
            f"--device: no device fits {spec!r} (found: 0 llvmpipe [rusticl]: it cannot build a kernel: no LLVM; "
            "embedded CPU runtime: not installed). Fix: name one that `ondevice devices` lists."
        )
    monkeypatch.setenv("ONDEVICE_DEVICE", "nvidia")
    assert no_device(None).startswith("ONDEVICE_DEVICE: no device fits 'nvidia' (")


def test_a_device_that_cannot_be_used(one: Found) -> None:
    expected = (
        "--device: llvmpipe [rusticl] cannot be used: it cannot build a kernel: no LLVM. Fix: "
        "name one that `ondevice devices` lists."
    )
    assert no_device("llvm") == no_device("0") == no_device("0:0") == expected


def test_a_variable_that_hides_or_breaks_a_device_is_the_fix(one: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONDEVICE_DEVICE", "nvidia")
    assert no_device(None).endswith("Fix: unset ONDEVICE_DEVICE, or name one that `ondevice devices` lists.")
    monkeypatch.delenv("ONDEVICE_DEVICE")
    intel = replace(one, platform="Intel(R) OpenCL")
    monkeypatch.setattr(discovery, "discover", lambda: ((intel,), ()))
    monkeypatch.setenv("CL_CONFIG_CPU_TARGET_ARCH", "nonsense")
    for spec in (None, "0"):
        assert no_device(spec).endswith(
            "Fix: unset CL_CONFIG_CPU_TARGET_ARCH (it is 'nonsense'), or set it to instructions that this CPU has."
        )
    monkeypatch.setenv("OCL_ICD_VENDORS", "/my/vendors")
    for spec in (None, "gpu", "0"):
        assert no_device(spec).endswith("Fix: unset OCL_ICD_VENDORS.")


def test_a_driver_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gpu.icd").write_text("libgone.so.1\n")
    (tmp_path / "empty.icd").write_text("\n")
    monkeypatch.setenv("OCL_ICD_VENDORS", f"{tmp_path}/")
    (said,) = icd.broken()
    assert said.startswith(
        f"{tmp_path}/gpu.icd names libgone.so.1, which cannot be loaded (libgone.so.1: cannot open shared object"
    )
    monkeypatch.delenv("OCL_ICD_VENDORS")
    (tmp_path / "libimf.so").write_text("not a library")
    monkeypatch.setattr(
        icd, "embedded_libraries", lambda: dict.fromkeys((icd.DRIVER, "libimf.so"), tmp_path / "libimf.so")
    )
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert icd.remedy() == "run pip install --force-reinstall intel-opencl-rt intel-cmplr-lib-rt tbb"
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/other")
    assert str(icd.remedy()).startswith("unset LD_LIBRARY_PATH, or run pip install ")


def test_no_driver_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "discover", lambda: ((), ()))
    assert no_device(None) == "no usable OpenCL device (no driver is installed). " + INSTALL
    assert no_device("gpu") == "--device: no device fits 'gpu' (found: no driver is installed). " + INSTALL


def test_pyopencl_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    monkeypatch.setattr(discovery, "embedded", lambda: None)
    with pytest.raises(NoDeviceError) as caught:
        discovery.opencl.__wrapped__()
    assert str(caught.value) == (
        "OpenCL: pyopencl cannot be imported: import of pyopencl halted; None in sys.modules. Fix: "
        "pip install --force-reinstall pyopencl."
    )


def test_the_command_line_without_a_driver(tmp_path: Path) -> None:
    environment = os.environ | {"OCL_ICD_VENDORS": f"{tmp_path}/", "ONDEVICE_CACHE": str(tmp_path)}
    environment.pop("ONDEVICE_DEVICE", None)
    done = subprocess.run([sys.executable, "-m", "ondevice.devices"], env=environment, capture_output=True, text=True)
    assert done.returncode == NoDeviceError.exit_code
    assert done.stdout == ""
    *remarks, last = done.stderr.splitlines()
    assert remarks[0] == f"not used: embedded CPU runtime: OCL_ICD_VENDORS={tmp_path}/ is set, and only that is used"
    assert last.startswith("error: no usable OpenCL device (")
    # the runtime is installed: nothing that is installed changes anything
    assert last.endswith("Fix: unset OCL_ICD_VENDORS.")
    assert "Traceback" not in done.stderr


@pytest.fixture
def opened() -> OpenCLDevice:
    try:
        return choose_device()
    except NoDeviceError as error:
        pytest.skip(str(error))


@pytest.mark.device
def test_more_memory_than_the_device_gives_at_once(opened: OpenCLDevice) -> None:
    with pytest.raises(DeviceError) as caught:
        opened.alloc(10**15, "unet batch=2 height=64 width=64: arena")
    limit = opened.facts()["max_alloc_bytes"] / 1e6
    assert str(caught.value) == (
        "unet batch=2 height=64 width=64: arena: it needs 1,000,000,000.0 MB at once, "
        f"and {opened.name} gives at most {limit:,.1f} MB. "
        "Fix: use a smaller --size, or another --device."
    )


@pytest.mark.device
def test_a_plan_that_does_not_fit_its_kernel(opened: OpenCLDevice) -> None:
    program = opened.build("__kernel void one(__global float* x, int n) { x[0] = n; }", "one", "one.cl")
    with pytest.raises(DeviceError) as caught:
        opened.bind(program, [opened.alloc(64, "x")], (1, 2), "unet: /conv_in (Conv)")
    assert str(caught.value).startswith(
        "unet: /conv_in (Conv): its arguments (1 buffers, 2 numbers) do not fit the kernel ("
    )
    assert str(caught.value).endswith("Fix: convert the checkpoint again.")


@pytest.mark.device
def test_part_of_a_buffer_that_is_not_there(opened: OpenCLDevice) -> None:
    with pytest.raises(
        DeviceError, match=r"^bytes 0 to 8192 of a buffer: .* failed: clCreateSubBuffer failed: INVALID_VALUE\. Fix: "
    ):
        opened.sub(opened.alloc(4096, "arena"), 0, 8192)
