"""FlashAttention whose products are in bf16: what it packs, and what it gives, against NumPy in float64, in every
spelling of the words of matrix.h."""

import numpy as np
import pytest
from kernels.bench import STORED, Bench, half, tunings, values
from kernels.matrix_units import MATHS, as_bf16
from tolerance import EPS, TINY, assert_close, rtol

from ondevice.lower.kernel_file import load_all
from ondevice.lower.program import MATH_EPS

pytestmark = pytest.mark.device
PACK, FLASH = (load_all()[name] for name in ("flash_panels", "flash_matrix"))

# batch, queries, keys, heads, d: one of each; no whole pair, vector or block of any; a text's 77 keys; every head size
# of the families; the decoder's 512. Fewer than 32 keys are flash_rows'.
SIZES = [
    (1, 1, 32, 1, 1),
    (2, 5, 35, 3, 7),
    (1, 17, 77, 3, 40),
    (2, 33, 33, 2, 24),
    (1, 50, 130, 2, 64),
    (1, 101, 77, 1, 80),
    (1, 7, 301, 1, 160),
    (1, 9, 40, 1, 512),
]


def packed(k, v, heads):
    """What `flash_panels` makes of k and v, [batch, keys, heads * d]: pairs of bf16, the first one in the low bits."""
    batch, keys, width = k.shape
    d, blocks = width // heads, -(-keys // 32)
    wide = -(-d // 32) * 32
    rows = np.zeros((2, batch, heads, blocks * 32, wide), np.float32)
    for to, x in zip(rows, (k, v), strict=True):
        to[:, :, :keys, :d] = as_bf16(x.astype(np.float32)).reshape(batch, keys, heads, d).transpose(0, 2, 1, 3)
    k_bits, v_bits = rows.view(np.uint32) >> 16
    k_pairs = (k_bits[..., ::2] | k_bits[..., 1::2] << 16).reshape(batch, heads, blocks, 32, wide // 2)
    v_pairs = (v_bits[..., ::2, :] | v_bits[..., 1::2, :] << 16).reshape(batch, heads, blocks, 16, wide // 32, 32)
    flat = [part.reshape(batch, heads, blocks, -1) for part in (k_pairs.swapaxes(-1, -2), v_pairs.swapaxes(-2, -3))]
    return np.concatenate(flat, -1).view(np.int32)


def pack(bench, k, v, heads, math="bf16", **rows):
    """The panels of k and v, [batch, keys, heads * d], or of parts of their rows."""
    batch, keys, width = k.shape
    dims = {"batch": batch, "keys": keys, "heads": heads, "k_row": width, "v_row": width, "k_from": 0, "v_from": 0}
    d = rows.pop("d", width // heads)
    shape = (batch, heads, -(-keys // 32), -(-d // 32) * 1024 * (1 + (math == "bf16x3")))
    built = {"F16": int(k.dtype == np.float16), "D": d, f"MATH_{math}": 1}
    return bench.run(PACK, [k, v], (shape, np.int32), dims | rows, **built)


def flash(bench, q, panels, keys, heads, scale, tuning=None, math="bf16"):
    batch, queries, width = q.shape
    dims = {"batch": batch, "queries": queries, "keys": keys, "heads": heads, "scale": scale}
    built = {"F16": int(q.dtype == np.float16), "D": width // heads, f"MATH_{math}": 1}
    dims |= {"q_row": width, "q_from": 0}
    return bench.run(FLASH, [q, panels], (q.shape, q.dtype), dims, tuning, **built)


def wanted(q, k, v, heads, scale, math="bf16"):
    """Attention of the operands as they are rounded, and how far what is rounded later may take it: with bf16 each
    weight, with bf16x3 all that is multiplied, by far less."""
    batch, _, width = q.shape
    d, log2_e, eps = width // heads, np.float32(1.4426950408889634), MATH_EPS[math]
    given = q.astype(np.float32) * (np.float32(scale) * log2_e), k.astype(np.float32), v.astype(np.float32)
    given = tuple(map(as_bf16, given)) if math == "bf16" else given
    eq, ek, ev = (x.astype(np.float64).reshape(batch, -1, heads, d).transpose(0, 2, 1, 3) for x in given)
    scores, sizes = eq @ ek.swapaxes(-1, -2), np.abs(eq) @ np.abs(ek).swapaxes(-1, -2)
    powers = np.exp2(scores - scores.max(-1, keepdims=True))
    weights = powers / powers.sum(-1, keepdims=True)
    off = eps + 4 * EPS["f32"] + 2 * rtol("f32", d) * sizes.max(-1, keepdims=True) + 4 * rtol("f32", k.shape[1])
    if math != "bf16":
        off = off + eps * (1 + 2 * sizes.max(-1, keepdims=True))
    wrong = weights @ np.abs(ev) * off
    return [x.transpose(0, 2, 1, 3).reshape(q.shape) for x in (weights @ ev, wrong)]


def check(bench, sizes, stored, tuning=None, spread=1.0, math="bf16"):
    batch, queries, keys, heads, d = sizes
    q, k, v = (values("normal", (batch, n, heads * d), stored, seed) for seed, n in enumerate((queries, keys, keys)))
    q, scale = (q * STORED[stored](spread)).astype(STORED[stored]), d**-0.5
    got = flash(bench, q, pack(bench, k, v, heads, math), keys, heads, scale, tuning, math)
    want, wrong = wanted(q, k, v, heads, scale, math)
    assert_close(got, want, EPS[stored] * np.abs(want) + TINY[stored] + wrong, f"flash_matrix {sizes}")


@pytest.mark.parametrize("number", range(len(SIZES)))
def test_attention(bench: Bench, number):
    check(bench, SIZES[number], ("f32", "f16")[number % 2])


@pytest.mark.parametrize("math", MATHS)
@pytest.mark.parametrize("sizes", [(1, 17, 77, 2, 40), (2, 35, 33, 2, 24)], ids=str)
def test_each_spelling(spelled: Bench, sizes, math):
    check(spelled, sizes, "f32", math=math)


@pytest.mark.parametrize("sizes", [(2, 35, 3, 7), (1, 77, 3, 40)], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_what_is_packed(bench: Bench, sizes, stored):
    batch, keys, heads, d = sizes
    k, v = (values("normal", (batch, keys, heads * d), stored, seed) for seed in (1, 2))
    np.testing.assert_array_equal(pack(bench, k, v, heads), packed(k, v, heads))


@pytest.mark.parametrize("stored, tuning", tunings(FLASH))
def test_tunings(bench: Bench, stored, tuning):
    check(bench, (1, 203, 301, 1, 40), stored, tuning)


def test_scores_far_apart(bench: Bench):
    """Rows' maxima that grow by more than what sums have room for, from one block of keys to another and within."""
    check(bench, (1, 18, 300, 2, 8), "f32", spread=60.0)


def test_a_maximum_that_grows_late(bench: Bench):
    """The last key outweighs all before it; what was summed before is next to nothing then."""
    heads, d, keys = 1, 16, 200
    q, k, v = (values("normal", (1, n, d), "f32", n) for n in (13, keys, keys))
    k[:, -1] = q[:, 3] * 40
    for scale in (1.0, 0.1):
        got = flash(bench, q, pack(bench, k, v, heads), keys, heads, scale)
        want, wrong = wanted(q, k, v, heads, scale)
        assert_close(got, want, wrong + EPS["f32"] * np.abs(want), "late")


def test_scores_far_below_zero(bench: Bench):
    """Their powers would be nothing if they were not taken from the row's own maximum."""
    q, k, v = (values("normal", (1, 33, 16), "f32", seed) for seed in range(3))
    q[..., 0], k[..., 0] = 40.0, -40.0
    got = flash(bench, q, pack(bench, k, v, 1), 33, 1, 1.0)
    want, wrong = wanted(q, k, v, 1, 1.0)
    assert_close(got, want, wrong, "far below")


@pytest.mark.parametrize("operand", ["q", "k", "v"])
def test_it_hides_no_nan(bench: Bench, operand):
    given = {name: values("normal", (1, 40, 16), "f32", seed) for seed, name in enumerate("qkv")}
    given[operand][0, 9, 3] = np.nan
    got = flash(bench, given["q"], pack(bench, given["k"], given["v"], 1), 40, 1, 0.25)
    seen = np.isnan(got)
    assert seen[0, 9].all() if operand == "q" else seen.all() if operand == "k" else seen[..., 3].all()
    if operand == "q":
        assert not seen[0, :9].any()


@pytest.mark.parametrize("stored", STORED)
def test_parts_of_rows(bench: Bench, stored):
    """q, k and v as columns of one product: the same numbers as apart."""
    heads, d, batch, tokens = 2, 12, 2, 39
    width = heads * d
    whole = values("normal", (batch, tokens, 3 * width), stored)
    q, k, v = (np.ascontiguousarray(part) for part in np.split(whole, 3, axis=2))
    want = pack(bench, k, v, heads)
    panels = pack(bench, whole, whole, heads, d=d, k_from=width, v_from=2 * width)
    np.testing.assert_array_equal(panels, want)
    dims = {"batch": batch, "queries": tokens, "keys": tokens, "heads": heads, "scale": 0.3}
    dims |= {"q_row": 3 * width, "q_from": 0}
    got = bench.run(FLASH, [whole, panels], (q.shape, q.dtype), dims, F16=half(stored), D=d, MATH_bf16=1)
    np.testing.assert_array_equal(got, flash(bench, q, want, tokens, heads, 0.3))
