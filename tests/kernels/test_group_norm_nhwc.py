"""Group norms with the channels last, against NumPy in float64."""

import math

import numpy as np
import pytest
from kernels.bench import STORED, Bench, assert_same_in_place, exact, half, tunings, tunings_of, values
from kernels.epilogues import finished
from tolerance import EPS, TINY, assert_close, rtol

from ondevice.lower.kernel_file import load_all

pytestmark = pytest.mark.device
KERNELS = load_all()
EPSILON = 1e-5
# n, pixels, channels, groups
GROUPS = [(1, 1, 16, 1), (2, 15, 48, 3), (1, 64, 80, 8), (3, 65, 32, 32), (1, 300, 240, 8), (2, 7, 60, 4)]
ODD_GROUPS = [(1, 1, 1, 1), (2, 5, 6, 3), (1, 70, 15, 5), (2, 9, 12, 2)]  # that fill no vectors of 16


def group_norm(bench, kernel, x, c1, scale, bias, groups, stored, silu=0, tuning=None):
    n, pixels, channels = x.shape
    per_group, lanes = channels // groups, KERNELS["group_norm_nhwc"].tuning(**(tuning or {}))["V"]
    block = math.lcm(per_group, lanes)
    parts = [np.ascontiguousarray(x[..., :c1]), np.ascontiguousarray(x[..., c1:] if c1 < channels else x)]
    sizes = {
        "n": n,
        "pixels": pixels,
        "channels": channels,
        "c1": c1,
        "per_group": per_group,
        "blocks": channels // block,
    }
    extra = {"SPAN": block} if kernel == "group_norm_nhwc" else {}
    dims = sizes | {"epsilon": EPSILON}
    call, built = (
        (KERNELS[kernel], [*parts, scale, bias], (x.shape, x.dtype), dims, tuning),
        {"F16": half(stored), "ACT_Silu": silu} | extra,
    )
    if kernel == "group_norm_nhwc" and c1 == channels:
        assert assert_same_in_place(bench, *call, **built)
    return bench.run(*call, **built)


def check_group_norm(bench, kernel, x, groups, stored, silu=0, c1=None, tuning=None):
    channels = x.shape[2]
    scale, bias = values("normal", (channels,), stored, 1), values("normal", (channels,), stored, 2)
    got = group_norm(bench, kernel, x, c1 or channels, scale, bias, groups, stored, silu, tuning)
    check_against_reference(got, x, scale, bias, groups, stored, silu, f"{kernel} {x.shape} in {groups}")


def check_against_reference(got, x, scale, bias, groups, stored, silu, where):
    channels = x.shape[2]
    data, gain, shift = exact(x, scale, bias)
    rows = data.reshape(len(x), -1, groups, channels // groups)
    centred = rows - rows.mean((1, 3), keepdims=True)
    normal = (centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + EPSILON)).reshape(x.shape)
    want = normal * gain + shift
    size = np.abs(normal * gain) + np.abs(shift)
    if silu:
        want = want / (1 + np.exp(-want))
    bound = EPS[stored] * np.abs(want) + TINY[stored] + rtol("f32", rows[0, :, 0].size) * (size + np.abs(gain)) * 4
    assert_close(got, want, bound, where)


