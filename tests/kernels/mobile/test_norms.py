"""Norms of class `mobile`, against NumPy in float64."""

import math

import numpy as np
import pytest
from kernels.bench import STORED, Bench, assert_same_in_place, half, tunings, tunings_of, values
from kernels.test_group_norm_nhwc import EPSILON, check_against_reference
from kernels.test_modulation import check_ada_layer_norm, check_rms_norm
from kernels.test_rows import norm

from ondevice.lower.kernel_file import load_all

pytestmark = pytest.mark.device
KERNELS = load_all()
# pictures, pixels, channels, groups
GROUPS = [(1, 1, 4, 1), (2, 15, 60, 3), (2, 129, 32, 32), (1, 33, 240, 3), (1, 7, 1024, 4)]

MODULATED = [(1, 1, 4), (2, 5, 76), (3, 2, 1536)]  # items, tokens, columns


def one_command(bench, x, c1, scale, bias, groups, stored, silu, tuning=None):
    n, pixels, channels = x.shape
    per_group = channels // groups
    span = math.lcm(per_group, 4)
    sizes = {"n": n, "pixels": pixels, "channels": channels, "c1": c1, "per_group": per_group}
    dims = sizes | {"blocks": channels // span, "epsilon": EPSILON}
    parts = [np.ascontiguousarray(x[..., :c1]), np.ascontiguousarray(x[..., c1:] if c1 < channels else x)]
    call = (KERNELS["group_norm_local"], [*parts, scale, bias], (x.shape, x.dtype), dims, tuning)
    built = {"F16": half(stored), "ACT_Silu": silu, "SPAN": span}
    if c1 == channels:
        assert assert_same_in_place(bench, *call, **built)
    return bench.run(*call, **built)


def check_one_command(bench, x, groups, stored, silu=0, c1=None, tuning=None):
    scale, bias = (values("normal", x.shape[2:], stored, seed) for seed in (1, 2))
    got = one_command(bench, x, c1 or x.shape[2], scale, bias, groups, stored, silu, tuning)
    check_against_reference(got, x, scale, bias, groups, stored, silu, f"group_norm_local {x.shape} in {groups}")


@pytest.mark.parametrize("size", GROUPS, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_group_norm(phone_bench: Bench, size, stored):
    check_one_command(phone_bench, values("normal", size[:3], stored), size[3], stored, silu=size[1] % 2)


@pytest.mark.parametrize("c1", [4, 40])
def test_group_norm_of_two_parts(phone_bench: Bench, c1):
    """A group may have channels of both."""
    check_one_command(phone_bench, values("normal", (2, 37, 96), "f16"), 2, "f16", 1, c1)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["group_norm_local"]))
def test_group_norm_tunings(bench: Bench, stored, tuning):
    check_one_command(bench, values("normal", (2, 300, 80), stored), 4, stored, 1, tuning=tuning)


def test_group_norm_of_a_mean_far_above_the_deviation(phone_bench: Bench):
    check_one_command(phone_bench, values("normal", (1, 257, 16), "f32") + np.float32(4096), 2, "f32")


def test_group_norm_of_channels_that_differ_more_than_their_pixels(bench: Bench):
    x = values("normal", (1, 200, 32), "f32") + np.arange(32, dtype=np.float32) * 50
    check_one_command(bench, x, 4, "f32")


def test_group_norm_of_equal_values_is_the_bias(bench: Bench):
    x, scale, bias = values("equal", (1, 33, 16), "f32"), *(values("normal", (16,), "f32", seed) for seed in (1, 2))
    got = one_command(bench, x, 16, scale, bias, 4, "f32", 0)
    np.testing.assert_array_equal(got, np.broadcast_to(bias, x.shape))


