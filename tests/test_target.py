"""Targets: every file names real kernels and listed values; a plan for another target draws the same picture on the host."""

import numpy as np
import pytest
from PIL import Image

from ondevice import cli, target
from ondevice.errors import PlanError, UsageError
from ondevice.lower.kernel_file import load_all


@pytest.mark.parametrize("name", target.target_names())
def test_tunables_are_listed_in_the_kernels_headers(name):
    kernels = load_all()
    for kernel, chosen in target.load_target(name).tune.items():
        assert kernels[kernel].tuning(**chosen).items() >= chosen.items()


def test_a_gpu_gets_groups_of_its_own_for_every_kernel():
    assert target.load_target("gpu").tune.keys() == load_all().keys()


def test_unknown_and_damaged_targets(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"--target: target 'toaster' is unknown \(expected one of gpu, host\)"):
        target.load_target("toaster")
    (tmp_path / "a.toml").write_text("why = ")
    (tmp_path / "b.toml").write_text('why = "x"\nspeed = 3\n[tune]\n')
    monkeypatch.setattr(target, "TARGETS", tmp_path)
    with pytest.raises(PlanError, match=r"a\.toml: it is not TOML"):
        target.load_target("a")
    with pytest.raises(PlanError, match=r"b\.toml: it needs `why` and tables"):
        target.load_target("b")


@pytest.mark.device
def test_a_plan_for_a_gpu_draws_the_same_picture_on_the_host(tmp_path):
    def draw(name):
        bundle, out = str(tmp_path / f"{name}.ondevice"), str(tmp_path / f"{name}.png")
        assert cli.main(["convert", "demo", "--target", name, "--dtype", "fp32", "--size", "64x72", "--out", bundle]) == 0
        assert cli.main(["generate", bundle, "a red circle", "--steps", "3", "--out", out]) == 0
        return np.asarray(Image.open(out), np.int64)

    assert np.abs(draw("gpu") - draw("host")).max() <= 1
