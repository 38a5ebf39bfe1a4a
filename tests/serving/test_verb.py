"""`ondevice serve` as a process: where it listens, what it refuses, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from serving.serving_helpers import Client

from ondevice import cli
from ondevice.serving.server import address_of, is_loopback, listen, names_of


def test_a_port_that_is_taken(bundle, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["serve", str(bundle), "--port", str(port), "--gallery", str(tmp_path / "gallery")]
        assert cli.main(words) == 2
    assert capsys.readouterr().err == (
        f"error: --port {port}: another program listens on port {port} of 127.0.0.1. "
        "Fix: end it, or name another port with --port (0: any).\n"
    )
    assert not (tmp_path / "gallery").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--port", "65536"], "error: --port: no such port (got 65536, expected 0 to 65535). Fix: use 7860.\n"),
        (["--lora-dir", "none"], "error: --lora-dir: none: no folder of adapters (No such file or directory). Fix: "),
        (["--host", "192.0.2.1"], "error: --host: 192.0.2.1 cannot be listened on ("),
        (["--host", "no such host"], "error: --host: no such host cannot be listened on ("),
    ],
)
def test_what_cannot_be_served(words, said, bundle, tmp_path, capsys):
    assert cli.main(["serve", str(bundle), "--port", "0", "--gallery", str(tmp_path), *words]) == 2
    assert capsys.readouterr().err.startswith(said)


def test_without_its_extra_it_says_so(bundle, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert cli.main(["serve", str(bundle)]) == 2
    assert capsys.readouterr().err == (
        "error: serve: the packages that serve are missing (fastapi). Fix: pip install 'ondevice[serve]'.\n"
    )


def test_addresses():
    with listen("127.0.0.1", 0) as sock:
        assert address_of(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}/"
    assert is_loopback("127.0.0.9") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("192.168.1.1") and not is_loopback("box.lan")
    assert names_of("127.0.0.1") == [] and names_of("box.lan") == ["box.lan"]
    assert names_of("0.0.0.0") == [socket.gethostname()]


@pytest.mark.device
def test_a_signal_ends_it_with_a_word_for_what_is_not_drawn(bundle, tmp_path):
    words = [sys.executable, "-m", "ondevice.serve", bundle, "--port", "0", "--device", "cpu", "--gallery", tmp_path]
    run = subprocess.Popen([*map(str, words), "--host", "0.0.0.0"], stdout=-1, stderr=-1, text=True)
    address = run.stdout.readline().strip()
    ask = Client(int(address.rstrip("/").rpartition(":")[2]))
    for _ in range(2):
        assert ask("POST", "/api/jobs", {"prompt": "a red circle", "num_inference_steps": 500, "count": 9})[0] == 202
    while not any(row["step"] for row in ask("GET", "/api/jobs")[1]["jobs"]):
        time.sleep(0.02)
    began = time.monotonic()
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 143 and time.monotonic() - began < 10 and "Traceback" not in said
    assert "2 pictures were not drawn: the server ends\n" in said
    assert "whoever reaches this machine can draw with it and see all pictures; there is no password" in said
    assert os.listdir(tmp_path) == []