CASES = [("group_norm_nhwc", size) for size in GROUPS if size[2] % math.lcm(size[2] // size[3], 16) == 0]
CASES += [("group_norm_nhwc_any", size) for size in (*GROUPS, *ODD_GROUPS)]


@pytest.mark.parametrize("silu", [0, 1])
@pytest.mark.parametrize("kernel, size", CASES, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_group_norm(bench: Bench, kernel, size, stored, silu):
    check_group_norm(bench, kernel, values("normal", size[:3], stored), size[3], stored, silu)


@pytest.mark.parametrize(
    "kernel, c1", [("group_norm_nhwc", 16), ("group_norm_nhwc", 80), ("group_norm_nhwc_any", 7)], ids=str
)
@pytest.mark.parametrize("stored", STORED)
def test_group_norm_of_two_parts(bench: Bench, kernel, c1, stored):
    """A group may have channels of both."""
    check_group_norm(bench, kernel, values("normal", (2, 37, 96), stored), 2, stored, 1, c1)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["group_norm_nhwc"]))
def test_group_norm_tunings(bench: Bench, stored, tuning):
    check_group_norm(bench, "group_norm_nhwc", values("normal", (2, 150, 96), stored), 8, stored, 1, tuning=tuning)


@pytest.mark.parametrize("kernel", ["group_norm_nhwc", "group_norm_nhwc_any"])
def test_group_norm_of_a_mean_far_above_the_deviation(bench: Bench, kernel):
    check_group_norm(bench, kernel, values("normal", (1, 257, 32), "f32") + np.float32(4096), 4, "f32")


def test_group_norm_of_channels_that_differ_more_than_their_pixels(bench: Bench):
    x = values("normal", (1, 200, 32), "f32") + np.arange(32, dtype=np.float32) * 50
    check_group_norm(bench, "group_norm_nhwc", x, 4, "f32")


@pytest.mark.parametrize("kernel", ["group_norm_nhwc", "group_norm_nhwc_any"])
def test_group_norm_of_equal_values_is_the_bias(bench: Bench, kernel):
    x, scale, bias = (
        values("equal", (1, 33, 16), "f32"),
        values("normal", (16,), "f32", 1),
        values("normal", (16,), "f32", 2),
    )
    np.testing.assert_array_equal(
        group_norm(bench, kernel, x, 16, scale, bias, 4, "f32"), np.broadcast_to(bias, x.shape)
    )


def two_commands(bench, x, scale, bias, groups, stored, chunk, silu=1, sums_tuning=None, apply_tuning=None):
    """group_norm_sums and group_norm_apply, as lowering chains them."""
    n, pixels, channels = x.shape
    span = math.lcm(channels // groups, 16)
    chunks = -(-pixels // chunk)
    sizes = {"n": n, "pixels": pixels, "channels": channels, "chunk": chunk, "chunks": chunks, "rows": 1 + 2 * chunks}
    dims = sizes | {"blocks": channels // span, "per_group": channels // groups, "epsilon": EPSILON}
    built = {"F16": half(stored), "SPAN": span}
    shape = ((n, 1 + 2 * chunks, channels), np.float32)
    sums = bench.run(KERNELS["group_norm_sums"], [x], shape, dims, sums_tuning, **built)
    call = (KERNELS["group_norm_apply"], [x, sums, scale, bias], (x.shape, x.dtype), dims, apply_tuning)
    assert assert_same_in_place(bench, *call, ACT_Silu=silu, **built)
    return bench.run(*call, ACT_Silu=silu, **built)


@pytest.mark.parametrize("size, chunk", [((1, 1, 16, 4), 8), ((2, 300, 96, 2), 128), ((1, 129, 320, 32), 40)], ids=str)
@pytest.mark.parametrize("offset", [0, 4096])
@pytest.mark.parametrize("stored", STORED)
def test_group_norm_in_two_commands(bench: Bench, size, chunk, offset, stored):
    *shape, groups = size
    x = values("normal", shape, stored) + STORED[stored](offset)
    scale, bias = values("normal", shape[2:], stored, 1), values("normal", shape[2:], stored, 2)
    check_against_reference(
        two_commands(bench, x, scale, bias, groups, stored, chunk), x, scale, bias, groups, stored, 1, f"{size}"
    )


@pytest.mark.parametrize("kernel, stored, tuning", tunings_of(KERNELS, ["group_norm_sums", "group_norm_apply"]))
def test_two_commands_tunings(bench: Bench, kernel, stored, tuning):
    x, scale, bias = (values("normal", shape, stored, i) for i, shape in enumerate(((2, 150, 96), (96,), (96,))))
    sums, rest = (tuning, None) if kernel == "group_norm_sums" else (None, tuning)
    got = two_commands(bench, x, scale, bias, 8, stored, 64, 1, sums, rest)
    check_against_reference(got, x, scale, bias, 8, stored, 1, str(tuning))


# Group norm with given statistics -------------------------------------------------------------------------------------


def check_normalize(bench, shape, groups, stored, silu, tuning=None, kind="normal"):
    pixels, channels = shape
    x, scale, bias = (
        values(kind, shape, stored),
        values("normal", (channels,), stored, 1),
        values("normal", (channels,), stored, 2),
    )
    mean, variance = (
        values("normal", (groups,), "f32", 3),
        np.abs(values("normal", (groups,), "f32", 4)) + np.float32(0.1),
    )
    dims = {
        "pixels": pixels,
        "channels": channels,
        "groups": groups,
        "per_group": channels // groups,
        "epsilon": EPSILON,
    }
    inputs, built = [x, mean, variance, scale, bias], {"F16": half(stored), "ACT_Silu": int(silu)}
    kernel = KERNELS["normalize_nhwc"]
    got = bench.run(kernel, inputs, (shape, x.dtype), dims, tuning, **built)
    wide, middle, spread, gain, shift = exact(*inputs)
    middle, spread = (np.repeat(part, channels // groups) for part in (middle, spread))
    factor = gain / np.sqrt(spread + EPSILON)
    size = (np.abs(wide) + np.abs(middle)) * np.abs(factor) + np.abs(shift)
    want, wrong = finished((wide - middle) * factor + shift, size, 4, stored, "Silu" if silu else "")
    assert_close(got, want, wrong, f"{shape}")
    assert assert_same_in_place(bench, kernel, inputs, (shape, x.dtype), dims, tuning, **built)


@pytest.mark.parametrize("shape, groups", [((1, 1), 1), ((7, 16), 4), ((33, 70), 5), ((300, 24), 3)], ids=str)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("stored", STORED)
def test_given_statistics(bench: Bench, stored, silu, shape, groups):
    check_normalize(bench, shape, groups, stored, silu)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["normalize_nhwc"]))
def test_given_statistics_tunings(bench: Bench, stored, tuning):
    check_normalize(bench, (61, 83), 83, stored, False, tuning)


@pytest.mark.parametrize("stored", STORED)
def test_silu_of_vectors_from_end_to_end(bench: Bench, stored):
    """Where the exponential overflows, where it vanishes, and near 0; a NaN stays one and spoils nothing else."""
    steps = np.concatenate([np.linspace(-12, 12, 1009), np.geomspace(1e-4, 6e4, 500), [84, 86.9, 87.1, 88.7, 89, 500]])
    x = np.concatenate([steps, -steps, [0, np.inf, np.nan]])
    x = np.resize(x, (len(x) // 16 + 1, 16)).astype(STORED[stored])
    ones, zeros = np.ones(16, x.dtype), np.zeros(16, x.dtype)
    inputs = [x, np.zeros(4, np.float32), np.ones(4, np.float32), ones, zeros]
    dims = {"pixels": len(x), "channels": 16, "groups": 4, "per_group": 4, "epsilon": 0.0}
    got = bench.run(KERNELS["normalize_nhwc"], inputs, (x.shape, x.dtype), dims, F16=half(stored), ACT_Silu=1)
    (wide,) = exact(x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wide))
    assert (got[wide == np.inf] == np.inf).all() and (got[wide == 0] == 0).all()
    finite = np.isfinite(wide)
    with np.errstate(over="ignore"):
        want = wide[finite] / (1 + np.exp(-wide[finite]))
    relative = EPS[stored] + (3e-6 if stored == "f16" else 8 * EPS["f32"])
    spread = np.abs(want) * (relative + 2 * EPS["f32"] * np.abs(wide[finite]))  # and of what is taken to the power
    assert_close(got[finite], want, spread + TINY[stored] + 1e-35, f"silu in {stored}")


def test_given_statistics_of_the_largest_halves(bench: Bench):
    check_normalize(bench, (20, 32), 4, "f32", True, kind="largest")
