"""What a phone's player says of launches, as a report and as a list of programs to avoid."""

import json

import pytest
from measure.phones.test_adb import Phones

from ondevice import cli
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.target.avoid import read_avoided

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return compile_bundle(open_checkpoint(None, family="demo"), tmp_path_factory.mktemp("d") / "demo", Recipe("f16"))


@pytest.fixture
def phones(tmp_path, monkeypatch):
    return Phones(tmp_path, monkeypatch)


def examined(phones, demo, *words):
    player = ["--player", str(phones.player), "--component", "text_encoder"]
    return cli.main(["doctor", str(demo), "--device", "adb", *player, *words])


def test_a_phone_that_is_right(phones, demo, capsys):
    assert examined(phones, demo) == 0
    assert "Adreno (TM) 740: 8 of 8 distinct launches" in capsys.readouterr().out
    assert phones.pushed()[-1] == "golden.json" and not phones.left()


def test_a_phone_that_is_wrong(phones, demo, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_PLAYER", "wrong")
    assert examined(phones, demo, "--json", "--out", str(tmp_path / "avoid.json")) == 13
    printed = capsys.readouterr()
    first, second = (row for row in json.loads(printed.out)["findings"] if row["verdict"] != "right")
    assert (first["verdict"], second["verdict"]) == ("wrong", "refused")
    where = f"{first['node']} ({first['op']}, {first['kernel']}.cl)"
    assert f"{where}: 2 of 8 launches are not as they should be; the first: x: elements 0 to 1" in printed.err
    avoided = read_avoided(tmp_path / "avoid.json")
    assert avoided.device == "Adreno (TM) 740"
    assert {one.kernel for one in avoided.programs.values()} == {first["kernel"], second["kernel"]}
    assert {(one.why) for one in avoided.programs.values()} == {"x: elements 0 to 1 sum to 0", "the driver refused it"}
    assert open_bundle(demo).model["family"] == "demo" and not phones.left()


def test_a_player_that_has_no_doctor(phones, demo, capsys, monkeypatch):
    monkeypatch.setenv("FAKE_PLAYER", "silent")
    assert examined(phones, demo) == 12
    assert "od_player printed no result. Fix: build od_player of this version" in capsys.readouterr().err
    assert not phones.left()
