from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ondevice.base.paths import cache_dir
from ondevice.base.publish import PARTIAL, hidden
from ondevice.run import cache as caches
from ondevice.run.cache import STALE, KernelCache
from ondevice.run.opencl import OpenCLDevice

SOURCE = "__kernel void twice(__global float* x) { x[get_global_id(0)] *= 2.0f; }"
CHILD = """
import json, sys
from ondevice.run.opencl import choose_device
device = choose_device(sys.argv[1])
device.build(sys.argv[2], "twice", "twice.cl")
print(json.dumps([device.cache.hits, device.cache.misses]))
"""


@pytest.fixture(autouse=True)
def fresh() -> None:
    """A process that has said nothing yet."""
    caches._not_kept.cache_clear()


def test_what_is_saved_is_loaded_and_counted(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "new" / "folder")
    assert cache.load("a") is None
    cache.save("a", b"binary")
    assert cache.load("a") == b"binary"
    assert (cache.hits, cache.misses) == (1, 1)
    cache.drop("a")
    assert cache.load("a") is None
    assert [path.name for path in cache.folder.iterdir()] == []


def test_key_depends_on_every_part_and_on_where_they_part() -> None:
    keys = [KernelCache.key(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("ab", "d"))]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("damage", [b"", b"ondevice kernel 1\n", None], ids=["empty", "cut", "flipped bit"])
def test_damage_is_a_miss_that_is_logged_and_removed(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    cache = KernelCache(tmp_path)
    cache.save("a", b"binary")
    path = tmp_path / "a.bin"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert cache.load("a") is None
    assert caplog.messages == ["cached kernel a.bin is damaged; it is built again"]
    assert not path.exists()


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, limit=3 * (1000 + 50))  # three files, with what stands before a binary
    for age, name in enumerate("abc"):
        cache.save(name, bytes(1000))
        os.utime(tmp_path / f"{name}.bin", (1000 + age, 1000 + age))
    assert cache.load("a") is not None  # now the most recent
    cache.save("d", bytes(1000))
    assert sorted(path.stem for path in tmp_path.glob("*.bin")) == ["a", "c", "d"]


def test_all_that_is_there_is_looked_at_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a process's first save, and once it has saved a thirty-second of the limit, by whichever cache."""
    looks: list[Path] = []
    monkeypatch.setattr(KernelCache, "_trim", lambda _, folder: looks.append(folder))
    found = []
    for number in range(25):
        KernelCache(tmp_path, limit=320_000).save(f"{number}", bytes(1000))
        found.append(len(looks))
    assert found == [1] * 11 + [2] * 11 + [3] * 3


def test_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    old, new = tmp_path / f".old.bin{PARTIAL}1", tmp_path / f".new.bin{PARTIAL}2"
    for path, age in ((old, STALE + 60), (new, 0.0)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age, time.time() - age))
    KernelCache(tmp_path).save("a", b"binary")
    assert not old.exists()
    assert new.exists()


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = KernelCache(tmp_path / "file" / "kernels")
    with caplog.at_level(logging.WARNING):
        for name in "ab":
            assert cache.load(name) is None
            cache.save(name, b"binary")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"compiled kernels are not kept: {tmp_path}/file/kernels cannot be written (")


