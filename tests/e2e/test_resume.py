"""`generate --checkpoint-every` and `--resume` as a user types them; networks are formulas (made_up_device.py),
one run is on a device. That every sampler goes on from every call is tested in diffusion/test_loop_state.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import made_up_device
import pytest
from PIL import Image

from ondevice import cli
from ondevice.diffusion.loop_state import MAGIC
from ondevice.errors import UsageError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that are killed are forked")
Draw = Callable[..., int]


@pytest.fixture(scope="module")
def bundle(demo_bundle: Path) -> Path:
    return demo_bundle


@pytest.fixture
def draw(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    made_up_device.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), (9, 90, 200)).save("begin.png")

    def run(out: str, *words: object, until: int | None = None, code: int = 0) -> int:
        """Passes of the UNet; `until`: in a child, which SIGKILL ends in front of that pass."""
        networks, first = made_up_device.Networks, made_up_device.Networks.passes
        command = [str(word) for word in ("generate", bundle, "a cat", *words, "--out", out)]
        if until is None:
            assert cli.main(command) == code
        elif child := os.fork():
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        else:
            networks.on_pass = staticmethod(
                lambda: os.kill(os.getpid(), signal.SIGKILL) if networks.passes - first == until else None
            )
            try:
                os._exit(cli.main(command))
            finally:  # whatever was raised: a child must not go on with the tests
                os._exit(70)
        return networks.passes - first

    return run


ASKED = {
    "solver": ["--steps", 7, "--sampler", "dpmpp_2m"],
    "noise": ["--steps", 7, "--sampler", "euler_a", "--seed-mode", "cuda"],
    "image": ["--steps", 9, "--init-image", "begin.png", "--mask", "begin.png", "--strength", 0.8],
    "refiner": ["--steps", 9, "--sampler", "euler_a", "--refiner-start", 0.5, "--refiner"],
    "series": ["--steps", 4, "--sampler", "heun", "--count", 3],
}


@pytest.mark.parametrize("name", ASKED)
def test_a_killed_run_goes_on_to_the_same_files(name: str, draw: Draw, bundle: Path) -> None:
    words = [*ASKED[name], *([bundle] if name == "refiner" else [])]
    Path("whole").mkdir()
    whole = draw("whole/a.png", *words)
    expected = {path.name: path.read_bytes() for path in Path("whole").iterdir()}
    for until in sorted({1, 3, whole // 2, whole - 1}):
        folder = Path(f"out-{until}")
        folder.mkdir()
        kept = [*words, "--checkpoint-every", 2]
        draw(f"{folder}/a.png", *kept, until=until)
        assert draw(f"{folder}/a.png", *kept, "--resume") <= whole - until + 3
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected


def test_states_lie_beside_the_picture_and_go(draw: Draw, bundle: Path) -> None:
    draw("a.png", "--steps", 6, "--checkpoint-every", 3, until=4)
    assert sorted(path.name for path in Path().iterdir()) == ["a.png.resume", "begin.png"]
    assert draw("a.png", "--steps", 6) == 6  # without --resume it begins anew
    assert draw("a.png", "--steps", 6, "--resume") == 3  # and with it, it goes on
    assert sorted(path.name for path in Path().iterdir()) == ["a.png", "begin.png"]
    assert draw("a.png", "--steps", 6, "--resume") == 6  # where there is no state it begins at the beginning


def test_another_request_is_refused(draw: Draw, capsys: pytest.CaptureFixture[str]) -> None:
    draw("a.png", "--steps", 6, "--checkpoint-every", 3, until=4)
    before = Path("a.png.resume").read_bytes()
    for words in (["--steps", 7], ["--steps", 6, "--seed", 1], ["--steps", 6, "--init-image", "begin.png"]):
        assert draw("a.png", *words, "--resume", code=UsageError.exit_code) == 0
        said = capsys.readouterr().err
        assert "a.png.resume: nothing can be gone on from (it is of a run with another request)." in said
        assert said.endswith("Fix: leave --resume out to begin anew.\n")
    assert Path("a.png.resume").read_bytes() == before and not Path("a.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--checkpoint-every", "0", "--out", "a.png"],
            "--checkpoint-every: there are no such passes (got 0, expected",
        ),
        (
            ["--checkpoint-every", "2"],
            "--checkpoint-every: the state lies beside the picture, whose name is not known.",
        ),
        (
            ["--resume"],
            "--resume: the state lies beside the picture, whose name is not known. Fix: name it with --out.",
        ),
        (["--checkpoint-every", "2", "--out", "a" * 240 + ".png"], "its name is too long (got 259 bytes"),
    ],
)
def test_wrong_use_is_refused(
    words: list[str], said: str, draw: Draw, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["generate", str(bundle), "a cat", *words]) == 2
    assert said in capsys.readouterr().err


def test_nothing_is_kept_of_a_run_that_computes_otherwise_by_now(
    draw: Draw, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With --on-nan fp32 a session goes on in float32; a new one would begin without, and must meet the same values."""
    networks, first = made_up_device.Networks, made_up_device.Networks.passes
    monkeypatch.setattr(networks, "has_mended", property(lambda _: networks.passes - first > 3))
    draw("a.png", "--steps", 9, "--checkpoint-every", 2, until=7)
    data = Path("a.png.resume").read_bytes()
    start = len(MAGIC) + 4
    header = json.loads(data[start : start + int.from_bytes(data[start - 4 : start], "little")])
    assert header["call"] == 2  # and not 4 or 6
    (tmp_path / "lines.jsonl").write_text('{"prompt": "a", "steps": 2}\n{"prompt": "b", "steps": 2}\n')
    made: list[object] = []
    monkeypatch.setattr(networks, "__init__", lambda self, *_, **__: made.append(self))
    monkeypatch.setattr(networks, "has_mended", True)
    command = ["batch", "lines.jsonl", "--bundle", str(bundle), "--out", "out"]
    assert cli.main(command) == 0 and len(made) == 2  # a session for each


@pytest.mark.device
def test_the_demo_model_goes_on(bundle: Path, tmp_path: Path) -> None:
    """On a device: the picture of a run that was killed once it had kept a state is that of one that was not."""
    words = ["generate", str(bundle), "a red circle", "--steps", "12", "--sampler", "dpmpp_sde", "--seed", "2"]
    assert cli.main([*words, "--out", str(tmp_path / "a.png")]) == 0
    command = [sys.executable, "-m", "ondevice", *words, "--checkpoint-every", "2", "--out", str(tmp_path / "b.png")]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (tmp_path / "b.png.resume").exists():
        assert child.poll() is None, "it ended before it kept anything"
        time.sleep(0.002)
    child.kill()
    child.wait()
    assert not (tmp_path / "b.png").exists()
    assert cli.main([*words, "--resume", "--out", str(tmp_path / "b.png")]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
