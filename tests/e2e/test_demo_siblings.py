"""The demo's siblings as a user converts them, their pictures judged as benchmarks/shapes judges them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ondevice import cli
from ondevice.base.paths import MODELS

pytestmark = pytest.mark.device
ROOT = Path(__file__).parents[2]
DRAW = ["-m", "benchmarks.shapes.draw_held_out"]
COUNT = 10


@pytest.mark.parametrize("name, steps, right", [("demo-lcm", 4, 9), ("demo-inpaint", 20, 9), ("demo-sd3", 20, 7)])
def test_what_is_asked_for_is_drawn(name, steps, right, tmp_path):
    bundle = tmp_path / f"{name}.ondevice"
    assert cli.main(["convert", name, "--out", str(bundle)]) == 0
    command = [sys.executable, *DRAW, bundle, "--count", COUNT, "--split", "validation", "--needed", 10 * right]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert (said["steps"], said["of"]) == (steps, COUNT) and said["all"] >= right


@pytest.mark.parametrize("name", ["demo-lcm", "demo-inpaint", "demo-sd3", "demo-video"])
def test_they_are_small(name):
    assert sum(path.stat().st_size for path in (MODELS / name).rglob("*") if path.is_file()) <= 4_000_000