def environment(tmp_path: Path, name: str) -> dict[str, str]:
    """Environments in which there is no folder to keep kernels in."""
    (tmp_path / "file").write_text("")
    return {
        "no home": {"HOME": "~nobody"},
        "a home that is a file": {"HOME": str(tmp_path / "file")},
        "a cache that is a file": {"ONDEVICE_CACHE": str(tmp_path / "file")},
        "a name that is too long": {"ONDEVICE_CACHE": str(tmp_path / ("a" * 300))},
        "a relative XDG_CACHE_HOME": {"XDG_CACHE_HOME": "cache", "HOME": str(tmp_path / "file")},
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "no home",
        "a home that is a file",
        "a cache that is a file",
        "a name that is too long",
        "a relative XDG_CACHE_HOME",
    ],
)
def test_without_a_place_kernels_are_not_kept_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    for variable in ("ONDEVICE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    for variable, value in environment(tmp_path, name).items():
        monkeypatch.setenv(variable, value)
    for _ in range(2):  # one for the probe, one for the device
        cache = KernelCache()
        cache.save("a", b"binary")
        assert cache.load("a") is None
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("compiled kernels are not kept: ")
    assert caplog.messages[0].endswith("; set ONDEVICE_CACHE to a folder that can be") and os.listdir(tmp_path) == [
        "file"
    ]


def test_a_relative_cache_is_where_the_process_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    monkeypatch.setenv("ONDEVICE_CACHE", "kernels here")
    assert cache_dir() == tmp_path / "gone" / "kernels here"
    (tmp_path / "gone").rmdir()
    assert cache_dir() is None
    monkeypatch.setenv("ONDEVICE_CACHE", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("ONDEVICE_CACHE")
    for given, base in (
        ("cache", tmp_path / ".cache"),
        ("", tmp_path / ".cache"),
        (str(tmp_path / "xdg"), tmp_path / "xdg"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert cache_dir() == base / "ondevice"


def test_a_folder_that_cannot_be_listed_takes_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = KernelCache(tmp_path)
    monkeypatch.setattr(Path, "iterdir", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    cache.save("a", b"binary")
    assert cache.load("a") == b"binary" and not caplog.messages


def test_what_a_killed_run_left_of_any_kernel_goes_at_once(tmp_path: Path) -> None:
    claim, file = hidden.claim_file(tmp_path / "other.bin")
    file.close()
    KernelCache(tmp_path).save("a", b"binary")
    assert claim.path.exists()  # its run lives
    os.close(claim._lock or 0)
    hidden.Claim.living.pop(claim.path)
    caches._unseen.clear()  # as in a process that has saved nothing yet
    KernelCache(tmp_path).save("b", b"binary")
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "b.bin"]


def test_several_writers_of_one_key_leave_one_whole_file(tmp_path: Path) -> None:
    def work(letter: str) -> None:
        for _ in range(30):
            KernelCache(tmp_path).save("a", letter.encode() * 50_000)
            assert KernelCache(tmp_path).load("a") in (b"x" * 50_000, b"y" * 50_000)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "xy"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.device
def test_a_second_process_takes_the_kernel_of_the_first(device: OpenCLDevice, tmp_path: Path) -> None:
    def counts(source: str) -> list[int]:
        command = [sys.executable, "-c", CHILD, device._found.index, source]
        environment = os.environ | {"ONDEVICE_CACHE": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    assert counts(SOURCE) == [0, 1]
    assert counts(SOURCE) == [1, 0]
    assert counts(SOURCE.replace("2.0f", "3.0f")) == [0, 1]


@pytest.mark.device
def test_a_binary_that_the_driver_refuses_is_built_again(
    device: OpenCLDevice, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device.cache = KernelCache(tmp_path)
    device.build(SOURCE, "twice", "twice.cl")
    (key,) = (path.stem for path in tmp_path.glob("*.bin"))
    good = device.cache.load(key)
    device.cache.save(key, b"whole, but no kernel")
    with caplog.at_level(logging.WARNING):
        device.build(SOURCE, "twice", "twice.cl")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("twice.cl: the driver refused a cached kernel (")
    assert device.cache.load(key) is not None
    assert len(device.cache.load(key) or b"") == len(good or b"")


@pytest.mark.device
@pytest.mark.parametrize("fact", ["name", "platform", "version", "driver"])
def test_a_binary_is_for_one_device_and_driver(device: OpenCLDevice, tmp_path: Path, fact: str) -> None:
    device.cache = KernelCache(tmp_path)
    device.build(SOURCE, "twice", "twice.cl")
    device._found = replace(device._found, **{fact: "another"})
    device.build(SOURCE, "twice", "twice.cl")
    assert (device.cache.hits, device.cache.misses) == (0, 2)
