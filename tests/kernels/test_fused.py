"""Kernels of the fused ops against NumPy in float64."""

import math

import numpy as np
import pytest
from kernels.bench import STORED, Bench, exact, tunings, tunings_of, values
from tolerance import EPS, TINY, assert_close, in_half, rtol

from ondevice.lower.kernel_file import load_all
from ondevice.lower.tunables import used

pytestmark = pytest.mark.device
KERNELS = load_all()
EPSILON = 1e-5
erf = np.vectorize(math.erf, otypes=[np.float64])


def half(stored):
    return int(stored == "f16")


# Group norm -----------------------------------------------------------------------------------------------------------

# n, channels, groups, hw
GROUPS = [(1, 1, 1, 1), (2, 6, 3, 5), (1, 4, 4, 16), (3, 10, 5, 17), (2, 12, 2, 131), (1, 8, 1, 1031)]


def group_norm(bench, x, scale, bias, groups, stored, silu, tuning=None):
    n, channels, hw = x.shape
    per_group = channels // groups
    sizes = {
        "rows": n * groups,
        "cols": per_group * hw,
        "hw": hw,
        "channels": channels,
        "per_group": per_group,
        "epsilon": EPSILON,
    }
    return bench.run(
        KERNELS["group_norm"], [x, scale, bias], (x.shape, x.dtype), sizes, tuning, F16=half(stored), ACT_Silu=silu
    )


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
    x, scale, bias = (
        values("equal", (1, 4, 33), "f32"),
        values("normal", (4,), "f32", 1),
        values("normal", (4,), "f32", 2),
    )
    np.testing.assert_array_equal(
        group_norm(bench, x, scale, bias, 2, "f32", 0), np.broadcast_to(bias[:, None], x.shape)
    )


# Activations ----------------------------------------------------------------------------------------------------------

