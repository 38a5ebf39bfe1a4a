"""Attention to few keys in one command whose products are in bf16, against NumPy in float64, in every spelling of the
words of matrix.h."""

import numpy as np
import pytest
from kernels.bench import STORED, Bench, tunings, values
from kernels.cpu.test_flash_matrix import wanted
from tolerance import EPS, TINY, assert_close

from ondevice.lower.kernel_file import load_all

pytestmark = pytest.mark.device
NEAR = load_all()["flash_near_bf16"]

# batch, queries, keys, heads, d: the fewest keys; no whole pair, vector or block of any; a text's keys, an 8x8
# picture's, one more than whole vectors and blocks have; the most; every head size of SD 1; the widest.
SIZES = [
    (1, 1, 33, 1, 1),
    (2, 5, 35, 3, 7),
    (1, 29, 77, 3, 40),
    (2, 33, 49, 2, 24),
    (1, 64, 64, 2, 160),
    (1, 101, 65, 1, 80),
    (1, 13, 97, 2, 33),
    (1, 500, 128, 1, 17),
    (1, 9, 40, 1, 512),
]


def attend(bench, q, k, v, heads, scale, tuning=None, **rows):
    """`rows`: where q, k and v are parts of wider rows, of heads of `d` columns."""
    batch, queries, width = q.shape
    d = rows.pop("d", width // heads)
    dims = {"batch": batch, "queries": queries, "keys": k.shape[1], "heads": heads, "scale": scale}
    dims |= {"q_row": width, "k_row": width, "v_row": width, "q_from": 0, "k_from": 0, "v_from": 0} | rows
    built = {"F16": int(q.dtype == np.float16), "D": d, "KEYS": k.shape[1], "MATH_bf16": 1}
    return bench.run(NEAR, [q, k, v], ((batch, queries, heads * d), q.dtype), dims, tuning, **built)


def check(bench, sizes, stored, tuning=None, spread=1.0):
    batch, queries, keys, heads, d = sizes
    q, k, v = (values("normal", (batch, n, heads * d), stored, seed) for seed, n in enumerate((queries, keys, keys)))
    q = (q * STORED[stored](spread)).astype(STORED[stored])
    want, wrong = wanted(q, k, v, heads, d**-0.5)
    got = attend(bench, q, k, v, heads, d**-0.5, tuning)
    assert_close(got, want, EPS[stored] * np.abs(want) + TINY[stored] + wrong, f"flash_near_bf16 {sizes}")


@pytest.mark.parametrize("number", range(len(SIZES)))
def test_attention(bench: Bench, number):
    check(bench, SIZES[number], ("f32", "f16")[number % 2])


@pytest.mark.parametrize("sizes", [(1, 35, 77, 2, 40), (2, 13, 50, 2, 24)], ids=str)
def test_each_spelling(spelled: Bench, sizes):
    check(spelled, sizes, "f32")


@pytest.mark.parametrize("stored, tuning", tunings(NEAR))
def test_tunings(bench: Bench, stored, tuning):
    check(bench, (1, 203, 77, 2, 40), stored, tuning)


def test_scores_far_apart_and_far_below_zero(bench: Bench):
    """Their powers would be nothing, or infinite, if they were not taken from the row's own maximum."""
    check(bench, (1, 18, 77, 2, 8), "f32", spread=60.0)
    q, k, v = (values("normal", (1, 33, 16), "f32", seed) for seed in range(3))
    q[..., 0], k[..., 0] = 40.0, -40.0
    want, wrong = wanted(q, k, v, 1, 1.0)
    assert_close(attend(bench, q, k, v, 1, 1.0), want, wrong, "far below")


@pytest.mark.parametrize("operand", ["q", "k", "v"])
def test_it_hides_no_nan(bench: Bench, operand):
    given = {name: values("normal", (1, 41, 16), "f32", seed) for seed, name in enumerate("qkv")}
    given[operand][0, 9, 3] = np.nan
    seen = np.isnan(attend(bench, *given.values(), 1, 0.25))
    assert seen[0, 9].all() if operand == "q" else seen.all() if operand == "k" else seen[..., 3].all()
    if operand == "q":
        assert not seen[0, :9].any()


@pytest.mark.parametrize("stored", STORED)
def test_parts_of_rows(bench: Bench, stored):
    """q, k and v as columns of one product: the same numbers as apart."""
    heads, d, tokens = 2, 12, 39
    width = heads * d
    whole = values("normal", (2, tokens, 3 * width), stored)
    rows = {"k_from": width, "v_from": 2 * width}
    apart = (np.ascontiguousarray(part) for part in np.split(whole, 3, axis=2))
    got = attend(bench, whole, whole, whole, heads, 0.3, d=d, **rows)
    np.testing.assert_array_equal(got, attend(bench, *apart, heads, 0.3))
