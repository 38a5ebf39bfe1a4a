"""Several devices by name, and a CPU that is cut into parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ondevice.errors import NoDeviceError, UsageError
from ondevice.run import discovery, several
from ondevice.run.discovery import Found
from ondevice.run.several import find_devices, names_several

CL = SimpleNamespace(device_partition_property=SimpleNamespace(EQUALLY="equally"), Error=RuntimeError)


class Handle:
    """A device with so many cores, cut into parts of `each`; `refuses` says why it cannot be."""

    def __init__(self, units: int, refuses: str = "") -> None:
        self.max_compute_units, self.refuses = units, refuses

    def create_sub_devices(self, properties: list[Any]) -> list[Handle]:
        if self.refuses:
            raise CL.Error(self.refuses)
        assert properties[0] == "equally"
        return [Handle(properties[1]) for _ in range(self.max_compute_units // properties[1])]


def made_up(index: str, name: str, kind: str, units: int = 2, refuses: str = "") -> Found:
    return Found(
        index, name, "Intel(R) OpenCL" if kind == "cpu" else name, "OpenCL 3.0", "1", kind, Handle(units, refuses)
    )


CPU, OTHER, GPU = made_up("0:0", "EPYC", "cpu", 5), made_up("1:0", "Cell", "accelerator"), made_up("2:0", "H200", "gpu")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "discover", lambda: ((GPU, CPU, OTHER), ()))
    monkeypatch.setattr(discovery, "_refusal", lambda device: None)
    monkeypatch.setattr(several, "opencl", lambda: CL)
    monkeypatch.setattr(several, "_CUT", [])
    monkeypatch.setattr(several, "_KEPT", [])
    monkeypatch.delenv("ONDEVICE_DEVICE", raising=False)


def titles(spec: str | None) -> list[str]:
    return [found.title for found in find_devices(spec)]


@pytest.mark.parametrize(
    "spec, expected",
    [
        (None, ["H200"]),
        ("cpu", ["EPYC"]),
        ("0,1", ["H200", "EPYC"]),
        ("gpu, cpu ,cell", ["H200", "EPYC", "Cell"]),
        ("cpu/2", ["EPYC, part 1 of 2", "EPYC, part 2 of 2"]),
        ("0:0/5", [f"EPYC, part {number} of 5" for number in range(1, 6)]),
        ("gpu,cpu/2", ["H200", "EPYC, part 1 of 2", "EPYC, part 2 of 2"]),
    ],
)
def test_names_with_commas_and_parts(spec: str | None, expected: list[str]) -> None:
    assert titles(spec) == expected


def test_parts_have_as_many_cores_each_and_names_of_their_own() -> None:
    find_devices("gpu,cpu")
    assert several.kept("a runner") == "a runner" and not several._KEPT and not several.was_cut()
    first, second = find_devices("cpu/2")
    assert several.kept("a runner") == "a runner" and several._KEPT == ["a runner"] and several.was_cut()
    assert first.handle.max_compute_units == second.handle.max_compute_units == 2  # of 5: the last is in none
    assert (first.index, second.index) == ("0:0/1", "0:0/2") and first != second
    assert first.name == CPU.name  # kernels that are compiled for one run on the other


def test_the_environment_names_several_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONDEVICE_DEVICE", "cpu/2")
    assert titles(None) == ["EPYC, part 1 of 2", "EPYC, part 2 of 2"] and names_several(None)
    assert titles("gpu") == ["H200"] and not names_several("gpu")


@pytest.mark.parametrize(
    "spec, kind, said",
    [
        ("cpu/8", NoDeviceError, "--device: cpu/8: EPYC has 5 cores here, too few for 8 parts. Fix: use /5."),
        ("cell/3", NoDeviceError, "--device: cell/3: Cell has 2 cores here, too few for 3 parts. Fix: use /2."),
        ("cpu/1", UsageError, "--device: cpu/1: 1 parts are none (expected 2 or more). Fix: use cpu/2."),
        ("cpu,cpu", UsageError, "--device: EPYC is named twice. Fix: name it once, as 0:0/2 to cut it in two."),
        ("gpu,0", UsageError, "--device: H200 is named twice. Fix: name each once."),
        (",".join(["cpu/5"] * 4), UsageError, "--device: names 20 devices (expected at most 16). Fix: name fewer."),
    ],
)
def test_what_cannot_be_had_is_said(spec: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind) as caught:
        find_devices(spec)
    assert str(caught.value) == said


def test_a_device_of_one_core_and_one_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    one, closed = made_up("0:0", "One", "cpu", 1), made_up("0:1", "Closed", "gpu", 8, "clCreateSubDevices failed: NO")
    monkeypatch.setattr(discovery, "discover", lambda: ((one, closed), ()))
    with pytest.raises(NoDeviceError, match="One has 1 core here, too few for 2 parts"):
        find_devices("one/2")
    with pytest.raises(NoDeviceError, match="closed/2: Closed cannot be cut into parts: clCreateSub"):
        find_devices("closed/2")
    with pytest.raises(NoDeviceError, match="no device fits 'two'"):
        find_devices("one,two/2")
