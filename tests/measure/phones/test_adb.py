"""Bundles on phones over adb, with a stand-in for `adb` and for the player: what is pushed, what is printed, what is
left behind, and what is said where something fails."""

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from measure.phones.fake_player import ROW

from benchmarks.rows import read_rows
from ondevice import cli
from ondevice.bundle.reader import open_bundle
from ondevice.measure.phones.adb import Answer
from ondevice.measure.phones.facts import phone_of
from ondevice.measure.phones.program import VARIABLES

HERE = Path(__file__).parent
PICTURE = HERE.parents[1] / "golden" / "bundle" / "picture.ondevice"
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + (183).to_bytes(2, "little")
GETPROP = """#!/bin/sh
echo '[ro.product.manufacturer]: [Xiaomi]'
echo '[ro.product.model]: [13 Pro]'
echo '[ro.soc.manufacturer]: [QTI]'
echo '[ro.soc.model]: [SM8550]'
echo '[ro.build.version.release]: [14]'
echo '[ro.product.cpu.abilist]: [arm64-v8a,armeabi-v7a]'
"""
DUMPSYS = """#!/bin/sh
if [ "$1" = battery ]; then
  echo 'Current Battery Service state:'; echo '  AC powered: false'; echo '  USB powered: true'
  echo '  level: 85'; echo '  temperature: 312'
else
  echo 'IsStatusOverride: false'; echo 'Thermal Status: 1'; echo 'Cached temperatures:'
  echo ' Temperature{mValue=99.0, mType=3, mName=xo_therm, mStatus=0}'
  echo 'Current temperatures from HAL:'
  echo ' Temperature{mValue=38.5, mType=3, mName=xo_therm, mStatus=0}'
  echo ' Temperature{mValue=55.0, mType=1, mName=GPU0, mStatus=0}'
  echo ' Temperature{mValue=57.5, mType=1, mName=GPU1, mStatus=0}'
fi
"""


def program(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


class Phones:
    """Phones for `adb`, and what they have."""

    def __init__(self, folder, monkeypatch):
        self.folder, self._phones = folder, {}
        programs = folder / "programs"
        programs.mkdir()
        for name in ("adb", "player"):
            program(programs / name, f'#!/bin/sh\nexec {sys.executable} {HERE / f"fake_{name}.py"} "$@"\n')
        program(programs / "getprop", GETPROP)
        program(programs / "dumpsys", DUMPSYS)
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_ADB", str(folder / "phones.json"))
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        self.programs, self.player = programs, folder / "od_player"
        self.player.write_bytes(ELF + bytes(100))
        self.set("A")

    def set(self, serial, **facts):
        root = self.folder / serial
        root.mkdir(exist_ok=True)
        self._phones[serial] = {"root": str(root), "player": str(self.programs / "player")} | facts
        (self.folder / "phones.json").write_text(json.dumps({"phones": self._phones}))

    def none(self):
        (self.folder / "phones.json").write_text('{"phones": {}}')

    def pushed(self, serial="A"):
        """Names of the files pushed since the last call."""
        log = self.folder / f"{serial}.log"
        words = log.read_text().split()
        log.write_text("")
        return words

    def left(self, serial="A"):
        root = self.folder / serial
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.name != "lost")

    def bench(self, *words, bundle=PICTURE):
        return cli.main(["bench", str(bundle), "--player", str(self.player), "--repeat", "3", *words])


@pytest.fixture
def phones(tmp_path, monkeypatch):
    return Phones(tmp_path, monkeypatch)


FILES = len(open_bundle(PICTURE).manifest.files) + 2  # with the manifest and the player


