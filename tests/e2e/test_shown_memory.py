"""What `show` says that a picture takes, beside what Linux says that one took."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ondevice import cli
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.read.checkpoint import open_checkpoint

pytestmark = pytest.mark.device
STATUS = Path("/proc/self/status")
PEAK = Path("/proc/self/clear_refs")  # 5, written here, begins the count of the peak anew
DRAWN = f"""
import sys
from ondevice.api import Pipeline

def status(name):
    with open("{STATUS}") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))

pipe = Pipeline.from_bundle(sys.argv[1], stream_weights=True)
for _ in range(2):  # the first one loads libraries and builds kernels, which stay
    before = status("VmRSS")
    with open("{PEAK}", "w") as file:
        file.write("5")
    pipe("a red circle on a blue background", num_inference_steps=1, seed=1)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not PEAK.exists(), reason="Linux alone begins the count of the peak anew")
@pytest.mark.parametrize("family", ["demo", pytest.param("demo-sd3", marks=pytest.mark.sweep)])
def test_a_picture_takes_what_show_says(family, tmp_path, capsys):
    bundle = compile_bundle(open_checkpoint(None, family=family), tmp_path / "d", Recipe(), sizes=[(256, 256)])
    assert cli.main(["show", str(bundle), "--json"]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    said = max(row["streamed"]["at_most"] for row in memory)
    words = [sys.executable, "-c", DRAWN, str(bundle)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(said, rel=0.1)
    assert 10e6 < said < max(row["whole"]["at_most"] for row in memory) + 1
