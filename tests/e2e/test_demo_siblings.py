"""The demo's siblings as a user converts them, their pictures judged as benchmarks/shapes judges them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from benchmarks.shapes.pack import pack, packed
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


@pytest.mark.parametrize("name", ["demo-lcm", "demo-inpaint", "demo-sd3", "demo-video"])
def test_they_are_packed_by_what_packs_them(name, tmp_path):
    """From its own weights a model comes out as it is, to the last byte."""
    shutil.copytree(MODELS / name, tmp_path / name)
    written = pack(MODELS / name, tmp_path / name)
    assert len(written) == {"demo-sd3": 3, "demo-video": 2}.get(name, 1)
    for path in written:
        assert path.read_bytes() == (MODELS / path.relative_to(tmp_path)).read_bytes()


def test_weights_are_rounded_to_nearest():
    weights = {"time_embedding.linear_1.weight": np.float32([[0.3, -1.1]]), "conv_in.bias": np.float32([0.3])}
    narrow, wide = packed(weights, "UNetSpatioTemporalConditionModel"), packed(weights, "UNet2DConditionModel")
    assert narrow.endswith(np.float16([0.3]).tobytes() + np.array([0.3125, -1.125], ml_dtypes.float8_e4m3fn).tobytes())
    assert wide.endswith(np.float16([0.3, 0.3, -1.1]).tobytes())