def test_a_bundle_is_measured(phones, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    assert phones.bench("--device", "adb", "--rows", str(rows)) == 0
    printed = capsys.readouterr()
    assert "Xiaomi 13 Pro (QTI SM8550, Android 14): Adreno (TM) 740, driver OpenCL 3.0 QUALCOMM" in printed.out
    assert "picture, 4x8, 2 steps, 3 pictures: first 3.50 s, median 2.00 s, sustained 2.10 s" in printed.out
    assert "before: thermal light, skin 38.5 °C, gpu 57.5 °C, battery 85 %, charging, battery 31.2 °C" in printed.out
    assert "Conv  conv2d        20  1,500.0  100.0%      2.0   0.0" in printed.out
    assert "adb:A: pushed 0.0 of 0.0 MB" in printed.err
    (row,) = read_rows(rows)  # as `benchmarks.compare` takes them
    assert row["machine"]["cpu"] == "QTI SM8550" and row["machine"]["device"]["name"] == "Adreno (TM) 740"
    assert (row["median_ms"], row["runs"], row["kind"]) == (2000.0, 3, "device")
    assert row["phone"]["phone"]["model"] == "Xiaomi 13 Pro" and row["predicted"]["device_bytes"] > 0
    assert len(phones.pushed()) == FILES and not phones.left()


@pytest.mark.parametrize(
    "said, cores, memory",
    [
        ("aarch64\n8\nMemTotal:   1000 kB\nMemFree: 10 kB\n", 8, 1024000),
        ("aarch64\nMemTotal:   1000 kB\n", 0, 1024000),  # no nproc
        ("aarch64\n8\nMemTotal:\n", 8, 0),
        ("", 0, 0),
    ],
)
def test_a_phone_need_not_say_all(said, cores, memory):
    answers = {"getprop": "[ro.product.model]: [13 Pro]\n"}
    phone = phone_of(SimpleNamespace(shell=lambda command: Answer(0, answers.get(command, said), "")))
    assert (phone.model, phone.cores, phone.memory_bytes) == ("13 Pro", cores, memory)


def test_only_what_changed_is_pushed(phones, tmp_path):
    assert phones.bench("--device", "adb:A", "--keep") == 0
    assert len(phones.pushed()) == FILES
    assert phones.bench("--device", "adb:A", "--keep") == 0
    assert phones.pushed() == []
    cut = phones.folder / "A" / f"ondevice.{PICTURE.name}" / "bundle" / "kernels" / "fill.cl"
    cut.write_bytes(cut.read_bytes()[:-1])  # whatever the phone's list says
    assert phones.bench("--device", "adb:A", "--keep") == 0
    assert phones.pushed() == ["fill.cl"]
    other = tmp_path / "other" / PICTURE.name
    shutil.copytree(PICTURE, other)
    name = "samplers/tiny_2.json"
    text = (other / name).read_text().replace("\n", " \n", 1)
    (other / name).write_text(text)
    manifest = json.loads((other / "bundle.json").read_text())
    manifest["files"][name] = {"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    (other / "bundle.json").write_text(json.dumps(manifest))
    assert phones.bench("--device", "adb:A", bundle=other) == 0
    assert sorted(phones.pushed()) == ["bundle.json", "tiny_2.json"] and not phones.left()


@pytest.mark.parametrize("pushes", [0, 1, 4])
def test_a_connection_that_is_lost(phones, pushes, capsys, monkeypatch):
    """What came over is used the next time, and what did not is pushed anew."""
    phones.set("A", pushes=pushes)
    assert phones.bench("--device", "adb") == 12
    assert "adb:A: the connection to the phone was lost (error: device 'A' not found). Fix: " in capsys.readouterr().err
    before = phones.pushed()
    assert len(before) < FILES and phones.left()
    (phones.folder / "A" / "lost").unlink()
    phones.set("A")
    assert phones.bench("--device", "adb") == 0
    assert len(before) + len(phones.pushed()) == FILES and not phones.left()


def test_a_phone_that_is_full(phones, capsys):
    phones.set("A", bytes=3000)
    assert phones.bench("--device", "adb") == 12
    assert "adb:A: no space is left on the phone. Fix: free space on the phone." in capsys.readouterr().err
    assert not phones.left()
    program(phones.programs / "df", "#!/bin/sh\necho head\necho '/dev/fuse 100000 90000 10 99% /storage'\n")
    phones.set("A")
    assert phones.bench("--device", "adb") == 12
    assert "the phone has 0.0 MB free, and 67.1 MB are needed." in capsys.readouterr().err
    assert not phones.left()


def test_a_bundle_that_is_newer_than_the_player(phones, tmp_path, capsys):
    newer = tmp_path / "newer.ondevice"
    shutil.copytree(PICTURE, newer)
    bundle = open_bundle(newer)
    manifest = newer / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"version":"2.2"', '"version":"2.3"'))
    phones.player.write_bytes(ELF + b"x")
    assert open_bundle(newer).manifest.files == bundle.manifest.files
    script = phones.programs / "player"
    program(
        script,
        "#!/bin/sh\n[ $1 = --version ] && exec echo od_player 0.0.1\n"
        "echo 'error: bundle.json: version is \"2.3\" (expected 2.0 to 2.2). Fix: install a newer player.' >&2\n"
        "exit 9\n",
    )
    assert phones.bench("--device", "adb", bundle=newer) == 9
    said = capsys.readouterr().err
    assert 'adb:A: bundle.json: version is "2.3" (expected 2.0 to 2.2). Fix: install a newer player.' in said
    assert phones.pushed() == ["od_player", "bundle.json"] and not phones.left()


@pytest.mark.parametrize(
    "mode, code, words",
    [
        ("killed", 12, "the phone ended od_player: it has no memory left for it. Fix: close other apps"),
        ("silent", 12, "od_player printed no result. Fix: build od_player of this version"),
        ("no device", 10, "OpenCL: no library was found (looked for libOpenCL.so). Fix: use a phone that has one."),
    ],
)
def test_a_player_that_fails(phones, monkeypatch, capsys, mode, code, words):
    monkeypatch.setenv("FAKE_PLAYER", mode)
    assert phones.bench("--device", "adb") == code
    assert f"adb:A: {words}" in capsys.readouterr().err
    assert not phones.left()


@pytest.mark.parametrize("keep", [[], ["--keep"]])
def test_an_interrupt_ends_the_player_on_the_phone(phones, monkeypatch, keep):
    """A phone's shell goes on without its connection."""
    monkeypatch.setenv("FAKE_PLAYER", "hangs")
    words = [str(PICTURE), "--player", str(phones.player), "--device", "adb", *keep]
    command = [sys.executable, "-m", "ondevice.bench", *words]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    file = phones.folder / "A" / f"ondevice.{PICTURE.name}" / "pid"
    while not (file.is_file() and file.read_text().endswith("\n")):
        assert running.poll() is None
        time.sleep(0.05)
    player = int(file.read_text())
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(60) == 130
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(player, 0)
            time.sleep(0.05)
    assert not file.exists() and bool(phones.left()) == bool(keep)


@pytest.mark.parametrize(
    "state, words",
    [
        ("unauthorized", "has not allowed this machine. Fix: unlock it and tap Allow"),
        ("offline", "does not answer (offline). Fix: plug it in again"),
        ("no permissions (missing udev rules?)", "may not be opened by this user. Fix: add the udev rules"),
        ("rescue", "is in the state 'rescue'. Fix: connect one"),
    ],
)
def test_a_phone_that_cannot_be_used(phones, capsys, state, words):
    phones.set("A", state=state)
    assert phones.bench("--device", "adb:A") == 10
    assert f"error: adb:A: the phone {words}" in capsys.readouterr().err


def test_which_phone(phones, capsys, monkeypatch):
    phones.set("B")
    for words, said in [
        (["adb"], "several phones are connected (A, B). Fix: name one with --device adb:SERIAL, or all with adb:all."),
        (["adb:C"], "no phone C is connected (there are A, B). Fix: name one of these."),
        (["adb:A", "--device", "cpu"], "phones and 'cpu' cannot be measured in one run."),
    ]:
        assert phones.bench("--device", *words) == 10
        assert said in capsys.readouterr().err
    phones.none()
    assert phones.bench("--device", "adb:all") == 10
    assert "no phone is connected. Fix: connect one, switch on USB debugging" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/nowhere")
    assert phones.bench("--device", "adb") == 10
    assert "there is no `adb` in PATH. Fix: install Android's platform-tools" in capsys.readouterr().err


def test_which_player(phones, capsys, tmp_path, monkeypatch):
    phones.player.write_bytes(ELF[:18] + (62).to_bytes(2, "little") + bytes(99))
    assert phones.bench("--device", "adb") == 12
    assert "it is a program for x86_64, and Xiaomi 13 Pro runs arm64-v8a, armeabi-v7a." in capsys.readouterr().err
    phones.player.write_text("#!/bin/sh\necho no program of a phone\n")
    assert phones.bench("--device", "adb") == 2
    assert "it is no program for a phone (not ELF, little-endian)." in capsys.readouterr().err
    assert cli.main(["bench", str(PICTURE), "--device", "adb"]) == 2
    assert "there is no player for the phone. Fix: give an od_player that was built" in capsys.readouterr().err
    monkeypatch.setenv("ANDROID_NDK", str(tmp_path))
    assert cli.main(["bench", str(PICTURE), "--device", "adb"]) == 2
    assert f"{tmp_path}: it is no NDK" in capsys.readouterr().err
    assert not phones.left()


def test_several_phones_at_once(phones, capfd, tmp_path):
    """The rows of those that came to their end are there, whatever became of others."""
    rows = tmp_path / "rows.jsonl"
    phones.set("B", bytes=3000)
    phones.set("C", state="offline")
    assert phones.bench("--device", "adb:all", "--rows", str(rows)) == 12
    printed = capfd.readouterr()
    assert "1 of 2 phones failed (adb:B), as said above; the rows of the others are there." in printed.err
    assert "adb:B: no space is left on the phone." in printed.err and printed.out.count("median 2.00 s") == 1
    assert len(read_rows(rows)) == 1 and not phones.left() and not phones.left("B")
    phones.set("B")
    assert phones.bench("--device", "adb:A", "--device", "adb:B", "--json") == 0
    assert [row["median_ms"] for row in json.loads(capfd.readouterr().out)] == [2000.0, 2000.0]


def test_flags_that_mean_nothing(phones, capsys):
    for words, flag in [
        (["--device", "adb", "--trace", "t.json"], "--trace"),
        (["--device", "adb", "--size", "8x8"], "--size"),
        (["--device", "cpu"], "--player"),
        (["--device", "0", "--device", "1"], "--device"),
    ]:
        assert phones.bench(*words) == 2
        assert f"error: {flag}: " in capsys.readouterr().err


APP = ROW | {
    "device": "Apple A16 GPU",
    "phone": {"model": "iPhone15,2", "soc": "A16", "system": "iOS 17.1", "cores": 6},
}


def test_what_an_app_exported(tmp_path, capsys):
    file, rows = tmp_path / "phone.jsonl", tmp_path / "rows.jsonl"
    file.write_text(json.dumps(APP) + "\n" + json.dumps(APP | {"phone_before": {"thermal": "fair"}}) + "\n")
    assert cli.main(["bench", str(file), "--device", "apple", "--rows", str(rows)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("iPhone15,2 (A16, iOS 17.1): Apple A16 GPU") == 2 and "before: thermal fair" in printed
    assert [row["machine"]["device"]["name"] for row in read_rows(rows)] == ["Apple A16 GPU"] * 2
    file.write_text(json.dumps(APP, indent=1))
    assert cli.main(["bench", str(file), "--device", "apple", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["machine"]["cores"] == 6


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "it has 0 lines (expected 1 to 1000)"),
        ("{}", "runs is empty"),
        ("[]", "it is no object"),
        (json.dumps(APP | {"runs": []}), "runs is empty"),
        (json.dumps(APP | {"median_seconds": 0}), "median_seconds is no time in seconds"),
        (json.dumps(APP | {"median_seconds": "2"}), "median_seconds is no time in seconds"),
        (json.dumps(APP | {"peak_bytes": -1}), "peak_bytes is no whole number"),
        (json.dumps(APP | {"ops": [{"op": "a"}]}), "ops[0].kernel is no text"),
        (json.dumps(APP | {"phone": {"model": "a\u001b[2J"}}), "phone.model is no text"),
        (json.dumps(APP)[:-1], "is not valid JSON"),
        (json.dumps(APP).replace("2.0", "NaN", 1), "is not valid JSON"),
    ],
)
def test_what_no_app_exported(tmp_path, capsys, text, words):
    file = tmp_path / "phone.json"
    file.write_text(text)
    assert cli.main(["bench", str(file), "--device", "apple"]) == 2
    said = capsys.readouterr().err
    assert words in said and "Fix: export it again from the app" in said