ACTIVATIONS = {
    "Silu": lambda x: x / (1 + np.exp(-x)),
    "Gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "GeluTanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "QuickGelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "Relu": lambda x: np.maximum(x, 0),
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


def test_a_relu_hides_no_nan(bench: Bench):
    x = np.array([np.nan, -1, np.inf, -np.inf] * 5, np.float32)  # in a vector, and after the last one
    got = bench.run(KERNELS["unary"], [x], ((20,), x.dtype), {"n": 20}, F16=0, OP_Relu=1)
    np.testing.assert_array_equal(got, [np.nan, 0, np.inf, 0] * 5)


def geglu(bench, x, stored, tuning=None):
    rows, cols = x.shape[0], x.shape[1] // 2
    got = bench.run(
        KERNELS["geglu"], [x], ((rows, cols), x.dtype), {"rows": rows, "cols": cols}, tuning, F16=half(stored)
    )
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


FLASH, PARTIAL = ("flash_attention",), ("attention_scores", "softmax_stats", "attention_mix")
ROWS, NEAR = ("flash_rows",), ("flash_near",)  # of few keys, and of some more, without a mask


def masks(mask):
    """Defines of a mask [queries, keys], [1, keys] or [heads, queries, keys]."""
    if mask is None:
        return {"MASKED": 0}
    return {"MASKED": 1, "HEAD_MASKS": int(mask.ndim == 3), "ROW_MASK": int(mask.shape[-2] == 1)}


def attention(bench, q, k, v, heads, stored, mask=None, tuning=None, way=FLASH):
    """`way`: the kernel that does all, or the three of partially fused softmax; `tuning`: by kernel."""
    batch, queries, width = q.shape
    if len(way) == 3:
        return partial_softmax(bench, q, k, v, heads, stored, mask, tuning or {}, way)
    d = width // heads
    sizes = {"batch": batch, "queries": queries, "keys": k.shape[1], "heads": heads, "scale": d**-0.5}
    dims = sizes | {"q_row": width, "k_row": width, "v_row": width, "q_from": 0, "k_from": 0, "v_from": 0}
    inputs, built = [q, k, v, q if mask is None else mask], {"D": d} | masks(mask)
    if way in (ROWS, NEAR):
        inputs, built = [q, k, v], {"D": d, "KEYS": k.shape[1]}
    tuned = (tuning or {}).get(way[0])
    return bench.run(KERNELS[way[0]], inputs, (q.shape, q.dtype), dims, tuned, F16=half(stored), **built)


def partial_softmax(bench, q, k, v, heads, stored, mask, tuning, way, band=2):
    """Scores, statistics, mix: `band` heads at a time, each band's part of the output checked
    to be written by it alone."""
    (batch, queries, width), keys = q.shape, k.shape[1]
    d, scale = width // heads, (width // heads) ** -0.5
    first_kernel, second, third = (KERNELS[name] for name in way)
    whole = np.zeros_like(q)
    for first in range(0, batch * heads, band):
        count = min(band, batch * heads - first)
        sizes = {"queries": queries, "keys": keys, "heads": heads, "first": first, "count": count, "columns": d}
        rows = {"q_row": width, "k_row": width, "v_row": width, "q_from": 0, "k_from": 0, "v_from": 0, "scale": scale}
        common, about = {"F16": half(stored), "D": d}, ((count, queries, 2), np.float32)
        inputs, shape = [q, k, q if mask is None else mask], ((count, queries, keys), q.dtype)
        built = common | masks(mask)
        scores = bench.run(first_kernel, inputs, shape, sizes | rows, tuning.get(way[0]), **built)
        dims = {"rows": count * queries, "cols": keys}
        stats = bench.run(second, [scores], about, dims, tuning.get(way[1]), F16=half(stored))
        part = bench.run(third, [scores, stats, v], (q.shape, q.dtype), sizes | rows, tuning.get(way[2]), **common)
        masked = np.zeros((batch, heads), bool)
        masked.reshape(-1)[first : first + count] = True
        split = part.reshape(batch, queries, heads, d)
        assert np.isnan(split.transpose(0, 2, 1, 3)[~masked]).all(), "a band wrote another's heads"
        whole.reshape(batch, queries, heads, d).transpose(0, 2, 1, 3)[masked] = split.transpose(0, 2, 1, 3)[masked]
    return whole


TERMS = 32  # of a sum that are added in half, where products are


def check_attention(bench, sizes, stored, mask=None, tuning=None, spread=1.0, way=FLASH):
    batch, queries, keys, heads, d = sizes
    q, k, v = (values("normal", (batch, n, heads * d), stored, seed) for seed, n in enumerate((queries, keys, keys)))
    q = (q * STORED[stored](spread)).astype(STORED[stored])
    got = attention(bench, q, k, v, heads, stored, mask, tuning, way)
    in_halves = "HALF" in used(KERNELS[way[0]], bench.target, stored == "f16")
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
    if len(way) == 3:  # its scores are stored: their rounding is an error of a weight's exponent
        finite = np.where(np.isfinite(scores), np.abs(scores), 0).max(-1, keepdims=True)
        wrong = wrong + finite * 2 * EPS[stored]
    size = weights @ np.abs(ev) * wrong
    if in_halves:  # queries and weights are rounded too; the largest weight is 1 while they are summed
        off = in_half(min(TERMS, -(-d // 4)) + 1, sizes_of_scores).max(-1, keepdims=True)
        size = size + weights @ np.abs(ev) * off + in_half(TERMS + 1, weights @ np.abs(ev))
        size = size + keys * TINY["f16"] * (1 + np.abs(ev).max(-2, keepdims=True))
    size = size.transpose(0, 2, 1, 3).reshape(q.shape)
    assert_close(got, want, EPS[stored] * np.abs(want) + TINY[stored] + size * 2, f"{way[0]} {sizes}")


@pytest.mark.parametrize("cols", [5, 16, 37])
def test_statistics_of_scores_far_below_zero(bench: Bench, cols):
    """Their powers would be nothing if they were not taken from the row's own maximum."""
    scores = values("normal", (3, cols), "f32") - 500
    stats = bench.run(KERNELS["softmax_stats"], [scores], ((3, 2), np.float32), {"rows": 3, "cols": cols}, F16=0)
    top = scores.max(-1)
    np.testing.assert_array_equal(stats[:, 0], top)
    np.testing.assert_allclose(stats[:, 1], 1 / np.exp(scores - top[:, None]).sum(-1), rtol=1e-5)


WAYS = pytest.mark.parametrize("way", [FLASH, PARTIAL], ids=["flash", "partial"])


@WAYS
@pytest.mark.parametrize("sizes", HEADS, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_attention(bench: Bench, sizes, stored, way):
    check_attention(bench, sizes, stored, way=way)


@pytest.mark.parametrize("name, stored, tuning", tunings_of(KERNELS, PARTIAL))
def test_partially_fused_tunings(bench: Bench, name, stored, tuning):
    check_attention(bench, (2, 19, 21, 3, 10), stored, tuning={name: tuning}, way=PARTIAL)
    check_attention(bench, (1, 37, 83, 2, 40), stored, tuning={name: tuning}, way=PARTIAL)


def check_parts_of_rows(bench, name, stored, tokens=19, keys=7):
    """q, k and v as columns of one product, and k and v of another: the same numbers as apart."""
    heads, d, batch = 2, 12, 2
    width = heads * d
    wide, pair = (
        values("normal", (batch, tokens, 3 * width), stored),
        values("normal", (batch, keys, 2 * width), stored, 1),
    )
    q, k, v = (np.ascontiguousarray(part) for part in np.split(wide, 3, axis=2))
    sizes = {"batch": batch, "queries": tokens, "heads": heads, "scale": 0.3, "q_row": 3 * width, "q_from": 0}
    own = sizes | {"keys": tokens, "k_row": 3 * width, "v_row": 3 * width, "k_from": width, "v_from": 2 * width}
    other = sizes | {"keys": keys, "k_row": 2 * width, "v_row": 2 * width, "k_from": 0, "v_from": width}
    apart = sizes | {"q_row": width, "k_row": width, "v_row": width, "k_from": 0, "v_from": 0}
    for inputs, dims, rows in (
        ((wide, wide, wide), own, (q, k, v)),
        ((wide, pair, pair), other, (q, *(np.ascontiguousarray(part) for part in np.split(pair, 2, axis=2)))),
    ):
        few = (name,) in (ROWS, NEAR)
        settings = {"F16": half(stored), "D": d} | ({"KEYS": dims["keys"]} if few else {})
        given, count = apart | {"keys": rows[1].shape[1]}, 3 if few else 4
        got = bench.run(KERNELS[name], [*inputs, wide][:count], (q.shape, q.dtype), dims, **settings)
        want = bench.run(KERNELS[name], [*rows, q][:count], (q.shape, q.dtype), given, **settings)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("stored", STORED)
def test_attention_over_parts_of_rows(bench: Bench, stored):
    check_parts_of_rows(bench, "flash_attention", stored)
    check_parts_of_rows(bench, "flash_rows", stored)
    check_parts_of_rows(bench, "flash_near", stored, tokens=39, keys=35)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["flash_attention"]))
def test_attention_tunings(bench: Bench, stored, tuning):
    check_attention(bench, (2, 19, 21, 3, 10), stored, tuning={"flash_attention": tuning})


# one of each; fewer than a vector, exactly so many, one more, of keys and of a head's columns; the most, a film's
FEW = [(1, 1, 1, 1, 1), (2, 5, 3, 3, 7), (1, 17, 16, 2, 16), (2, 19, 17, 2, 17), (1, 9, 32, 3, 40), (3, 14, 14, 2, 64)]


@pytest.mark.parametrize("number", range(len(FEW)))
def test_attention_to_few_keys(bench: Bench, number):
    check_attention(bench, FEW[number], ("f32", "f16")[number % 2], way=ROWS)
    check_attention(bench, FEW[number], "f32", spread=30.0, way=ROWS)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["flash_rows"]))
def test_tunings_of_attention_to_few_keys(bench: Bench, stored, tuning):
    check_attention(bench, (2, 67, 21, 3, 10), stored, tuning={"flash_rows": tuning}, way=ROWS)
    check_attention(bench, (1, 67, 31, 2, 40), stored, tuning={"flash_rows": tuning}, way=ROWS)


# the fewest keys; heads narrower than a vector, no whole ones, and of 1, 2, 3, 5 and 7 vectors, the widest; queries
# beyond a work-item's; a text's keys, an 8x8 picture's, one more than whole tiles have; the most
SOME = [(1, 1, 33, 1, 1), (2, 35, 33, 3, 7), (2, 70, 77, 2, 40), (1, 64, 64, 2, 160), (1, 33, 41, 2, 24)]
SOME += [(2, 19, 39, 2, 80), (1, 530, 128, 1, 16), (1, 5, 65, 1, 112), (1, 9, 77, 1, 512)]


@pytest.mark.parametrize("number", range(len(SOME)))
def test_attention_to_some_keys(bench: Bench, number):
    check_attention(bench, SOME[number], ("f32", "f16")[number % 2], way=NEAR)
    check_attention(bench, SOME[number], ("f16", "f32")[number % 2], spread=30.0, way=NEAR)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["flash_near"]))
