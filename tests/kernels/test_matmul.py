"""matmul against NumPy in float64."""

import numpy as np
import pytest
from kernels.bench import STORED, Bench, exact, tunings, values
from tolerance import assert_close, bound

from ondevice.lower.kernel_file import load_all
from ondevice.lower.linear import DENSE

pytestmark = pytest.mark.device
KERNEL = load_all()["matmul"]


def check(bench: Bench, a: np.ndarray, b: np.ndarray, stored: str, tuning: dict[str, int] | None = None) -> None:
    """`a` [batch or 1, m, k], `b` [batch or 1, k, n]; a batch of 1 is shared."""
    (a_items, m, k), (b_items, _, n), batch = a.shape, b.shape, max(len(a), len(b))
    dims = {
        "batch": batch,
        "m": m,
        "n": n,
        "k": k,
        "k1": k,
        "ldb": n,
        "a_batch": m * k * (a_items > 1),
        "b_batch": k * n * (b_items > 1),
    } | DENSE
    dims["y_batch"] = m * n
    got = bench.run(KERNEL, [a, a, b, a, a, a, a], ((batch, m, n), a.dtype), dims, tuning, F16=int(stored == "f16"))
    left, right = exact(a, b)
    want = left @ right
    assert_close(got, want, bound(stored, want, np.abs(left) @ np.abs(right), k), f"{a.shape} @ {b.shape}")


# Tiles are 6 rows by 64 columns (four vectors of 16) by 128 deep: one under, one over, and several of each.
@pytest.mark.parametrize(
    "m, n, k",
    [
        (1, 1, 1),
        (3, 4, 5),
        (7, 15, 7),
        (5, 16, 16),
        (6, 17, 127),
        (7, 63, 128),
        (47, 65, 129),
        (49, 77, 40),
        (101, 131, 259),
    ],
)
@pytest.mark.parametrize("stored", STORED)
def test_awkward_sizes(bench: Bench, m: int, n: int, k: int, stored: str) -> None:
    check(bench, values("normal", (1, m, k), stored), values("normal", (1, k, n), stored, 1), stored)


@pytest.mark.parametrize("batches", [(3, 3), (1, 3), (3, 1)], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_batches_and_shared_operands(bench: Bench, batches: tuple[int, int], stored: str) -> None:
    check(
        bench, values("normal", (batches[0], 13, 40), stored), values("normal", (batches[1], 40, 77), stored, 1), stored
    )
    check(bench, values("normal", (batches[0], 5, 9), stored), values("normal", (batches[1], 9, 3), stored, 1), stored)


@pytest.mark.parametrize("stored, tuning", tunings(KERNEL))
def test_tunings(bench: Bench, tuning: dict[str, int], stored: str) -> None:
    check(bench, values("normal", (2, 61, 150), stored), values("normal", (2, 150, 83), stored, 1), stored, tuning)


def test_half_products_accumulate_in_float(bench: Bench) -> None:
    """65504 * 1 eight times overflows a half; with both signs the sum fits again."""
    a = np.tile(np.array([65504, 65504, -65504, -65504], np.float16), 5).reshape(1, 1, 20)
    check(bench, a, np.ones((1, 20, 33), np.float16), "f16")


def test_equal_values(bench: Bench) -> None:
    check(bench, values("equal", (1, 9, 300), "f32"), values("equal", (1, 300, 20), "f32"), "f32")


def test_infinity_stays_in_its_row(bench: Bench) -> None:
    """Rows past the end are computed from the last one: they must not leak into other rows."""
    a, b = np.ones((1, 8, 20), np.float32), np.ones((1, 20, 70), np.float32)
    a[0, 7, 3] = -np.inf
    dims = {"batch": 1, "m": 8, "n": 70, "k": 20, "k1": 20, "ldb": 70, "a_batch": 0, "b_batch": 0} | DENSE
    got = bench.run(KERNEL, [a, a, b, a, a, a, a], ((1, 8, 70), a.dtype), dims, F16=0)
    assert (got[0, :7] == 20).all()
    assert np.isneginf(got[0, 7]).all()
