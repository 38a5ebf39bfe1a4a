"""Attention of class `mobile`, against NumPy in float64: in one command or in three."""

import numpy as np
import pytest
from kernels.bench import STORED, Bench, tunings_of, values
from kernels.test_fused import attention, check_attention, check_parts_of_rows

from ondevice.lower.kernel_file import load_all

pytestmark = pytest.mark.device
KERNELS = load_all()
REGISTERS, LOCAL = ("flash_registers",), ("flash_local",)
TILES = ("attention_scores_tiles", "softmax_online", "attention_mix_tiles")
FEW = {"flash_registers": {"X": 32}}  # work-items, as each has a query
# batch, queries, keys, heads, d
SIZES = [
    (REGISTERS, (1, 32, 1, 1, 4)),
    (REGISTERS, (2, 37, 77, 2, 40)),
    (LOCAL, (1, 1, 1, 1, 4)),
    (LOCAL, (2, 17, 77, 2, 40)),
    (LOCAL, (1, 9, 35, 1, 160)),
    (TILES, (1, 1, 1, 1, 4)),
    (TILES, (2, 17, 77, 2, 40)),
    (TILES, (1, 6, 35, 1, 160)),
]
WAYS = pytest.mark.parametrize("way", [REGISTERS, LOCAL, TILES], ids=["registers", "local", "tiles"])


@pytest.mark.parametrize("way, size", SIZES, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_attention(phone_bench: Bench, way, size, stored):
    check_attention(phone_bench, size, stored, tuning=FEW, way=way)


@WAYS
def test_masks(phone_bench: Bench, way):
    """A causal one of -inf, in tiles that stop short of it and in such that are masked whole."""
    mask = np.triu(np.full((41, 41), -np.inf), 1).astype(np.float16)
    check_attention(phone_bench, (2, 41, 41, 2, 12), "f16", mask, FEW, way=way)


@WAYS
@pytest.mark.parametrize("stored", STORED)
def test_a_mask_of_numbers(bench: Bench, stored, way):
    check_attention(bench, (2, 33, 21, 3, 12), stored, values("normal", (33, 21), stored, 5), FEW, way=way)


@WAYS
@pytest.mark.parametrize("shape", [(3, 33, 21), (1, 21)], ids=["per head", "one row"])
def test_masks_of_other_shapes(bench: Bench, shape, way):
    check_attention(bench, (2, 33, 21, 3, 12), "f16", values("normal", shape, "f16", 5), FEW, way=way)


@WAYS
def test_a_query_that_may_see_nothing_attends_to_nothing(bench: Bench, way):
    mask = np.zeros((32, 43), np.float32)
    mask[2] = -np.inf
    mask[3, :42] = -np.inf
    check_attention(bench, (1, 32, 43, 2, 4), "f32", mask, FEW, way=way)
    q, k = values("normal", (1, 32, 8), "f32"), values("normal", (1, 43, 8), "f32")
    assert (attention(bench, q, k, k, 2, "f32", mask, FEW, way=way)[0, 2] == 0).all()


@WAYS
@pytest.mark.parametrize("stored", STORED)
def test_scores_far_apart(bench: Bench, stored, way):
    """And a maximum that grows from block to block."""
    check_attention(bench, (1, 34, 140, 2, 8), stored, tuning=FEW, spread=30.0, way=way)
    mask = np.linspace(-50, 50, 140, dtype=STORED[stored])[None].repeat(34, 0)
    check_attention(bench, (1, 34, 140, 2, 8), stored, mask, FEW, way=way)


@pytest.mark.parametrize("name", ["flash_registers", "flash_local"])
def test_parts_of_rows(bench: Bench, name):
    check_parts_of_rows(bench, name, "f16", tokens=70)


def test_larger_heads_in_tiles(bench: Bench):
    check_attention(bench, (1, 19, 66, 1, 512), "f16", way=TILES)


@pytest.mark.parametrize("name, stored, tuning", tunings_of(KERNELS, [*REGISTERS, *LOCAL, *TILES]))
def test_tunings(bench: Bench, name, stored, tuning):
    way = TILES if name in TILES else (name,)
    queries = 131 if way == REGISTERS else 45
    check_attention(bench, (1, queries, 83, 2, 40), stored, tuning={name: tuning}, way=way)
    check_attention(bench, (1, queries, 21, 1, 20), stored, tuning={name: tuning}, way=way)


@pytest.mark.parametrize("name, stored, tuning", tunings_of(KERNELS, LOCAL))
def test_blocks_that_local_memory_makes_smaller(bench: Bench, name, stored, tuning):
    check_attention(bench, (1, 35, 45, 1, 160), stored, tuning={name: tuning}, way=LOCAL)
