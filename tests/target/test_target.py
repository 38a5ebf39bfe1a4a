"""Targets: every file names real kernels and listed values;
a plan for another target draws the same picture on the host."""

from dataclasses import replace

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


@pytest.mark.parametrize(
    "machine, flags, name",
    [
        ("x86_64", "fpu avx2 avx512f", "host"),
        ("AMD64", "fpu avx2", "host-avx2"),
        ("arm64", "", "host-neon"),
        ("aarch64", "asimd", "host-neon"),
    ],
)
def test_auto_goes_by_the_cpu(machine, flags, name, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    given = target._cpu_flags(tmp_path / "cpuinfo")
    assert given == set(flags.split()) and target._cpu_flags(tmp_path / "none") == set()
    monkeypatch.setattr(target, "_cpu_flags", lambda: given)
    monkeypatch.setattr(target.platform, "machine", lambda: machine)
    assert target.load_target("auto").name == target.host_target() == name
    assert target.load_target("host").name == "host", "a name is the same target on any machine"


def test_measured_files_that_are_named_come_before_the_targets_own():
    host = target.load_target("host")
    own = [tuning.name for tuning in host.tuning]
    given, newer = replace(host.tuning[0], name="mine"), replace(host.tuning[0], measured={"device": "newer"})
    assert own and [tuning.name for tuning in target.tuned_by(host, [given]).tuning] == ["mine", *own]
    assert target.tuned_by(host, [newer]).tuning[0] == newer and len(target.tuned_by(host, [newer]).tuning) == len(own)


def test_each_target_says_whether_it_is_for_cpus():
    assert {name for name in target.target_names() if target.is_for_cpus(name)} == {"host", "host-avx2", "host-neon"}
    assert not any(map(target.is_for_cpus, ("of a later version", None, 3, ["host"])))


def test_tiles_of_host_targets_fit_their_registers():
    """MR rows of NV vectors, NV of the weight and one to broadcast."""
    for name, registers in (("host", 32), ("host-avx2", 16), ("host-neon", 32)):
        for kernel in (file for file in load_all().values() if {"MR", "NV"} <= file.header["tune"].keys()):
            values = kernel.tuning(**target.load_target(name).tune.get(kernel.name, {}))
            assert values["MR"] * values["NV"] + values["NV"] + 1 <= registers, (name, kernel.name)


def test_a_gpu_gets_groups_of_its_own_for_every_kernel():
    assert target.load_target("gpu").tune.keys() == load_all().keys() - {
        "winograd_strips",
        "group_norm_sums",
        "group_norm_apply",
    }  # of class "cpu"


def test_unknown_and_damaged_targets(tmp_path, monkeypatch):
    with pytest.raises(
        UsageError, match=r"--target: target 'toaster' is unknown \(expected one of gpu, host, host-avx2, host-neon\)"
    ):
        target.load_target("toaster")
    (tmp_path / "a.toml").write_text("why = ")
    good = 'why = "x"\nclass = "cpu"\ncaps = ["half"]\nscratch = 1\n[winograd]\n[flash]\n[group_norm]\n[tune]\n'
    (tmp_path / "b.toml").write_text(f"speed = 3\n{good}")
    (tmp_path / "c.toml").write_text(good.replace("[flash]", "[flash]\nmax_head = -1"))
    (tmp_path / "d.toml").write_text(good.replace("scratch = 1", "scratch = 0"))
    (tmp_path / "e.toml").write_text(good.replace("[tune]", "[tune]\nmatmul = 3"))
    (tmp_path / "f.toml").write_text(f"tuned = [3]\n{good}")
    (tmp_path / "g.toml").write_text(f'tuned = ["none"]\n{good}')
    (tmp_path / "h.toml").write_text(good.replace('"half"', '"wings"'))
    (tmp_path / "good.toml").write_text(good)
    monkeypatch.setattr(target, "TARGETS", tmp_path)
    with pytest.raises(PlanError, match=r"a\.toml: it is not TOML"):
        target.load_target("a")
    for damaged in "bcdh":
        wanted = (
            r"`why`, `class` \(one of portable, cpu, mobile\), `caps` \(some of half, image2d, matrix_unit, subgroups\)"
        )
        with pytest.raises(PlanError, match=rf"{damaged}\.toml: it needs {wanted}, `scratch` in bytes"):
            target.load_target(damaged)
    with pytest.raises(PlanError, match=r"e\.toml: \[tune\] holds tables"):
        target.load_target("e")
    with pytest.raises(PlanError, match=r"f\.toml: `tuned` lists names of measured files \(got \[3\]\)"):
        target.load_target("f")
    with pytest.raises(UsageError, match=r"tuning 'none': .*none\.toml cannot be read"):
        target.load_target("g")
    assert target.load_target("good").scratch == 1
    assert target.load_target(target.load_target("good")).name == "good"


@pytest.mark.device
def test_a_plan_for_a_gpu_draws_the_same_picture_on_the_host(tmp_path):
    def draw(name):
        bundle, out = str(tmp_path / f"{name}.ondevice"), str(tmp_path / f"{name}.png")
        assert (
            cli.main(["convert", "demo", "--target", name, "--dtype", "fp32", "--size", "64x72", "--out", bundle]) == 0
        )
        assert cli.main(["generate", bundle, "a red circle", "--steps", "3", "--out", out]) == 0
        return np.asarray(Image.open(out), np.int64)

    assert np.abs(draw("gpu") - draw("host")).max() <= 1
