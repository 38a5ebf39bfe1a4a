"""Damaged folders: always BundleError or a bundle that still holds together;
never a crash, a hang or a blow-up of memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle.tiny_bundle import replace_file, write_tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ondevice.bundle import open_bundle
from ondevice.bundle.format import Checker
from ondevice.bundle.plan_file import check_memory
from ondevice.errors import BundleError
from ondevice.plan.plan import Dispatch, Operand


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("fuzz") / "master")


def use(path: Path) -> None:
    """What a player does with a bundle."""
    bundle = open_bundle(path)
    for entry in bundle.plans:
        plan = bundle.plan(entry.component, **entry.sizes)
        for kernel in plan.kernels:
            bundle.source(kernel.file, "opencl", kernel.defines)
        for operand in plan.operands:
            if operand.weight is not None:
                shard, offset, size = bundle.weight(operand.weight)
                assert bundle.shard(shard)[offset : offset + size].size == operand.nbytes
    assert bundle.tokenizer_files("tiny") and bundle.scheduler and bundle.sampler("tiny_2") and bundle.component_bytes()


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes(master: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Cut, grow or change any file; signed again half the time, so that its content is parsed."""
    path = tmp_path / "copy"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(master, path)
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    name = data.draw(st.sampled_from(names))
    content = bytearray((path / name).read_bytes())
    match data.draw(st.sampled_from(["cut", "grow", "flip", "cut out"])):
        case "cut":
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        case "grow":
            content += data.draw(st.binary(min_size=1, max_size=8))
        case "flip":
            for _ in range(data.draw(st.integers(1, 4))):
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        case "cut out":
            start = data.draw(st.integers(0, len(content) - 1))
            del content[start : start + data.draw(st.integers(1, 40))]
    if data.draw(st.booleans()) and name != "bundle.json":
        replace_file(path, name, bytes(content))
    else:
        (path / name).write_bytes(content)
    tracemalloc.start()
    try:
        use(path)
    except BundleError as exc:
        str(exc).encode()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 << 20


HOSTILE: dict[str, Callable[[], bytes]] = {
    "many lists": lambda: b"[" + b"[]," * 20_000_000 + b"[]]",
    "many lists in the limit": lambda: b"[" + b"[]," * 900_000 + b"[]]",
    "deep": lambda: b"[" * 60_000_000,
    "deep in the limit": lambda: b"[" * 1_900_000,
    "one long number": lambda: b"[" + b"1" * 60_000_000 + b"]",
    "one long float": lambda: b"[0." + b"1" * 60_000_000 + b"]",
    "one long text": lambda: b'["' + b"x" * 60_000_000 + b'"]',
    "one long key": lambda: b'{"' + b"x" * 60_000_000 + b'":1}',
    "many keys": lambda: b"{" + b",".join(b'"%d":1' % i for i in range(1_000_000)) + b"}",
    "operands": lambda: (
        b'{"component":"tiny","sizes":{"width":8},"dtype":"f16","arena":1536,"inputs":[],"outputs":[0],"kernels":[],'
        b'"operands":[' + b",".join([b"{}"] * 65_537) + b'],"dispatches":[]}'
    ),
}


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize("name", ["plans/tiny_width8.json", "bundle.json"])
def test_hostile_json_costs_little_memory_and_time(tmp_path: Path, name: str) -> None:
    """One process for all texts, with at most 600 MB of address space beyond what Python and NumPy take."""
    path = write_tiny(tmp_path / "t")
    code = """
        import resource, sys, time
        from pathlib import Path
        from bundle.tiny_bundle import replace_file
        from bundle.test_fuzz import HOSTILE
        from ondevice.bundle import open_bundle
        from ondevice.errors import BundleError

        used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
        resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20),) * 2)
        path, name = Path(sys.argv[1]), sys.argv[2]
        for title, make in HOSTILE.items():
            replace_file(path, name, make())
            start = time.process_time()
            try:
                open_bundle(path, verify=True)
            except BundleError as exc:
                assert len(str(exc)) < 1000, title
            else:
                raise SystemExit(f"{title}: was taken")
            assert time.process_time() - start < 20, title
    """
    tests = Path(__file__).resolve().parents[1]
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(tests)!r})\n" + textwrap.dedent(code),
        str(path),
        name,
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def test_a_plan_with_every_operand_alive_is_checked_fast() -> None:
    """The memory check must not compare every pair: a hostile plan would keep a reader busy for minutes."""
    count = 20_000
    operands = tuple(Operand(f"t{i}", "f32", (1,), 4, offset=512 * (count - i)) for i in range(count))
    calls = [Dispatch(0, (i, i + 1), 1, (), (1, 1, 1), (1, 1, 1), "n", "Op", 0, 0, 0) for i in range(count - 1)]
    calls += [Dispatch(0, (i, count - 1), 1, (), (1, 1, 1), (1, 1, 1), "n", "Op", 0, 0, 0) for i in range(count - 1)]
    start = time.process_time()
    check_memory(Checker("p"), operands, (0,), (count - 1,), tuple(calls))
    assert time.process_time() - start < 10
