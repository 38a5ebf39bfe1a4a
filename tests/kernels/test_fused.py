"""Kernels of the fused ops against NumPy in float64."""

import math

import numpy as np
import pytest
from kernels.bench import STORED, Bench, exact, tunings, values
from tolerance import EPS, TINY, assert_close, rtol

from ondevice.lower.kernel_file import load_all

pytestmark = pytest.mark.device
KERNELS = load_all()
EPSILON = 1e-5
erf = np.vectorize(math.erf, otypes=[np.float64])


def half(stored):
    return int(stored == "f16")


# Group norm -----------------------------------------------------------------------------------------------------------

GROUPS = [(1, 1, 1, 1), (2, 6, 3, 5), (1, 4, 4, 16), (3, 10, 5, 17), (2, 12, 2, 131), (1, 8, 1, 1031)]  # n, channels, groups, hw


def group_norm(bench, x, scale, bias, groups, stored, silu, tuning=None):
    n, channels, hw = x.shape
    per_group = channels // groups
    sizes = {"rows": n * groups, "cols": per_group * hw, "hw": hw, "channels": channels, "per_group": per_group, "epsilon": EPSILON}
    return bench.run(KERNELS["group_norm"], [x, scale, bias], (x.shape, x.dtype), sizes, tuning, F16=half(stored), SILU=silu)


def check_group_norm(bench, x, groups, stored, silu, tuning=None):
    scale, bias = values("normal", (x.shape[1],), stored, 1), values("normal", (x.shape[1],), stored, 2)
    got = group_norm(bench, x, scale, bias, groups, stored, silu, tuning)
    data, gain, shift = exact(x, scale, bias)
    rows = data.reshape(len(x), groups, -1)
    centred = rows - rows.mean(-1, keepdims=True)
    normal = (centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)).reshape(x.shape)
    want = normal * gain[:, None] + shift[:, None]
    size = np.abs(normal * gain[:, None]) + np.abs(shift[:, None])
    if silu:
        want = want / (1 + np.exp(-want))
    terms = rows.shape[-1]
    bound = EPS[stored] * np.abs(want) + TINY[stored] + rtol("f32", terms) * (size + np.abs(gain[:, None])) * 4
    assert_close(got, want, bound, f"group_norm {x.shape} in {groups}")


@pytest.mark.parametrize("silu", [0, 1])
@pytest.mark.parametrize("size", GROUPS, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_group_norm(bench: Bench, size, stored, silu):
    n, channels, groups, hw = size
    check_group_norm(bench, values("normal", (n, channels, hw), stored), groups, stored, silu)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["group_norm"]))
def test_group_norm_tunings(bench: Bench, stored, tuning):
    check_group_norm(bench, values("normal", (2, 6, 77), stored), 3, stored, 1, tuning)


def test_group_norm_of_a_mean_far_above_the_deviation(bench: Bench):
    x = values("normal", (1, 4, 257), "f32") + np.float32(4096)
    check_group_norm(bench, x, 2, "f32", 0)


def test_group_norm_of_equal_values_is_the_bias(bench: Bench):
    x, scale, bias = values("equal", (1, 4, 33), "f32"), values("normal", (4,), "f32", 1), values("normal", (4,), "f32", 2)
    np.testing.assert_array_equal(group_norm(bench, x, scale, bias, 2, "f32", 0), np.broadcast_to(bias[:, None], x.shape))


# Activations ----------------------------------------------------------------------------------------------------------

ACTIVATIONS = {
    "Silu": lambda x: x / (1 + np.exp(-x)),
    "Gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "GeluTanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "QuickGelu": lambda x: x / (1 + np.exp(-1.702 * x)),
}


def activation_bound(x, want, stored):
    """The function's argument is rounded, which exp magnifies by its size."""
    return EPS[stored] * np.abs(want) + TINY[stored] + EPS["f32"] * np.abs(x) * (16 + 4 * np.minimum(np.abs(x), 100))


@pytest.mark.parametrize("op", ACTIVATIONS)
@pytest.mark.parametrize("n", [1, 15, 17, 300])
@pytest.mark.parametrize("stored", STORED)
def test_activations(bench: Bench, op, n, stored):
    x = (values("normal", (n,), stored) * STORED[stored](4)).astype(STORED[stored])
    got = bench.run(KERNELS["unary"], [x], ((n,), x.dtype), {"n": n}, F16=half(stored), **{f"OP_{op}": 1})
    data = x.astype(np.float64)
    want = ACTIVATIONS[op](data)
    assert_close(got, want, activation_bound(data, want, stored), op)


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activations_of_large_values_stay_finite(bench: Bench, op):
    x = np.array([-65504, -100, 0, 100, 65504], np.float32)
    got = bench.run(KERNELS["unary"], [x], ((5,), x.dtype), {"n": 5}, F16=0, **{f"OP_{op}": 1})
    np.testing.assert_allclose(got, [0, 0, 0, 100, 65504], atol=1e-30)


