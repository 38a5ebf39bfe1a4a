"""Values that half storage does not hold: the op is named, and with `fp32` the picture is that of float32 storage.

Networks with a weight made larger, so that a known op overflows, against the same weights in float32 storage.
"""

import functools
import hashlib
import logging
import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from checkpoint_files import message, tiny_checkpoint
from family_files import TINY
from rewrite.graphs import feed

from ondevice.bundle.in_memory import MemoryBundle, weight_sources
from ondevice.bundle.kernels import check_launches
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.errors import NumericError, PlanError, StrictError
from ondevice.lower import lower
from ondevice.lower.kernel_file import load_all
from ondevice.plan import plan
from ondevice.rewrite import rewrite
from ondevice.run.check import NUMPY
from ondevice.run.guard import FP32, STOP, GuardedSession
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target

pytestmark = pytest.mark.device
KERNELS = load_all()
# scores that are stored, and group norms in two commands, which targets have of larger pictures
OTHERWISE = replace(load_target("adreno_740"), flash={"max_head": 0}, group_norm={"two_commands": 1})
STORED = replace(load_target("host"), flash={"max_head": 0})
LARGE = 2.0**18
CASES = {  # the network, what its weights are multiplied by, and the node that overflows
    "unet": ("unet", {"up_blocks.0.resnets.0.conv2.weight": LARGE}, "up_blocks.0/resnets.0"),
    "decoder": ("vae_decoder", {"decoder.up_blocks.0.resnets.0.conv2.weight": LARGE}, "up_blocks.0/resnets.0"),
    "sdxl": ("unet", {"up_blocks.0.resnets.0.conv2.weight": LARGE}, "up_blocks.0/resnets.0"),
    "plain": ("unet", {}, ""),
    "norm": ("unet", {"conv_norm_out.weight": 2.0**15, "conv_out.weight": 2.0**-12}, "conv_norm_out"),
    "scores": (
        "unet",
        {f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_{x}.weight": 1024.0 for x in "qk"},
        "attn1",
    ),
}


def changed(part, factors, case):
    """A tiny model with some of its weights multiplied, all of them such as half storage holds."""
    xl = random_checkpoint_from_configs(seed=3, family="sdxl", **TINY["sdxl"])
    checkpoint = xl if case == "sdxl" else tiny_checkpoint()
    network = checkpoint.components[part]
    weights = {}
    for name, tensor in network.weights.items():
        values = tensor.numpy() * np.float32(factors.get(name, 1.0))
        weights[name] = ir.tensor(values.astype(np.float16).astype(np.float32), name=name)
    return replace(checkpoint, components=checkpoint.components | {part: replace(network, weights=weights)})


@functools.cache
def compiled(case, target, storage, weights=""):
    """A bundle in memory of one network, and what it is given."""
    target = {"otherwise": OTHERWISE, "stored": STORED}.get(target) or load_target(target)
    role, factors, _ = CASES[case]
    graph = build(changed(role.partition("_")[0], factors, case), whole=True).graph(role, batch=1, height=8, width=8)
    inputs = feed(graph)
    if "timestep" in inputs:
        inputs["timestep"] = np.full_like(inputs["timestep"], 500.0)
    rewrite(graph)
    program = lower(graph, "net", storage=storage, target=target, weights=weights)
    return MemoryBundle([plan(program, storage=storage)], weight_sources(program), KERNELS), inputs


def drawn(case, target, storage="f16", weights="", **options):
    bundle, inputs = compiled(case, target, storage, weights)
    session = GuardedSession(bundle, choose_device(), **options)
    (result,) = session.run("net", inputs).values()
    return result, session, inputs


def decibels(got, want):
    return 20 * math.log10(np.abs(want).max() / max(math.sqrt(((got.astype(np.float64) - want) ** 2).mean()), 1e-12))


WAYS = [("unet", "host"), ("scores", "stored"), ("unet", "gpu")]
MORE = [
    ("decoder", "adreno_740"),
    ("decoder", "host"),
    ("norm", "host"),
    ("norm", "otherwise"),
    ("scores", "otherwise"),
    ("sdxl", "host"),
    ("sdxl", "adreno_740"),
]


@pytest.mark.parametrize("case, target", [*WAYS, *(pytest.param(*way, marks=pytest.mark.sweep) for way in MORE)])
def test_as_in_float32(case, target, caplog):
    want, _, _ = drawn(case, target, "f32")
    assert np.isfinite(want).all()
    with caplog.at_level(logging.WARNING):
        got, session, inputs = drawn(case, target, on_nan=FP32)
    assert decibels(got, want) >= 40
    op, island = caplog.messages
    assert CASES[case][2].rpartition("/")[2] in op and "values are NaN or infinite, the first at" in op
    mended = session._bundle.plan("net")
    own = session._bundle.bundle.plan("net")
    casts = len(mended.dispatches) - len(own.dispatches)
    assert f" of {len(own.dispatches)} dispatches are in float32 from now on, as values go up to " in island
    assert "and half holds 65504: " in island and f"; {casts} conversions, " in island and " MB more" in island
    wide = sum(dict(mended.kernels[d.kernel].defines).get("F16") == 0 for d in mended.dispatches)
    assert 1 <= wide < len(own.dispatches), "an island, not all of it"
    check_launches(mended, "mended", {kernel.file: _sha(kernel.file) for kernel in mended.kernels})
    caplog.clear()
    (again,) = session.run("net", inputs).values()
    assert not caplog.messages and np.array_equal(again, got), "mended for good"


def _sha(name):
    return hashlib.sha256(KERNELS[name].text.encode()).hexdigest()


@pytest.mark.sweep
@pytest.mark.parametrize("weights", ["i8", "i4"])
def test_weights_in_few_bits_stay_so(weights):
    target = "adreno_740"
    want, _, _ = drawn("unet", target, "f32", weights)
    got, session, _ = drawn("unet", target, weights=weights, on_nan=FP32)
    assert decibels(got, want) >= 40
    kinds = {operand.dtype for operand in session._bundle.plan("net").operands if operand.weight}
    assert kinds >= {"i8" if weights == "i8" else "u4x2", "f32"}


def test_the_first_op_is_named_without_a_second_run():
    said = message(lambda: drawn("norm", "host", on_nan=STOP), NumericError)
    assert said.startswith("net: dispatch ") and "conv_norm_out" in said.partition(" values are")[0]
    assert "values are NaN or infinite, the first at [" in said and "; in: " in said
    assert said.endswith("Fix: draw with --on-nan fp32, or convert with --dtype fp32, where half storage overflows.")


def test_strict_makes_an_error_of_it():
    said = message(lambda: drawn("norm", "host", on_nan=FP32, strict=True), StrictError)
    assert said.startswith("net: half storage overflows (net: dispatch ") and " dispatches are in float32" in said
    assert said.endswith("Fix: convert with --dtype fp32, or leave --strict out.")


def test_values_that_stay_on_the_device_are_looked_at():
    bundle, inputs = compiled("unet", "host", "f16")
    session = GuardedSession(bundle, choose_device(), on_nan=FP32)
    (value,) = session.run_on("net", {name: session.put(array) for name, array in inputs.items()}).values()
    want, _, _ = drawn("unet", "host", "f32")
    assert decibels(session.read(value), want) >= 40


def test_other_steps_add_to_what_is_known():
    """What one step needs is there in the next, which needs something else."""
    (bundle, inputs), (plain, _) = (compiled("plain", "host", storage) for storage in ("f16", "f32"))
    session, single = GuardedSession(bundle, choose_device(), on_nan=FP32), Session(plain, choose_device())
    wide = frozenset()
    for name in ("encoder_hidden_states", "sample"):
        larger = {**inputs, name: inputs[name] * np.float32(6e4)}
        (got,), (want,) = (list(one.run("net", larger).values()) for one in (session, single))
        assert decibels(got, want) >= 40
        known, wide = wide, session._islands[("net",)].wide
        assert wide > known


def test_what_is_not_finite_in_float32_is_not_mended():
    bundle, inputs = compiled("unet", "host", "f16")
    session = GuardedSession(bundle, choose_device(), on_nan=FP32)
    odd = {**inputs, "encoder_hidden_states": np.full_like(inputs["encoder_hidden_states"], np.nan)}
    said = message(lambda: session.run("net", odd), NumericError)
    assert "values are NaN or infinite in float32, too, the first at" in said
    assert "Fix: look for kernels that this device gets wrong with `ondevice doctor`; else weights" in said


def test_float32_storage_has_no_island():
    bundle, inputs = compiled("unet", "host", "f32")
    odd = {**inputs, "sample": np.full_like(inputs["sample"], np.inf)}
    said = message(lambda: GuardedSession(bundle, choose_device(), on_nan=FP32).run("net", odd), NumericError)
    assert said.endswith("Fix: look for kernels that this device gets wrong with `ondevice doctor`.")


def test_there_must_be_room():
    bundle, inputs = compiled("unet", "host", "f16")
    session = GuardedSession(bundle, choose_device(), on_nan=FP32)
    session.room = 1000
    said = message(lambda: session.run("net", inputs), PlanError)
    assert "computing in float32 what half storage does not hold takes " in said and "and 0.0 MB are left." in said
    assert said.endswith("Fix: allow a larger --max-memory, or convert with --dtype fp32.")


class Negated:
    """A weight, wherever a bundle has it, with the other sign."""

    def __init__(self, bundle, weight):
        self._bundle = bundle
        self.keys = {one.weight for one in bundle.plan("net").operands if one.weight and weight in one.weight}
        self._types = {one.weight: NUMPY[one.dtype] for one in bundle.plan("net").operands}

    def values(self, key):
        shard, offset, nbytes = self._bundle.weight(key)
        return self._bundle.shard(shard)[offset : offset + nbytes].view(self._types[key]) * -1


def test_weights_that_adapters_change_are_widened_as_they_are_now():
    (bundle, inputs), (plain, _) = (compiled("unet", "host", storage) for storage in ("f16", "f32"))
    mended, single = GuardedSession(bundle, choose_device(), on_nan=FP32), Session(plain, choose_device())
    mended.run("net", inputs)
    for bundle_of, session in ((bundle, mended), (plain, single)):
        session.change_weights(Negated(bundle_of, "up_blocks.0.resnets.0.conv2.weight"))
    (got,), (want,) = (list(session.run("net", inputs).values()) for session in (mended, single))
    assert decibels(got, want) >= 40
    for session in (mended, single):
        session.change_weights(None)
    (got,), (own,) = (list(session.run("net", inputs).values()) for session in (mended, single))
    assert decibels(got, own) >= 40 and decibels(want, own) < 30, "it makes a difference"