def test_tunings_of_attention_to_some_keys(bench: Bench, stored, tuning):
    check_attention(bench, (2, 67, 45, 3, 10), stored, tuning={"flash_near": tuning}, way=NEAR)
    check_attention(bench, (1, 67, 77, 2, 40), stored, tuning={"flash_near": tuning}, way=NEAR)


@pytest.mark.parametrize("way, tokens", [(ROWS, 21), (NEAR, 41)], ids=["rows", "near"])
@pytest.mark.parametrize("operand", ["q", "k", "v"])
def test_attention_to_few_keys_hides_no_nan(bench: Bench, operand, way, tokens):
    given = {name: values("normal", (1, tokens, 16), "f32", seed) for seed, name in enumerate("qkv")}
    given[operand][0, 9, 3] = np.nan
    got = np.isnan(attention(bench, *given.values(), 1, "f32", way=way))
    assert got[0, 9].all() if operand == "q" else got.all() if operand == "k" else got[..., 3].all()
    if operand == "q":
        assert not got[0, :9].any()


@pytest.mark.parametrize("stored", STORED)
def test_attention_with_a_head_as_wide_as_the_decoders(bench: Bench, stored):
    check_attention(bench, (1, 70, 67, 1, 512), stored, tuning={"flash_attention": {"SETS": 4}})


