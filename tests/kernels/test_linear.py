"""matmul with all that it may do to a result, against NumPy in float64."""

import numpy as np
import pytest
from kernels.bench import STORED, Bench, assert_same_in_place, exact, tunings, values
from kernels.epilogues import ACTIVATIONS, FEW_BITS, defines, finished, in_panels, packed
from tolerance import assert_close

from ondevice.lower.kernel_file import load_all
from ondevice.lower.linear import DENSE

pytestmark = pytest.mark.device
KERNEL = load_all()["matmul"]


def check(
    bench: Bench,
    size,
    stored,
    activation="",
    *,
    bias=True,
    add=False,
    k1=None,
    pad=None,
    tuning=None,
    panels=False,
    bits="",
):
    """x [m, k] in one part, or in two with k1 columns in the first; weight [k, n or 2 n], stored `pad` columns wide."""
    m, n, k = size
    columns = 2 * n if activation == "Geglu" else n
    x, weight, shift, residual = (
        values("normal", shape, stored, seed) for seed, shape in enumerate(((m, k), (k, columns), (columns,), (m, n)))
    )
    x1, x2 = np.ascontiguousarray(x[:, :k1]), np.ascontiguousarray(x[:, k1:] if k1 else x)
    ldb, scales, meant, built = pad or columns, None, weight, {}
    wide, wide_shift = np.pad(weight, [(0, 0), (0, ldb - columns)]), np.pad(shift, (0, ldb - columns))
    if panels:
        tile, halves = KERNEL.tuning(**(tuning or {})), 2 if activation == "Geglu" else 1
        width = tile["V"] * -(-tile["NV"] // halves) * halves
        wide, scales, meant, built = packed(weight, width, halves, bits)
        wide_shift = in_panels(shift[None], width, halves)
        ldb = wide.shape[0] * width
    dims = {"batch": 1, "m": m, "n": n, "k": k, "k1": k1 or k, "ldb": ldb, "a_batch": 0, "b_batch": 0} | DENSE
    got = bench.run(
        KERNEL,
        [x1, x2, wide, wide_shift, x, residual, x if scales is None else scales],
        ((m, n), x.dtype),
        dims,
        tuning,
        F16=int(stored == "f16"),
        **built,
        **defines(activation, bias, False, add),
    )
    left, right, add_, rest = exact(x, meant, shift, residual)
    extra = {"bias": add_ if bias else None, "residual": rest if add else None}
    want, wrong = finished(left @ right, np.abs(left) @ np.abs(right), k + bool(bits), stored, activation, **extra)
    assert_close(got, want, wrong, f"{size} {activation}")


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 15, 7), (7, 16, 20), (13, 65, 129), (50, 101, 300)], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("stored", STORED)
def test_epilogues(bench: Bench, stored, activation, size):
    """What is added after an activation does not depend on which it is: with each in half alone."""
    for add in {stored == "f16", *([False, True] if activation in ("", "Geglu") else [])}:
        check(bench, size, stored, activation, add=add)


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 15, 7), (7, 64, 20), (13, 65, 129), (50, 133, 300)], ids=str)
@pytest.mark.parametrize("activation", ["", "Geglu"])
@pytest.mark.parametrize("stored", STORED)
def test_weights_in_panels(bench: Bench, stored, activation, size):
    check(bench, size, stored, activation, add=True, panels=True)


@pytest.mark.parametrize("size", [(1, 1, 1), (7, 64, 20), (13, 65, 129), (50, 133, 300)], ids=str)
@pytest.mark.parametrize("activation", ["", "Geglu"])
@pytest.mark.parametrize("bits", FEW_BITS)
@pytest.mark.parametrize("stored", STORED)
def test_weights_in_few_bits(bench: Bench, stored, bits, activation, size):
    check(bench, size, stored, activation, add=True, panels=True, bits=bits)


