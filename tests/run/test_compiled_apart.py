"""Programs that another process compiles into the cache, so that nothing of the compiler stays in this one."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from null_device import NullDevice
from run.small_plans import FakeBundle, three_steps

from ondevice.errors import KernelBuildError
from ondevice.run import compiled_apart, opencl
from ondevice.run.cache import KernelCache
from ondevice.run.discovery import OPTIONS, find_device
from ondevice.run.opencl import OpenCLDevice
from ondevice.run.session import Session

SOURCE = "__kernel void twice(__global float* x) { x[get_global_id(0)] *= 2.0f; }"
BROKEN = "__kernel void none(__global float* x) { x[0] = missing; }"


@pytest.mark.device
def test_they_are_there_afterwards_and_what_is_broken_is_said_here(tmp_path: Path, monkeypatch) -> None:
    device = OpenCLDevice(find_device(), KernelCache(tmp_path))
    device.prepare([(SOURCE, "twice"), (BROKEN, "none")], apart=True)
    device.build(SOURCE, "twice", "twice.cl")
    assert (device.cache.hits, device.cache.misses) == (1, 0)
    with pytest.raises(KernelBuildError, match="missing"):
        device.build(BROKEN, "none", "none.cl")
    started = _counted(monkeypatch)
    device.prepare([(SOURCE, "twice")], apart=True)
    assert not started, "what is there is not compiled again"
    OpenCLDevice(find_device(), KernelCache(Path("/dev/null/no folder"))).prepare([(SOURCE, "twice")], apart=True)
    assert not started, "nor what could not be kept"


@pytest.mark.device
@pytest.mark.parametrize(
    ("cores", "gigabytes", "programs", "apart", "processes"),
    [
        (1, None, 60, False, 0),
        (2, 16, 11, False, 0),
        (2, 16, 12, False, 2),
        (16, None, 18, False, 3),
        (16, 16, 60, False, 4),
        (16, 1.6, 60, False, 3),
        (16, 0.9, 60, False, 0),
        (16, 0.1, 60, True, 1),
    ],
)
def test_many_are_compiled_on_several_cores(
    tmp_path: Path, monkeypatch, cores, gigabytes, programs, apart, processes
) -> None:
    given = [(f"{SOURCE}  // {number}", "twice") for number in range(programs)]
    memory = gigabytes and int(gigabytes * (1 << 30))
    monkeypatch.setattr(opencl, "COMPILERS", 4)  # which tests' conftest.py sets to 1
    monkeypatch.setattr(opencl, "available_memory", lambda: memory)
    started = _counted(monkeypatch)
    monkeypatch.setattr(opencl, "available_cores", lambda: list(range(cores)))
    OpenCLDevice(find_device(), KernelCache(tmp_path)).prepare(given, apart)
    assert len(started) == processes
    parts = [json.loads(words)["programs"] for words in started]
    assert sorted(tuple(one) for part in parts for one in part) == (sorted(given) if processes else [])
    assert not parts or max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.device
def test_two_processes_fill_one_cache(tmp_path: Path) -> None:
    given = [(SOURCE.replace("2.0f", f"{number}.0f"), "twice") for number in range(4)]
    device = OpenCLDevice(find_device(), KernelCache(tmp_path))
    compiled_apart.compile_apart(device.found.index, device.cache, OPTIONS, given, 2)
    device.prepare(given, apart=True)  # which has nothing left to do, as its keys are theirs
    for source, entry in given:
        device.build(source, entry, "twice.cl")
    assert (device.cache.hits, device.cache.misses) == (4, 0)


def test_a_process_that_cannot_be_had_costs_nothing(tmp_path: Path, monkeypatch) -> None:
    def gone(*_: object, **__: object) -> object:
        raise OSError("no memory")

    monkeypatch.setattr(compiled_apart.subprocess, "Popen", gone)
    compiled_apart.compile_apart("0:0", KernelCache(tmp_path), (), [(SOURCE, "twice")])
    monkeypatch.undo()
    monkeypatch.setattr(compiled_apart.sys, "executable", "/bin/false")
    compiled_apart.compile_apart("0:0", KernelCache(tmp_path), (), [(SOURCE, "twice")])
    assert not list(tmp_path.iterdir())


def test_an_app_is_not_started_again_by_its_own_name(tmp_path: Path, monkeypatch) -> None:
    started = _counted(monkeypatch)
    monkeypatch.setattr(compiled_apart.sys, "frozen", True, raising=False)
    compiled_apart.compile_apart("0:0", KernelCache(tmp_path), (), [(SOURCE, "twice")])
    assert not started


def test_what_ends_the_wait_ends_the_processes(tmp_path: Path, monkeypatch) -> None:
    class Interrupted(subprocess.Popen):
        def wait(self, timeout: float | None = None) -> int:
            if not alive:
                alive.append(self)
                raise KeyboardInterrupt
            return super().wait(timeout)

    alive: list[Interrupted] = []
    script = tmp_path / "slow"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(compiled_apart.sys, "executable", str(script))
    monkeypatch.setattr(compiled_apart.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        compiled_apart.compile_apart("0:0", KernelCache(tmp_path), (), [(SOURCE, "twice")] * 2, 2)
    assert alive[0].returncode == -signal.SIGKILL


def test_a_session_has_them_compiled_apart_where_weights_are_streamed() -> None:
    logs = []
    for through in (None, 0):
        device = NullDevice()
        session = Session(FakeBundle(three_steps(8)), device)
        session.stream_weights(through)
        session._bind(three_steps(8), ("net", 8))
        logs.append([line for line in device.log if line.startswith(("prepare", "build"))])
    (here, *built), (apart, *again) = logs
    assert apart == here.replace("prepare", "prepare apart") and here.startswith("prepare ")
    assert built == again and len(built) == 2 and all(line.startswith("build") for line in built)


def _counted(monkeypatch) -> list[bytes]:
    """What processes are asked that would be started."""
    asked: list[bytes] = []

    class Counted(subprocess.Popen):
        def __init__(self, _: object, stdin: Any, **rest: Any) -> None:
            asked.append(stdin.read())
            super().__init__(["true"], stdin=subprocess.DEVNULL, **rest)

    monkeypatch.setattr(compiled_apart.subprocess, "Popen", Counted)
    return asked
