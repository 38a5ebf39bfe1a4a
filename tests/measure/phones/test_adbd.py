"""Bundles on a phone over the real protocol: Debian's adbd, in a root and a network of its own (benchmarks/adbd.py)."""

import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
from measure.phones.test_adb import DUMPSYS, GETPROP, program
from player.conftest import player_build  # noqa: F401 - a fixture
from player.opencl_environment import environment

from ondevice import cli
from ondevice.bundle import format as bundle_format
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.measure.phones.folder import PhoneFolder
from ondevice.run.discovery import find_device

ROOT = os.environ.get("ONDEVICE_ADBD", "")
SERIAL = "127.0.0.1:5555"
pytestmark = [pytest.mark.adb, pytest.mark.device]
pytestmark += [pytest.mark.skipif(not ROOT, reason="not run: `make adb-check` starts the adbd that they need")]
LARGE = 120 << 20  # bytes of a player that takes a while to push


class Adbd:
    """The phone."""

    def __init__(self, folder):
        self.storage = Path(ROOT) / "data" / "local" / "tmp"
        self._log, self._running = folder / "adbd.log", None
        tools = Path(ROOT) / "usr" / "local" / "bin"
        program(tools / "getprop", GETPROP.replace("arm64-v8a,armeabi-v7a", "x86_64"))
        program(tools / "dumpsys", DUMPSYS)

    def start(self):
        environ = environment(ONDEVICE_DEVICE="", PATH="/usr/local/bin:/usr/bin:/bin")
        with self._log.open("ab") as log:
            command = [shutil.which("chroot"), ROOT, "/usr/sbin/adbd"]
            self._running = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        for _ in range(100):
            done = subprocess.run(["adb", "connect", SERIAL], capture_output=True, text=True, check=False)
            state = subprocess.run(["adb", "-s", SERIAL, "get-state"], capture_output=True, text=True, check=False)
            if "connected to" in done.stdout and state.stdout.strip() == "device":
                return
            time.sleep(0.1)
        raise AssertionError(self._log.read_text())

    def stop(self):
        self._running.kill()
        self._running.wait()

    def left(self):
        return sorted(str(path.relative_to(self.storage)) for path in self.storage.rglob("*"))

    def stop_when(self, seen):
        """Stop as soon as `seen` says so."""

        def watch():
            while not seen():
                time.sleep(0.001)
            self.stop()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        return thread


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))  # adb keeps its key there
        subprocess.run(["adb", "start-server"], check=True, capture_output=True)
        yield
        subprocess.run(["adb", "kill-server"], check=True, capture_output=True)


@pytest.fixture
def phone(server, tmp_path):
    phone = Adbd(tmp_path)
    phone.start()
    yield phone
    phone.stop()
    for path in phone.storage.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adbd") / "demo.ondevice"
    return compile_bundle(open_checkpoint(None, family="demo"), folder, Recipe("f16"))


@pytest.fixture
def player(player_build):  # noqa: F811
    return player_build / "od_player"


@pytest.fixture
def large(player, tmp_path):
    """The same program, with a tail that takes a while to push."""
    path = tmp_path / "od_player_large"
    with path.open("wb") as file:
        file.write(player.read_bytes())
        file.truncate(LARGE)
    return path


def measured(bundle, player, *words):
    how = ["--device", f"adb:{SERIAL}", "--player", str(player), "--repeat", "3", "--steps", "1"]
    return cli.main(["bench", str(bundle), *how, *words])


def test_a_bundle_is_measured(phone, demo, player, capsys):
    assert measured(demo, player, "--json", "--keep") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["machine"]["device"]["name"] == find_device("cpu").name and row["model"] == "demo"
    assert row["runs"] == 3 and row["gflop_per_s"] > 0 and row["phone"]["phone"]["model"] == "Xiaomi 13 Pro"
    assert row["phone"]["phone_before"]["battery_percent"] == 85 and row["phone"]["plan_bytes"] > 0
    assert row["predicted"]["device_bytes"] > 0
    before = {path: (phone.storage / path).stat().st_mtime_ns for path in phone.left() if "/bundle/" in path}
    assert measured(demo, player) == 0  # the second time nothing is pushed, and then all of it is removed
    printed = capsys.readouterr()
    assert before and "pushed" not in printed.err and "Xiaomi 13 Pro" in printed.out and not phone.left()


def test_launches_are_compared(phone, demo, player, capsys):
    words = ["--device", f"adb:{SERIAL}", "--player", str(player), "--component", "text_encoder"]
    assert cli.main(["doctor", str(demo), *words]) == 0
    assert f"{find_device('cpu').name}: 8 of 8 distinct launches" in capsys.readouterr().out and not phone.left()


def test_a_connection_that_is_lost_midway(phone, demo, large, capsys):
    """What was pushed is not used before it is whole, and finished the next time."""
    arrives = phone.storage / f"ondevice.{demo.name}" / "incoming" / large.name

    def seen():
        return arrives.exists() and arrives.stat().st_size > 1 << 20

    thread = phone.stop_when(seen)
    assert measured(demo, large) == 12
    thread.join()
    assert f"adb:{SERIAL}: the connection to the phone was lost" in capsys.readouterr().err
    assert arrives.stat().st_size < LARGE and not (arrives.parents[1] / "od_player").exists()
    phone.start()
    assert measured(demo, large) == 0
    assert "median" in capsys.readouterr().out and not phone.left()


def test_a_phone_that_gets_full_midway(phone, demo, large, capsys, monkeypatch):
    filler = phone.storage / "filler"
    with filler.open("wb") as file:
        for _ in range(240):
            file.write(bytes(1 << 20))
    assert measured(demo, large) == 12  # it is seen before anything is pushed
    assert "MB free, and " in capsys.readouterr().err and phone.left() == ["filler"]
    monkeypatch.setattr(PhoneFolder, "_check_room", lambda _self, _needed: None)
    assert measured(demo, large) == 12
    assert "no space is left on the phone. Fix: free space on the phone." in capsys.readouterr().err
    assert phone.left() == ["filler"]


def test_a_player_of_another_machine(phone, demo, player, capsys, tmp_path):
    other = tmp_path / "od_player"
    data = bytearray(player.read_bytes())
    data[18:20] = (183).to_bytes(2, "little")  # aarch64
    other.write_bytes(data)
    assert measured(demo, other) == 12
    assert "it is a program for arm64-v8a, and Xiaomi 13 Pro runs x86_64." in capsys.readouterr().err
    assert not phone.left()


def test_a_bundle_that_is_newer_than_the_player(phone, demo, player, capsys, monkeypatch, tmp_path):
    newer = tmp_path / "newer.ondevice"
    shutil.copytree(demo, newer)
    text = (newer / "bundle.json").read_text()
    version = f"{bundle_format.MAJOR}.{bundle_format.MINOR}"
    (newer / "bundle.json").write_text(text.replace(f'"version":"{version}"', '"version":"3.0"'))
    monkeypatch.setattr(bundle_format, "MAJOR", 3)
    assert measured(newer, player) == 9
    said = capsys.readouterr().err
    assert "bundle.json: has format 3.0 (expected 2.x). Fix: install a newer ondevice" in said and not phone.left()
