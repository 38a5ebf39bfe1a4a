"""Programs that another process compiles into the cache, so that nothing of the compiler stays in this one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from null_device import NullDevice
from run.small_plans import FakeBundle, three_steps

from ondevice.errors import KernelBuildError
from ondevice.run import compiled_apart
from ondevice.run.cache import KernelCache
from ondevice.run.discovery import find_device
from ondevice.run.opencl import OpenCLDevice
from ondevice.run.session import Session

SOURCE = "__kernel void twice(__global float* x) { x[get_global_id(0)] *= 2.0f; }"
BROKEN = "__kernel void none(__global float* x) { x[0] = missing; }"


@pytest.mark.device
def test_they_are_there_afterwards_and_what_is_broken_is_said_here(tmp_path: Path, monkeypatch) -> None:
    device = OpenCLDevice(find_device(), KernelCache(tmp_path))
    device.prepare([(SOURCE, "twice"), (BROKEN, "none")])
    device.build(SOURCE, "twice", "twice.cl")
    assert (device.cache.hits, device.cache.misses) == (1, 0)
    with pytest.raises(KernelBuildError, match="missing"):
        device.build(BROKEN, "none", "none.cl")
    started: list[object] = []
    monkeypatch.setattr(compiled_apart.subprocess, "run", lambda *given, **_: started.append(given))
    device.prepare([(SOURCE, "twice")])
    assert not started, "what is there is not compiled again"
    OpenCLDevice(find_device(), KernelCache(Path("/dev/null/no folder"))).prepare([(SOURCE, "twice")])
    assert not started, "nor what could not be kept"


def test_a_process_that_cannot_be_had_costs_nothing(tmp_path: Path, monkeypatch) -> None:
    def gone(*_: object, **__: object) -> object:
        raise OSError("no memory")

    monkeypatch.setattr(compiled_apart.subprocess, "run", gone)
    compiled_apart.compile_apart("0:0", KernelCache(tmp_path), (), [(SOURCE, "twice")])
    monkeypatch.setattr(compiled_apart.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], -11))
    compiled_apart.compile_apart("0:0", KernelCache(tmp_path), (), [(SOURCE, "twice")])
    assert not list(tmp_path.iterdir())


def test_a_session_has_them_compiled_where_weights_are_streamed() -> None:
    logs = []
    for through in (None, 0):
        device = NullDevice()
        session = Session(FakeBundle(three_steps(8)), device)
        session.stream_weights(through)
        session._bind(three_steps(8), ("net", 8))
        logs.append([line.partition(" ")[0] for line in device.log if line.startswith(("prepare", "build"))])
    assert logs == [["build", "build"], ["prepare", "build", "build"]]