@pytest.mark.parametrize("k1", [1290, 1270])
@pytest.mark.parametrize("stored, bits", [("f32", ""), ("f16", ""), *[("f16", bits) for bits in FEW_BITS]])
def test_sums_of_long_columns_are_kept_between_parts_of_1280(bench: Bench, stored, bits, k1):
    """Tiles of both rows that a work-item has many of, and of the last, which are few; the left side in two parts."""
    check(bench, (13, 37, 2570), stored, "Geglu", add=True, k1=k1, panels=True, bits=bits)


@pytest.mark.parametrize(
    "tuning", [{"V": 4}, {"V": 8, "NV": 2}, {"NV": 1, "MB": 1}, {"MR": 4, "KC": 16, "X": 8, "Y": 4}], ids=str
)
@pytest.mark.parametrize("bits", FEW_BITS)
def test_few_bits_however_they_are_cut(bench: Bench, bits, tuning):
    check(bench, (17, 83, 150), "f16", "Geglu", k1=70, tuning=tuning, panels=True, bits=bits)


@pytest.mark.parametrize("bits", FEW_BITS)
def test_few_bits_on_phones(phone_bench: Bench, bits):
    check(phone_bench, (9, 21, 70), "f16", "Geglu", k1=40, tuning={"V": 4, "X": 8}, panels=True, bits=bits)


@pytest.mark.parametrize("activation", ["", "Silu", "Geglu"])
def test_without_a_bias(bench: Bench, activation):
    check(bench, (9, 33, 40), "f32", activation, bias=False, add=True)


@pytest.mark.parametrize("k1", [1, 16, 40, 128, 299])
@pytest.mark.parametrize("stored", STORED)
def test_two_parts(bench: Bench, stored, k1):
    check(bench, (15, 70, 300), stored, k1=k1)
    check(bench, (15, 5, 300), stored, "Geglu", k1=k1, add=True)  # too narrow for a vector


@pytest.mark.parametrize("n", [1, 3, 15])
@pytest.mark.parametrize("stored", STORED)
def test_a_weight_padded_to_one_vector(bench: Bench, stored, n):
    check(bench, (17, n, 150), stored, "Silu", pad=16, add=True)


@pytest.mark.parametrize("stored, tuning", tunings(KERNEL))
def test_tunings(bench: Bench, stored, tuning):
    check(bench, (61, 83, 150), stored, "Geglu", add=True, tuning=tuning)
    check(bench, (61, 83, 150), stored, "Gelu", k1=70, tuning=tuning)
    check(bench, (61, 83, 150), stored, "Geglu", k1=70, tuning=tuning, panels=True)
    check(bench, (9, 3, 150), stored, tuning=tuning, panels=True)


@pytest.mark.parametrize("size", [(1, 1, 1), (7, 16, 20), (13, 65, 129), (50, 192, 40)], ids=str)
@pytest.mark.parametrize("panels", [0, 1])
@pytest.mark.parametrize("activation", ["", "Geglu"])
@pytest.mark.parametrize("stored", STORED)
def test_over_the_residual(bench: Bench, stored, activation, panels, size):
    m, n, k = size
    columns = n * (2 if activation else 1)
    x, weight, bias, residual = (
        values("normal", s, stored, i) for i, s in enumerate(((m, k), (k, columns), (1, columns), (m, n)))
    )
    tile, ldb = KERNEL.tuning(), columns
    if panels:
        width, halves = tile["V"] * tile["NV"], 2 if activation else 1
        weight, bias = in_panels(weight, width, halves), in_panels(bias, width, halves)
        ldb = weight.shape[0] * width
    dims = {"batch": 1, "m": m, "n": n, "k": k, "k1": k, "ldb": ldb, "a_batch": 0, "b_batch": 0} | DENSE
    built = {"F16": int(stored == "f16"), "PANELS": panels} | defines(activation, True, False, True)
    done = assert_same_in_place(bench, KERNEL, [x, x, weight, bias, x, residual, x], ((m, n), x.dtype), dims, **built)
    assert done == (panels == 1 or n % 64 == 0)  # else some columns are computed twice