def check_two_commands(bench, x, groups, stored, chunk, span, tuning):
    n, pixels, channels = x.shape
    scale, bias = (values("normal", x.shape[2:], stored, seed) for seed in (1, 2))
    chunks = -(-pixels // chunk)
    sizes = {"n": n, "pixels": pixels, "channels": channels, "chunk": chunk, "chunks": chunks, "rows": 1 + 2 * chunks}
    dims = sizes | {"blocks": channels // span, "per_group": channels // groups, "epsilon": EPSILON}
    built, about = {"F16": half(stored), "SPAN": span}, ((n, 1 + 2 * chunks, channels), np.float32)
    sums = bench.run(KERNELS["group_norm_chunks"], [x], about, dims, tuning.get("group_norm_chunks"), **built)
    finish = (KERNELS["group_norm_finish"], [x, sums, scale, bias], (x.shape, x.dtype), dims)
    assert assert_same_in_place(bench, *finish, tuning.get("group_norm_finish"), ACT_Silu=1, **built)
    got = bench.run(*finish, tuning.get("group_norm_finish"), ACT_Silu=1, **built)
    check_against_reference(got, x, scale, bias, groups, stored, 1, f"two commands {x.shape} in {groups}")


@pytest.mark.parametrize(
    "size, chunk, span", [((1, 1, 4, 1), 8, 4), ((2, 150, 80, 2), 64, 40), ((1, 67, 240, 24), 40, 120)], ids=str
)
@pytest.mark.parametrize("stored, offset", [("f16", 0), ("f32", 4096)])
def test_group_norm_in_two_commands(phone_bench: Bench, size, chunk, span, stored, offset):
    x = values("normal", size[:3], stored) + STORED[stored](offset)
    check_two_commands(phone_bench, x, size[3], stored, chunk, span, {})


@pytest.mark.parametrize("kernel, stored, tuning", tunings_of(KERNELS, ["group_norm_chunks", "group_norm_finish"]))
def test_two_commands_tunings(bench: Bench, kernel, stored, tuning):
    check_two_commands(bench, values("normal", (2, 300, 240), stored), 8, stored, 128, 60, {kernel: tuning})


@pytest.mark.parametrize("size", [(1, 4), (9, 24), (3, 132), (2, 320), (2, 5120)], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_layer_norm(phone_bench: Bench, size, stored):
    """Several rows per work-group, with work-items to spare, and one."""
    norm(phone_bench, "layer_norm_local", values("normal", size, stored), stored)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["layer_norm_local"]))
def test_layer_norm_tunings(bench: Bench, stored, tuning):
    norm(bench, "layer_norm_local", values("normal", (13, 80), stored), stored, tuning)
    norm(bench, "layer_norm_local", values("normal", (3, 1280), stored), stored, tuning)


@pytest.mark.parametrize("kind", ["equal", "largest"])
@pytest.mark.parametrize("stored", STORED)
def test_layer_norm_of_other_values(bench: Bench, kind, stored):
    norm(bench, "layer_norm_local", values(kind, (4, 1000), stored), stored)


def test_layer_norm_keeps_digits_when_the_mean_is_large(phone_bench: Bench):
    norm(phone_bench, "layer_norm_local", values("normal", (3, 4096), "f32") + np.float32(3000), "f32")


@pytest.mark.parametrize("size", MODULATED, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_ada_layer_norm(phone_bench: Bench, size, stored):
    check_ada_layer_norm(phone_bench, size, stored, name="ada_layer_norm_local")


@pytest.mark.parametrize("size", [(1, 4), (5, 64), (3, 76), (2, 4096)], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_rms_norm(phone_bench: Bench, size, stored):
    check_rms_norm(phone_bench, size, stored, name="rms_norm_local")


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["ada_layer_norm_local"]))
def test_ada_layer_norm_tunings(bench: Bench, stored, tuning):
    check_ada_layer_norm(bench, (2, 7, 76), stored, tuning, "ada_layer_norm_local")
    check_rms_norm(bench, (9, 76), stored, tuning, "rms_norm_local")