@WAYS
@pytest.mark.parametrize("stored", STORED)
def test_attention_with_scores_far_apart(bench: Bench, stored, way):
    check_attention(bench, (1, 18, 40, 2, 8), stored, spread=30.0, way=way)


@WAYS
@pytest.mark.parametrize("stored", STORED)
def test_attention_with_a_causal_mask(bench: Bench, stored, way):
    mask = np.triu(np.full((77, 77), -np.inf), 1).astype(STORED[stored])
    check_attention(bench, (2, 77, 77, 3, 12), stored, mask, way=way)


@WAYS
@pytest.mark.parametrize("stored", STORED)
def test_attention_with_a_mask_of_numbers(bench: Bench, stored, way):
    check_attention(bench, (2, 19, 21, 3, 12), stored, values("normal", (19, 21), stored, 5), way=way)


@WAYS
@pytest.mark.parametrize("shape", [(3, 19, 21), (1, 21)], ids=["per head", "one row"])
@pytest.mark.parametrize("stored", STORED)
def test_attention_with_masks_of_other_shapes(bench: Bench, stored, shape, way):
    check_attention(bench, (2, 19, 21, 3, 12), stored, values("normal", shape, stored, 5), way=way)


@WAYS
def test_a_query_that_may_see_nothing_attends_to_nothing(bench: Bench, way):
    mask = np.zeros((5, 9), np.float32)
    mask[2] = -np.inf
    mask[3, :8] = -np.inf
    check_attention(bench, (1, 5, 9, 2, 4), "f32", mask, way=way)
    q = values("normal", (1, 5, 8), "f32")
    k = values("normal", (1, 9, 8), "f32")
    assert (attention(bench, q, k, k, 2, "f32", mask, way=way)[0, 2] == 0).all()