def geglu(bench, x, stored, tuning=None):
    rows, cols = x.shape[0], x.shape[1] // 2
    got = bench.run(KERNELS["geglu"], [x], ((rows, cols), x.dtype), {"rows": rows, "cols": cols}, tuning, F16=half(stored))
    value, gate = np.split(x.astype(np.float64), 2, axis=1)
    want = value * ACTIVATIONS["Gelu"](gate)
    bound = EPS[stored] * np.abs(want) + TINY[stored] + np.abs(value) * activation_bound(gate, want * 0, "f32")
    assert_close(got, want, bound, f"geglu {x.shape}")


@pytest.mark.parametrize("size", [(1, 1), (3, 15), (2, 17), (5, 131), (2, 300)], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_geglu(bench: Bench, size, stored):
    geglu(bench, values("normal", (size[0], 2 * size[1]), stored), stored)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["geglu"]))
def test_geglu_tunings(bench: Bench, stored, tuning):
    geglu(bench, values("normal", (3, 2 * 77), stored), stored, tuning)


# Attention ------------------------------------------------------------------------------------------------------------

# batch, queries, keys, heads, d
HEADS = [
    (1, 1, 1, 1, 1),
    (2, 5, 3, 3, 7),
    (1, 16, 16, 2, 16),
    (1, 17, 77, 3, 40),
    (2, 33, 33, 2, 24),
    (1, 7, 130, 1, 160),
    (1, 3, 9, 1, 512),
]


def attention(bench, q, k, v, heads, stored, mask=None, tuning=None):
    batch, queries, width = q.shape
    d = width // heads
    dims = {"batch": batch, "queries": queries, "keys": k.shape[1], "heads": heads, "scale": d**-0.5}
    op = "Attention" if mask is None else "MaskedAttention"
    inputs = [q, k, v, q if mask is None else mask]
    return bench.run(KERNELS["attention"], inputs, (q.shape, q.dtype), dims, tuning, F16=half(stored), D=d, **{f"OP_{op}": 1})


def check_attention(bench, sizes, stored, mask=None, tuning=None, spread=1.0):
    batch, queries, keys, heads, d = sizes
    q, k, v = (values("normal", (batch, n, heads * d), stored, seed) for seed, n in enumerate((queries, keys, keys)))
    q = (q * STORED[stored](spread)).astype(STORED[stored])
    got = attention(bench, q, k, v, heads, stored, mask, tuning)
    eq, ek, ev = (a.reshape(batch, -1, heads, d).transpose(0, 2, 1, 3) for a in exact(q, k, v))
    scores = eq @ ek.transpose(0, 1, 3, 2) * d**-0.5
    sizes_of_scores = np.abs(eq) @ np.abs(ek).transpose(0, 1, 3, 2) * d**-0.5
    if mask is not None:
        scores = scores + mask.astype(np.float64)
    top = scores.max(-1, keepdims=True)
    powers = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = powers.sum(-1, keepdims=True)
    weights = powers / np.where(total == 0, 1, total)
    want = (weights @ ev).transpose(0, 2, 1, 3).reshape(q.shape)
    # A weight is off by the error of its score; the mixture by that, times the values it mixes.
    wrong = rtol("f32", d) * sizes_of_scores.max(-1, keepdims=True) * 2 + rtol("f32", keys) * 4
    size = (weights @ np.abs(ev) * wrong).transpose(0, 2, 1, 3).reshape(q.shape)
    assert_close(got, want, EPS[stored] * np.abs(want) + TINY[stored] + size * 2, f"attention {sizes}")


@pytest.mark.parametrize("sizes", HEADS, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_attention(bench: Bench, sizes, stored):
    check_attention(bench, sizes, stored)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["attention"]))
def test_attention_tunings(bench: Bench, stored, tuning):
    check_attention(bench, (2, 19, 21, 3, 10), stored, tuning=tuning)


@pytest.mark.parametrize("stored", STORED)
def test_attention_with_scores_far_apart(bench: Bench, stored):
    check_attention(bench, (1, 18, 40, 2, 8), stored, spread=30.0)


@pytest.mark.parametrize("stored", STORED)
def test_attention_with_a_causal_mask(bench: Bench, stored):
    mask = np.triu(np.full((77, 77), -np.inf), 1).astype(STORED[stored])
    check_attention(bench, (2, 77, 77, 3, 12), stored, mask)


def test_a_query_that_may_see_nothing_attends_to_nothing(bench: Bench):
    mask = np.zeros((5, 9), np.float32)
    mask[2] = -np.inf
    mask[3, :8] = -np.inf
    check_attention(bench, (1, 5, 9, 2, 4), "f32", mask)
    q = values("normal", (1, 5, 8), "f32")
    k = values("normal", (1, 9, 8), "f32")
    assert (attention(bench, q, k, k, 2, "f32", mask)[0, 2] == 0).all()
