"""`ondevice tune --cpu-time`: for a CPU that others use, whose clock says more of them than of a kernel."""

import re

from measure.tuner.test_tune import DEMO, FACTS, Clockwork

from ondevice import cli
from ondevice import tune as verb
from ondevice.target.tuning import read_tuning


def test_processor_time_in_place_of_the_devices_clock(tmp_path, monkeypatch, capsys):
    """Of a launch that the device says takes as long with any V, and the process a third longer with V = 16."""
    spent, launch = [0.0], Clockwork.launch
    device = Clockwork(limits=dict(FACTS), cost=lambda entry, defines: 0.001)

    def counted(self, bound, grid, group):
        seconds = launch(self, bound, grid, group)
        spent[0] += seconds * (4 if bound[1]["V"] == 16 else 3)
        return seconds

    monkeypatch.setattr(verb, "choose_device", lambda spec: device)
    monkeypatch.setattr(Clockwork, "launch", counted)
    monkeypatch.setattr(verb.time, "process_time", lambda: spent[0])
    words, out = [*DEMO, "--dtype", "fp16", "--out", str(tmp_path / "t.toml")], tmp_path / "t.toml"
    assert cli.main([*words, "--cpu-time"]) == 0
    tuned = read_tuning(out)
    assert (
        tuned.kernels["layer_norm_rows"].default["V"] != 16
        and tuned.measured["clock"] == "processor time of the process"
    )
    out.unlink()
    assert cli.main(words) == 0
    tuned = read_tuning(out)
    assert tuned.kernels["layer_norm_rows"].default["V"] == 16 and "clock" not in tuned.measured
    device.limits["kind"] = "gpu"
    capsys.readouterr()
    assert cli.main([*words, "--cpu-time"]) == 2
    assert re.search("--cpu-time: .* is no CPU. Fix: leave it out", capsys.readouterr().err)
