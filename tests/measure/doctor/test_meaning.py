"""What launches mean in NumPy is what kernels compute, class by class, in every storage of weights."""

import math

import numpy as np
import pytest
from measure.doctor.wrong_device import WrongDevice

from ondevice import cli, doctor
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.measure.doctor.examine import RIGHT, examine
from ondevice.measure.doctor.launches import launches
from ondevice.measure.doctor.meaning import MEANINGS, Given, erf
from ondevice.measure.doctor.numpy_runner import NumpyRunner
from ondevice.measure.doctor.runner import LaunchRunner
from ondevice.run.opencl import choose_device
from ondevice.target import load_target

pytestmark = pytest.mark.device
OF_ALL = {"binary", "cast", "gather"}
WAYS = {  # target, weights and what is computed by its meaning
    "host": ("host", "", {"matmul", "conv2d_nhwc", "layer_norm_rows", "flash_attention", *OF_ALL}),
    "gpu": ("gpu", "", {"matmul", "conv2d_nhwc", "group_norm_nhwc", "layer_norm", *OF_ALL}),
    "phone": ("adreno_740", "i8", {"matmul_tiles", "conv2d_tiles", "group_norm_local", "layer_norm_local", *OF_ALL}),
    "few bits": ("mali_g715", "i4", {"matmul_tiles", "conv2d_tiles", "flash_local", *OF_ALL}),
}


MORE = ("gpu", "phone", "few bits")


@pytest.fixture(scope="module", params=[pytest.param(way, marks=[pytest.mark.sweep] * (way in MORE)) for way in WAYS])
def made(request, tmp_path_factory):
    target, weights, kernels = WAYS[request.param]
    recipe, sizes = Recipe("f16", weights, load_target(target)), [(32, 32)] if target == "host" else []
    folder = tmp_path_factory.mktemp("meaning") / "demo.ondevice"
    return open_bundle(compile_bundle(open_checkpoint(None, family="demo"), folder, recipe, sizes=sizes)), kernels


def test_kernels_compute_what_they_mean(made):
    bundle, kernels = made
    found = launches((entry.file, bundle.plan(entry.component, **entry.sizes)) for entry in bundle.plans)
    runner = LaunchRunner(bundle, choose_device())
    reference = NumpyRunner(bundle, runner)
    findings = list(examine(found, runner, reference))
    assert [str(one.why) for one in findings if one.verdict != RIGHT] == []
    meant = {one.kernel.file for one in found if id(one) in reference.meant}
    assert meant >= kernels, f"{sorted(kernels - meant)} are computed by the device, {sorted(meant)} are not"
    assert len(reference.meant) > len(found) / 2


def test_a_fault_of_both_builds_is_found(made, monkeypatch, capsys):
    """The only device there is, wrong whatever its compiler is told: no other build of its kernels shows that."""
    bundle, _ = made
    names = ("layer_norm", "layer_norm_local", "layer_norm_rows")
    (kernel,) = (name for name in names if name in bundle.manifest.kernels)
    device = WrongDevice(choose_device(), wrong=kernel)
    monkeypatch.setattr(doctor, "choose_device", lambda _spec: device)
    monkeypatch.setattr(doctor, "reference_for", lambda *_: (device, "itself without its compiler's optimizer"))
    assert cli.main(["doctor", str(bundle.path), "--component", "text_encoder", "--reference", "numpy"]) == 13
    printed = capsys.readouterr()
    assert "(LayerNormalization, layer_norm" in printed.err and " are as on NumPy in float64 (" in printed.out
    assert " of them)" in printed.out


def test_the_error_function():
    x = np.concatenate([np.linspace(-7, 7, 9001), [0.0, 1e-9, -1e-9, 100.0, -100.0]])
    np.testing.assert_allclose(erf(x), [math.erf(one) for one in x], rtol=0, atol=2e-13)


@pytest.mark.parametrize("then, expected", [({}, [7.0, -4.0]), ({"ACT_ThenRelu": 1}, [7.0, 0.0])], ids=["", "ThenRelu"])
def test_steps_of_a_product_in_their_order(then, expected):
    """Of one pixel of two channels: 3 x + 1, but not under 0, plus the residual; and of that sum what is over 0."""
    operands = {
        "x": np.array([2.0]),
        "weight": np.array([3.0, -3.0]),
        "bias": np.array([1.0, 1.0]),
        "residual": np.array([0.0, -4.0]),
    }
    sizes = dict.fromkeys(("n", "h", "w", "ic", "oh", "ow", "kh", "kw", "up_h", "up_w", "stride"), 1)
    steps = {"HAS_BIAS": 1, "ACT_Relu": 1, "HAS_ADD": 1, **then}
    made = MEANINGS["conv2d_nhwc"](Given(operands, {**sizes, "oc": 2, "ldb": 2, **steps}))
    assert made.reshape(-1).tolist() == expected
