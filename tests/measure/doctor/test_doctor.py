"""A device that computes a kernel wrongly is found out, and plans are made around that kernel."""

import json

import numpy as np
import pytest
from measure.doctor.wrong_device import WrongDevice

from ondevice import cli, doctor
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.measure.doctor.content import POSITIVE, SIGNED, content
from ondevice.measure.doctor.examine import expected
from ondevice.measure.doctor.launches import launches
from ondevice.measure.doctor.runner import LaunchRunner
from ondevice.plan.plan import Dispatch, Kernel, Operand, Plan
from ondevice.run.opencl import choose_device
from ondevice.target import load_target
from ondevice.target.avoid import read_avoided

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor") / "demo.ondevice"
    recipe = Recipe("f16", target=load_target("adreno_740"))
    return compile_bundle(open_checkpoint(None, family="demo"), folder, recipe)


def asked(made, monkeypatch, *words, **wrong):
    """Exit code of the verb on a device that is wrong so."""
    device = choose_device()
    monkeypatch.setattr(doctor, "choose_device", lambda _spec: WrongDevice(device, **wrong))
    return cli.main(["doctor", str(made), "--component", "text_encoder", *words])


def test_a_device_that_is_right(made, monkeypatch, capsys, tmp_path):
    assert asked(made, monkeypatch, "--out", str(tmp_path / "avoid.json")) == 0
    assert "8 of 8 distinct launches (17 dispatches) are as on " in capsys.readouterr().out
    assert not read_avoided(tmp_path / "avoid.json").programs


@pytest.mark.parametrize("instead, words", [(bytes(8), "values of"), (b"\xff" * 8, "NaN")], ids=["zeros", "NaN"])
def test_the_first_wrong_launch_is_named(made, monkeypatch, capsys, instead, words):
    assert asked(made, monkeypatch, wrong="layer_norm_local", instead=instead) == 13
    printed = capsys.readouterr()
    assert "wrong: text_encoder batch=1, dispatch " in printed.out and "layer_norm_local.cl): " in printed.out
    assert words in printed.err and "(LayerNormalization, layer_norm_local.cl)" in printed.err
    assert "Fix: name a file with --out, and `convert --avoid` it." in printed.err


def test_a_wrong_kernel_is_avoided(made, monkeypatch, capsys, tmp_path):
    """From what was found to a bundle that is right on the device as it is."""
    found = tmp_path / "avoid.json"
    assert asked(made, monkeypatch, "--json", "--out", str(found), wrong="layer_norm_local") == 13
    rows = json.loads(capsys.readouterr().out)["findings"]
    assert {row["kernel"] for row in rows if row["verdict"] == "wrong"} == {"layer_norm_local"}
    assert all("wrong" in row and row["why"] for row in rows if row["verdict"] == "wrong")
    around = tmp_path / "around.ondevice"
    words = ["demo", "--target", "adreno_740", "--avoid", str(found), "--out", str(around)]
    assert cli.main(["convert", *words]) == 0
    used = {kernel.file for kernel in open_bundle(around).plan("text_encoder", batch=1).kernels}
    assert "layer_norm" in used and "layer_norm_local" not in used
    assert asked(around, monkeypatch, wrong="layer_norm_local") == 0
    assert cli.main(["convert", *words[:-1], str(tmp_path / "strict"), "--strict"]) == 14
    assert "avoids layer_norm_local: it is wrong on " in capsys.readouterr().err


def test_what_a_driver_refuses(made, monkeypatch, capsys, tmp_path):
    found = tmp_path / "avoid.json"
    assert asked(made, monkeypatch, "--out", str(found), refused="gather") == 12
    assert {one.kernel for one in read_avoided(found).programs.values()} == {"gather"}
    assert "internal compiler error" in capsys.readouterr().err


def test_a_device_is_no_reference_for_itself(made, capsys):
    assert cli.main(["doctor", str(made), "--device", "0", "--reference", "0"]) == 2
    assert "the device that is looked at. Fix: name another one, or leave it out." in capsys.readouterr().err


def test_every_launch_stands_once(made):
    """Launches of the same program at the same shapes are one; all dispatches are counted."""
    bundle = open_bundle(made)
    plans = [(entry.file, bundle.plan(entry.component, **entry.sizes)) for entry in bundle.plans]
    found = launches(plans)
    assert sum(launch.alike for launch in found) == sum(len(plan.dispatches) for _, plan in plans)
    assert {launch.kernel for launch in found} == {kernel for _, plan in plans for kernel in plan.kernels}
    twice = launches([*plans, *plans])
    assert len(twice) == len(found) and [launch.alike for launch in twice] == [2 * launch.alike for launch in found]


def test_scratch_is_not_compared():
    """What nothing reads afterwards may hold anything, such as the last of several groups' sums."""
    names = ("x", "y", "scratch", "z")
    operands = tuple(Operand(name, "f32", (4,), 16, 512 * place) for place, name in enumerate(names))
    common = {"scalars": (), "grid": (1, 1, 1), "group": (1, 1, 1), "node": "n", "op": "Add"}
    common |= {"flops": 0, "reads": 0, "writes": 0}
    calls = [Dispatch(0, (0, 1, 2), 2, **common), Dispatch(1, (1, 3), 1, **common)]
    kernels = (Kernel("a", ()), Kernel("b", ()))
    plan = Plan("unet", {}, "f32", 2048, operands, (0,), (3,), kernels, tuple(calls))
    assert [launch.compared for launch in launches([("file", plan)])] == [(1,), (1,)]


class Roots:
    """A runner whose launches are square roots of what they are given."""

    def run(self, launch, fill):
        with np.errstate(invalid="ignore"):
            return [np.sqrt(content((64,), "f32", 0, fill))]


def test_numbers_that_have_no_meaning_are_made_up_otherwise(made):
    """A standard deviation is a square root: of numbers above 0 only."""
    bundle = open_bundle(made)
    (launch, *_) = launches([("text", bundle.plan("text_encoder", batch=1))])
    fill, (roots,) = expected(Roots(), launch)
    assert fill == POSITIVE and np.isfinite(roots).all()
    assert expected(LaunchRunner(bundle, choose_device()), launch)[0] == SIGNED
