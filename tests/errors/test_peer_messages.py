"""What is said where a peer cannot take part, and the code the process ends with."""

import pytest

from ondevice import cli
from ondevice.errors import PeerError, UsageError
from ondevice.measure.peers.peer import Peer

BENCH = ["bench", "demo", "--peers", "--component", "text_encoder", "--rounds", "3"]


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(Peer, "missing", lambda self, to_run=False: ["ncnn", "pnnx"])


def said(capsys, error, *words):
    assert cli.main([*BENCH, *words]) == error.exit_code
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_peer_that_is_not_installed(capsys, tmp_path, nothing_installed):
    assert said(capsys, PeerError, "--only", "ncnn", "--work", str(tmp_path)) == (
        'error: ncnn: it needs ncnn, pnnx, which is not installed. Fix: run pip install "ondevice[peers,reference]".'
    )


def test_a_work_folder_that_is_a_file(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    text = said(capsys, UsageError, "--only", "ours", "--work", str(tmp_path / "file"))
    assert text.startswith("error: --work: ") and text.endswith(
        "cannot be written: Not a directory. Fix: name a folder that can."
    )


def test_a_folder_of_graphs_has_no_weights_to_give(capsys, tmp_path):
    assert cli.main(["convert", "demo", "--format", "onnx", "--out", str(tmp_path / "graphs"), "--size", "64x64"]) == 0
    text = said(
        capsys,
        UsageError,
        "--checkpoint",
        str(tmp_path / "graphs"),
        "--size",
        "64x64",
        "--work",
        str(tmp_path / "work"),
    )
    assert (
        "other runtimes are given weights, and this is a folder of ONNX graphs. Fix: "
        "name a checkpoint, or --random-weights 0." in text
    )
    assert not (tmp_path / "work").exists()


def test_the_code_is_its_own():
    assert PeerError.exit_code == 15
