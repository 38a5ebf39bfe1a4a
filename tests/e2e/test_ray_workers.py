"""Lines that are handed to workers, of which some die: with a stand-in for Ray that runs in this process; and with Ray
itself where it is installed (it is 240 MB, so that CI has it not: benchmarks/ray_batch.py kills its workers)."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made_up_device
import pytest

from ondevice import cli
from ondevice.drawing import ray_workers
from ondevice.drawing.batch_file import JOURNAL
from ondevice.errors import BatchError


class Dead(Exception):
    """As Ray says that an actor has died."""


class Reference(list[Any]):
    """A result that is a key of a dictionary."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class InProcess:
    """What is used of the module `ray`. `dies(worker, line)`: whether a worker dies of a line, once."""

    exceptions = SimpleNamespace(RayActorError=Dead)

    def __init__(self, dies: Callable[[int, int], bool]) -> None:
        self.dies, self.made, self.over, self.dead = dies, 0, 0, set[int]()

    def remote(self, **options: Any) -> Callable[[type], Any]:
        assert options == {"num_cpus": 1, "max_restarts": 0}
        return lambda kind: SimpleNamespace(remote=lambda *args: self._actor(kind(*args)))

    def _actor(self, painter: Any) -> Any:
        number = self.made
        self.made += 1

        def draw(work: Any) -> Any:
            assert number not in self.dead
            if self.dies(number, work.line.number):
                self.dead.add(number)
                return Reference([Dead()])
            return Reference([painter.draw(work)])

        return SimpleNamespace(draw=SimpleNamespace(remote=draw))

    def wait(self, busy: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        assert num_returns == 1
        return busy[-1:], busy[:-1]  # the last is done first

    def get(self, done: Any) -> Any:
        if isinstance(done[0], Dead):
            raise done[0]
        return done[0]

    def shutdown(self) -> None:
        self.over += 1


@pytest.fixture(scope="module")
def bundle(demo_bundle: Path) -> Path:
    return demo_bundle


def run(bundle: Path, *words: str, code: int = 0) -> None:
    lines = [{"prompt": "x", "seed": seed, "steps": 2} for seed in range(6)] + [{"prompt": "y", "size": "50x50"}]
    Path("lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.main(["batch", "lines.jsonl", "--bundle", str(bundle), *words]) == code


def test_what_dies_is_made_again_and_nothing_is_lost(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up_device.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    run(bundle, "--out", "plain", code=BatchError.exit_code)
    ray = InProcess(lambda worker, line: line == 4 or worker in (0, 1))
    monkeypatch.setattr(ray_workers, "_started", lambda address: ray)
    capsys.readouterr()
    run(bundle, "--out", "out", "--ray", "--workers", "3", code=BatchError.exit_code)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[-1] == {"drawn": 5, "kept": 0, "failed": 2} and ray.over == 1
    errors = {row["line"]: row["error"] for row in rows[:-1] if row["status"] == "failed"}
    assert errors[4].startswith("what drew it has died 3 times. Fix: draw it by itself, without --ray")
    assert errors[7].startswith("width: not a size the model can draw")  # an error of ours comes as it is
    assert ray.made == 3 + len(ray.dead) and {0, 1} <= ray.dead
    for path in Path("plain").iterdir():
        if path.name not in (JOURNAL, "00004.png"):
            assert (Path("out") / path.name).read_bytes() == path.read_bytes()
    run(bundle, "--out", "out", code=BatchError.exit_code)  # goes on without Ray
    assert (Path("out") / "00004.png").read_bytes() == (Path("plain") / "00004.png").read_bytes()


def test_without_ray_it_is_said_how_to_get_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is installed")
    monkeypatch.chdir(tmp_path)
    made_up_device.install(monkeypatch)
    run(bundle, "--out", "out", "--ray", code=2)
    assert "--ray: Ray is not installed. Fix: pip install 'ondevice[ray]'." in capsys.readouterr().err


@pytest.mark.device
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_itself_draws_the_same_files(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(bundle, "--out", "plain", code=BatchError.exit_code)
    run(bundle, "--out", "out", "--ray", "--workers", "1", code=BatchError.exit_code)
    for path in Path("plain").glob("*.png"):
        assert (Path("out") / path.name).read_bytes() == path.read_bytes()
