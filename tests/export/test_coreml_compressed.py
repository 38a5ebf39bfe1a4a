"""Weights of few bits in Core ML packages: what bundles would have, and tables close to the best there are."""

import numpy as np
import pytest
from mil_packages import load, mb, save_package, types

from ondevice.errors import GraphError
from ondevice.export.coreml.compressed import WEIGHTS, compressed
from ondevice.export.coreml.palette import k_means, palettized
from ondevice.lower.quantize import int4_scales, int4_values, int8_scales, int8_values

RNG = np.random.default_rng(0)
LINEAR, CONV = (RNG.standard_normal(shape, dtype=np.float32) / 8 for shape in ((40, 128), (24, 64, 3, 2)))
CONV[3] = 0
CONV[:, :32] = np.abs(CONV[:, :32])  # groups whose scale is negative in bundles


def by_columns(weight):
    """As bundles have it: [taps x inputs, outputs]."""
    return np.moveaxis(weight.reshape(*weight.shape[:2], -1), 2, 0).transpose(0, 2, 1).reshape(-1, len(weight))


def in_bundles(weight, weights):
    rows = by_columns(weight)
    if weights == "int8":
        found = int8_values(rows) * int8_scales(rows)
    else:
        scales = int4_scales(rows).astype(np.float16).astype(np.float32)
        found = (int4_values(rows).astype(np.float32) - 8) * scales.repeat(32, 0)
    taps = found.reshape(-1, weight.shape[1], len(weight))
    return np.moveaxis(taps, (0, 1), (2, 1)).reshape(weight.shape)


def widened(tmp_path, stored, ios):
    """The weight as a saved package has it."""

    def build(x):
        constants = {n: s.array.astype(types.string_to_nptype(s.dtype)) for n, s in stored.parameters.items()}
        constants = {n: a if a.ndim else a[()] for n, a in constants.items()}
        return [mb.mul(x=getattr(mb, stored.op)(**constants), y=x, name="y")]

    one = np.ones(1, np.float32)
    return load(save_package(tmp_path / "a.mlpackage", build, {"x": one}, ios=ios)).run({"x": one})["y"]


@pytest.mark.parametrize("weight", [LINEAR, CONV], ids=["linear", "conv"])
@pytest.mark.parametrize("weights, ios", [("int8", 17), ("int8", 18), ("int4", 18)])
def test_whole_numbers_are_those_of_bundles(tmp_path, weights, ios, weight):
    stored = compressed(weight, weights, "fp32", ios)
    np.testing.assert_array_equal(widened(tmp_path, stored, ios), in_bundles(weight, weights))
    if weights == "int4":
        assert (stored.parameters["scale"].array > 0).all()
        assert set(np.unique(stored.parameters["offset"].array)) == {7, 8}


# root of the mean squared error of as many best-placed levels for a normal distribution (Max, 1960)
MAX_1960 = {4: np.sqrt(0.009497), 6: np.sqrt(0.000648), 8: 0.00645}


@pytest.mark.parametrize("weight", [LINEAR, CONV[:, 32:]], ids=["linear", "conv"])
@pytest.mark.parametrize("ios", [17, 18])
@pytest.mark.parametrize("bits", [4, 6, 8])
def test_palettes_come_back_from_the_file(tmp_path, bits, ios, weight):
    which, table = palettized(weight, bits)
    found = widened(tmp_path, compressed(weight, f"pal{bits}", "fp32", ios), ios)
    np.testing.assert_array_equal(found, table[which])
    error = np.abs(found - weight)
    assert (error <= np.abs(weight[..., None] - table).min(-1) + 1e-4).all(), "each has its nearest value"
    assert np.sqrt((error**2).mean()) <= 1.1 * MAX_1960[bits] / 8


def exact(numbers, counts, size):
    """The least sum of squared distances, by dynamic programming."""
    many, first, second = (np.concatenate([[0], np.cumsum(counts * numbers**power)]) for power in (0, 1, 2))
    cost = np.full((len(numbers) + 1,) * 2, np.inf)
    for start in range(len(numbers)):
        n, s, q = (x[start + 1 :] - x[start] for x in (many, first, second))
        cost[start, start + 1 :] = q - s**2 / n
    best = np.where(np.arange(len(cost)) == 0, 0, np.inf)
    for _ in range(size):
        best = (best[:, None] + cost).min(0)
    return best[-1]


SAMPLES = {
    "normal": RNG.standard_normal(300),
    "long tails": RNG.standard_t(3, 300),
    "two heaps": RNG.standard_normal(300) / 10 + RNG.integers(0, 2, 300) * 5,
    "whole numbers": RNG.integers(-20, 20, 300).astype(float),
}


@pytest.mark.parametrize("size", [4, 16, 64])
@pytest.mark.parametrize("sample", SAMPLES)
def test_tables_are_close_to_the_best(sample, size):
    numbers, counts = np.unique(np.round(SAMPLES[sample], 3), return_counts=True)
    table = k_means(numbers, counts, size)
    distance = (counts * ((numbers[:, None] - table) ** 2).min(1)).sum()
    assert len(table) == size and (np.diff(table) >= 0).all()
    assert distance <= 1.12 * exact(numbers, counts, size) + 1e-12


def test_small_weights_stay_and_odd_ones_are_int8():
    assert all(compressed(LINEAR[:8], weights, "fp16", 18) is None for weights in WEIGHTS)
    odd = compressed(np.ones((64, 72), np.float32), "int4", "fp16", 18)
    assert odd.parameters["data"].dtype == "int8" and odd.parameters["scale"].array.dtype == np.float16


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(weights, broken):
    weight = LINEAR.copy()
    weight[1, 2] = broken
    with pytest.raises(GraphError, match=r"^holds .*Fix: use another checkpoint: this one is broken\.$"):
        compressed(weight, weights, "fp16", 18)
