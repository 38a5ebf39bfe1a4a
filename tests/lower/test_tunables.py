"""Tunables by shape: the order of fallbacks, a weight stored once whatever reads it,
and the same results whatever a file says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lower.test_lower import graph, zeros
from tiny_model import TINY

from ondevice.compiler.fallbacks import rewritten
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.errors import NoKernelError, PlanError
from ondevice.lower import lower
from ondevice.lower.kernel_file import KernelFile, load_all
from ondevice.lower.tunables import tunables
from ondevice.plan import plan, weight_key
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target, tuned_by
from ondevice.target.tuning import KernelTuning, Row, Tuning

KERNELS = load_all()
MATMUL = KERNELS["matmul"]
HOST = replace(load_target("host"), tuning=())
SIZES = {
    "batch": 1,
    "m": 6,
    "n": 5,
    "k": 4,
    "k1": 4,
    "ldb": 99,
    "a_batch": 0,
    "b_batch": 0,
    "F16": 1,
    "ACT_Geglu": 0,
    "HAS_BIAS": 1,
}


def tuning(name, **kernels):
    return Tuning(name, {}, {}, kernels)


# Sizes ----------------------------------------------------------------------------------------------------------------


def test_tunables_go_by_the_sizes_of_operands_and_their_storage():
    at = MATMUL.at(SIZES)
    assert at == {"F16": 1, "batch": 1, "k": 4, "k1": 4, "m": 6, "n": 5}, "neither steps nor what follows from tunables"
    assert MATMUL.weight_at(at) == {"F16": 1, "k": 4, "n": 5}
    gate = MATMUL.at(SIZES | {"ACT_Geglu": 1, "F16": 0})
    assert MATMUL.weight_at(gate) == {"ACT_Geglu": 1, "k": 4, "n": 5}
    assert KERNELS["unary"].at({"n": 3, "F16": 1, "OP_Neg": 1}) == {"F16": 1, "n": 3} and not KERNELS[
        "unary"
    ].weight_at({"n": 3})
    assert KERNELS["flash_attention"].at({"queries": 3, "q_from": 8, "D": 40, "scale": 1.0}) == {"D": 40, "queries": 3}


@pytest.mark.parametrize("kernel", [k for k in KERNELS.values() if k.stored_by], ids=lambda kernel: kernel.name)
def test_how_a_weight_is_stored_goes_by_the_weights_sizes(kernel):
    """By none of those that only say how much it is multiplied with: rows, pictures, their sizes."""
    named = {operand.split(":")[0]: operand for operand in kernel.header["in"]}
    weight = named.get("b") or named["weight"]
    others = {
        name
        for name in kernel.header["layout"]["by"]
        if not name.isupper() and not name.startswith("ACT_") and name not in weight
    }
    assert others <= {"n", "oc"}, "what the weight is padded from"


LAYOUTS = {
    "no list": 'layout = {tune = "V", by = ["n"], gives = ["n"]}',
    "unknown tunable": 'layout = {tune = ["W"], by = ["n"], gives = ["n"]}',
    "unknown size": 'layout = {tune = ["V"], by = ["z"], gives = ["n"]}',
    "unknown result": 'layout = {tune = ["V"], by = ["n"], gives = ["z"]}',
    "missing": 'layout = {tune = ["V"], by = ["n"]}',
}


@pytest.mark.parametrize("line", LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_that_names_nothing_is_refused(tmp_path, line):
    text = KERNELS["unary"].text.replace("//: needs = {}", f"//: needs = {{}}\n//: {line}")
    (tmp_path / "unary.cl").write_text(text)
    with pytest.raises(
        NoKernelError, match=r"unary\.cl: cannot read layout \(got .* expected lists: `tune` of tunables"
    ):
        KernelFile.read(tmp_path / "unary.cl")
    (tmp_path / "unary.cl").write_text(text.replace(line, 'layout = {tune = ["V"], by = ["n"], gives = ["n"]}'))
    assert KernelFile.read(tmp_path / "unary.cl").stored_by == ("V",)


# Fallbacks ------------------------------------------------------------------------------------------------------------


def test_device_then_family_then_target_then_header():
    at = MATMUL.at(SIZES)
    shape = Row(at, {"MR": 8})
    device = tuning("device", matmul=KernelTuning({"MR": 4}, (), [shape]), unary=KernelTuning({"V": 8}))
    family = tuning("family", matmul=KernelTuning({"MR": 8, "KC": 16}), binary=KernelTuning({"STEPS": 4}))
    target = replace(HOST, tune={"cast": {"V": 4}, "matmul": {"KC": 64}})

    def chosen(kernel, sizes, *files):
        values, source, cut = tunables(KERNELS[kernel], sizes, tuned_by(target, files))
        assert not cut
        return {name: value for name, value in values.items() if value != KERNELS[kernel].tuning()[name]}, source

    assert chosen("matmul", SIZES, device, family) == ({"MR": 8, "KC": 64}, "device by shape")
    assert chosen("matmul", SIZES | {"m": 7}, device, family) == ({"MR": 4, "KC": 64}, "device by default")
    assert chosen("matmul", SIZES, family) == ({"MR": 8, "KC": 16}, "family by default")
    assert chosen("matmul", None, device, family) == ({"MR": 4, "KC": 64}, "device by default")
    assert chosen("binary", {}, device, family) == ({"STEPS": 4}, "family by default")
    assert chosen("cast", {"n": 3}, device, family) == ({"V": 4}, "target host")
    assert chosen("gather", {}, device, family) == ({}, "the kernels' own")


def test_a_file_without_a_default_for_a_define_leaves_the_headers_own():
    kernel, target = KERNELS["winograd_strips"], replace(HOST, tune={"winograd_strips": {"STRIP": 32}})
    half, fly = {"F16": 1, "ic": 8}, {"F16": 1, "FLY": 1, "ic": 8}
    table = KernelTuning(kernel.tuning(MR=4), variants=[Row({"F16": 1, "FLY": 1}, {"NV": 1})])
    tuned = tuned_by(target, [tuning("mine", winograd_strips=table)])
    assert tunables(kernel, half, tuned) == (kernel.tuning(half, STRIP=32), "target host", "")
    assert tunables(kernel, fly, tuned) == (kernel.tuning(MR=4, NV=1), "mine by default", "")
    assert tunables(kernel, {"ic": 8}, tuned) == (kernel.tuning(MR=4), "mine by default", "")


def test_bad_values_name_the_file():
    bad = tuned_by(HOST, [tuning("mine", matmul=KernelTuning({"MR": 5}))])
    with pytest.raises(
        PlanError, match=r"mine\.toml: kernel\.matmul: bad tunable \(got MR=5, expected one of .* Fix: write it again"
    ):
        tunables(MATMUL, SIZES, bad)


def test_a_program_counts_where_its_tunables_come_from():
    model = graph("(float[6,4] x, float[4,5] w) => (float[6,5] y) { a = MatMul(x, w) y = Neg(a) }", w=zeros(4, 5))
    at = {"batch": 1, "k": 4, "k1": 4, "m": 6, "n": 5}
    found = tuning("mine", matmul=KernelTuning({}, (), [Row(at, {"MR": 4})]))
    program = lower(model, "unet", target=tuned_by(HOST, [found]))
    assert dict(program.tuned) == {"mine by shape": 1, "the kernels' own": 1}
    assert dict(program.calls[0].defines)["MR"] == 4


# Weights --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    """Wide enough for group norms over whole vectors."""
    unet = TINY["unet"] | {"block_out_channels": [16, 32], "norm_num_groups": 4}
    return build(random_checkpoint_from_configs(**TINY | {"unet": unet}, seed=1))


def programs(tiny, target, storage="f16"):
    for batch, height, width in ((1, 5, 3), (2, 8, 8)):
        model = tiny.graph("unet", batch=batch, height=height, width=width)
        rewritten(model)
        yield model, lower(model, "unet", storage=storage, target=target)


def a_file_for_every_call(tiny, target, pick):
    """Rows for every shape of the tiny UNet, with values that `pick(kernel, tunable, listed)` chooses."""
    shapes, weights = {}, {}
    for _, program in programs(tiny, target):
        for call in program.calls:
            kernel = KERNELS[call.kernel]
            at = kernel.at(dict(zip(kernel.arg_types, call.scalars, strict=True)) | dict(call.defines))
            values = {name: pick(name, listed) for name, listed in kernel.header["tune"].items()}
            weight = kernel.weight_at(at)
            stored = {name: values.pop(name) for name in kernel.stored_by}
            shapes.setdefault(kernel.name, {})[frozenset(at.items())] = Row(at, values)
            if weight:
                weights.setdefault(kernel.name, {})[frozenset(weight.items())] = Row(weight, stored)
    tables = {
        name: KernelTuning({}, tuple(weights.get(name, {}).values()), tuple(rows.values()))
        for name, rows in shapes.items()
    }
    return tuning("random", **tables)


def test_calls_are_found_by_the_same_sizes_before_and_after_their_weight_is_stored(tiny):
    """A rule that asks for tunables before it knows all dims must get those that its call gets."""
    rng = np.random.default_rng(0)
    found = a_file_for_every_call(tiny, HOST, lambda name, listed: int(rng.choice(listed)))
    used = set()
    for _, program in programs(tiny, tuned_by(HOST, [found])):
        assert set(program.tuned) == {"random by shape"}
        for call in program.calls:
            kernel, defines = KERNELS[call.kernel], dict(call.defines)
            at = kernel.at(dict(zip(kernel.arg_types, call.scalars, strict=True)) | defines)
            want, _ = found.kernels[kernel.name].choice(at, kernel.weight_at(at), kernel.variant(at))
            # lowering has them fit what a call makes
            free = {"winograd_strips": {"NV", "MR"}, "winograd_blocks": {"V"}}.get(kernel.name, {"NV"})
            assert {name: defines[name] for name in want.keys() - free} == {
                n: v for n, v in want.items() if n not in free
            }, call
            if kernel.name == "group_norm_nhwc":
                scalars = dict(zip(kernel.arg_types, call.scalars, strict=True))
                assert scalars["blocks"] * np.lcm(scalars["per_group"], defines["V"]) == scalars["channels"]
            used.add(kernel.name)
    assert {"matmul", "conv2d_nhwc", "group_norm_nhwc", "layer_norm_rows"} <= used


def test_several_sizes_store_a_weight_once(tiny):
    """Whatever rows there are for other shapes: a layout per size would double the bundle."""
    rng = np.random.default_rng(1)
    found = a_file_for_every_call(tiny, HOST, lambda name, listed: int(rng.choice(listed)))

    def stored(target):
        weights = {}
        for _, program in programs(tiny, target):
            weights |= {weight_key("unet", name): program.tensors[name].nbytes for name in program.weights}
        return weights

    sources = {name.split(":")[0] for name in stored(HOST)}
    for target in (HOST, tuned_by(HOST, [found])):
        names = [name.replace(":winograd", "") for name in stored(target)]
        panels = [name.split(":")[0] for name in names if "columns per panel" in name]
        direct = [name for name in stored(target) if ":winograd" not in name]
        assert panels and len({name.split(":")[0] for name in direct}) == len(direct), "one layout per weight"
        assert {name.split(":")[0] for name in names} == sources


# Results --------------------------------------------------------------------------------------------------------------


class One:
    """A bundle of one plan, in memory."""

    def __init__(self, program):
        self.made = plan(program, storage="f32")
        self.arrays = {weight_key("unet", name): values for name, values in program.weights.items()}
        self.kinds = {weight_key("unet", name): program.tensors[name].dtype for name in program.weights}

    def plan(self, component, **sizes):
        return self.made

    def weight(self, key):
        return key, 0, self.shard(key).nbytes

    def shard(self, name):
        kind = {"f32": np.float32, "f16": np.float16, "i32": np.int32}[self.kinds[name]]
        return np.ascontiguousarray(self.arrays[name].numpy().astype(kind)).reshape(-1).view(np.uint8)

    def source(self, file, dialect, defines):
        return KERNELS[file].source(dialect, **dict(defines))


@pytest.mark.device
@pytest.mark.sweep
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({"V": st.sampled_from([4, 8, 16]), "X": st.sampled_from([1, 8, 64])}), st.integers(0, 4))
def test_any_file_gives_the_same_results(tiny, fixed, turn):
    """Values far from any optimum included: tunables say how fast, never what."""
    base = HOST
    found = a_file_for_every_call(
        tiny, base, lambda name, listed: fixed[name] if fixed.get(name) in listed else listed[turn % len(listed)]
    )
    model = tiny.graph("unet", batch=1, height=5, width=3)
    rewritten(model)
    rng, device = np.random.default_rng(0), choose_device()
    results = []
    for target in (base, tuned_by(base, [found])):
        one = One(lower(model, "unet", storage="f32", target=target))
        inputs = {
            one.made.operands[i].name: rng.standard_normal(one.made.operands[i].shape).astype(np.float32)
            for i in one.made.inputs
        }
        rng = np.random.default_rng(0)
        results.append(next(iter(Session(one, device).run("unet", inputs).values())))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4, atol=2e-5 * float(np.abs(results[0]).max()))
