"""What modulates tokens, and norms that take no mean off, against NumPy in float64."""

import numpy as np
import pytest
from kernels.bench import STORED, Bench, assert_same_in_place, exact, half, tunings, values
from tolerance import EPS, TINY, assert_close, rtol

from ondevice.lower.kernel_file import load_all

pytestmark = pytest.mark.device
KERNELS = load_all()
EPSILON = 1e-6
# items, tokens, columns
SIZES = [(1, 1, 1), (1, 3, 15), (2, 5, 16), (3, 2, 77), (2, 1, 4099)]
ROWS = [(1, 1), (3, 15), (4, 16), (5, 77), (2, 4099)]
GAP = 8  # columns of an item's row before and after what a kernel reads of it, and between two parts


def modulations(n, cols, stored, count, seed=7):
    """A wide row per item, and where `count` parts of it begin: parts of one product are read where they stand."""
    wide = values("normal", (n, GAP + count * (cols + GAP)), stored, seed)
    starts = [GAP + part * (cols + GAP) for part in range(count)]
    return wide, starts, [exact(wide)[0][:, np.newaxis, start : start + cols] for start in starts]


def check_ada_layer_norm(bench, size, stored, tuning=None, name="ada_layer_norm"):
    n, tokens, cols = size
    x = values("normal", size, stored) + STORED[stored](3)
    wide, starts, (shift, scale) = modulations(n, cols, stored, 2)
    places = {"shift_row": wide.shape[1], "scale_row": wide.shape[1], "shift_from": starts[0], "scale_from": starts[1]}
    if cols % 4 == 0 and name.endswith("_local"):
        assert all(place % 4 == 0 for place in places.values())
    dims = {"rows": n * tokens, "cols": cols, "tokens": tokens, **places, "epsilon": EPSILON}
    got = bench.run(KERNELS[name], [x, wide, wide], (x.shape, x.dtype), dims, tuning, F16=half(stored))
    (data,) = exact(x)
    centred = data - data.mean(-1, keepdims=True)
    deviation = np.sqrt(centred.var(-1, keepdims=True) + np.float64(np.float32(EPSILON)))
    unit = centred / deviation
    want = unit * (1 + scale) + shift
    spread = np.abs(centred).max(-1, keepdims=True) / deviation
    size_of = np.abs(unit * (1 + scale)) + spread * np.abs(1 + scale) + np.abs(shift)
    limit = EPS[stored] * np.abs(want) + TINY[stored] + rtol("f32", min(cols, 128)) * size_of * 4
    assert_close(got, want, limit, f"{name} {size}")


def check_rms_norm(bench, size, stored, tuning=None, name="rms_norm"):
    """Tokens of two items, which stand in wider rows, behind others of their item; so do results."""
    (rows, cols), heads, items = size, 3, 2
    shape = items, 1 + rows, 2 * GAP + heads * cols
    wide, weight = values("normal", shape, stored), values("normal", (cols,), stored, 1)
    places = {"heads": heads, "tokens": rows, "x_row": shape[2], "x_from": shape[2] + GAP, "x_batch": wide[0].size}
    places |= {"y_from": 2 * heads * cols, "y_batch": (rows + 2) * heads * cols}
    dims = {"rows": items * rows * heads, "cols": cols, **places, "epsilon": EPSILON}
    about = (items, rows + 2, heads, cols), wide.dtype
    got = bench.run(KERNELS[name], [wide, weight], about, dims, tuning, F16=half(stored))
    assert np.isnan(got[:, :2]).all(), "what is another's"
    data, gain = exact(wide, weight)
    data = data[:, 1:, GAP : GAP + heads * cols].reshape(items, rows, heads, cols)
    want = data / np.sqrt((data**2).mean(-1, keepdims=True) + np.float64(np.float32(EPSILON))) * gain
    limit = np.abs(want) * (EPS[stored] + rtol("f32", min(cols, 128)) * 2) + TINY[stored]
    assert_close(got[:, 2:], want, limit, name)


def check_gated_add(bench, size, stored, tuning=None):
    n, tokens, cols = size
    x, z = (values("normal", size, stored, seed) for seed in (1, 2))
    wide, (start,), (gate,) = modulations(n, cols, stored, 1)
    dims = {"rows": n * tokens, "cols": cols, "tokens": tokens, "gate_row": wide.shape[1], "gate_from": start}
    call = (KERNELS["gated_add"], [x, wide, z], (x.shape, x.dtype), dims, tuning)
    assert assert_same_in_place(bench, *call, F16=half(stored))
    got = bench.run(*call, F16=half(stored))
    data, other = exact(x, z)
    want = data + gate * other
    limit = EPS[stored] * np.abs(want) + TINY[stored] + 2 * EPS["f32"] * (np.abs(data) + np.abs(gate * other))
    assert_close(got, want, limit, f"gated_add {size}")


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_ada_layer_norm(bench: Bench, size, stored):
    check_ada_layer_norm(bench, size, stored)


@pytest.mark.parametrize("size", [(1, 1, 16), (2, 5, 48), (3, 4, 1040)], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_ada_layer_norm_of_several_rows(bench: Bench, size, stored):
    """An item's last rows are not the next one's."""
    check_ada_layer_norm(bench, size, stored, name="ada_layer_norm_rows")


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["ada_layer_norm_rows"]))
def test_ada_layer_norm_of_several_rows_tunings(bench: Bench, stored, tuning):
    check_ada_layer_norm(bench, (2, 9, 48), stored, tuning, "ada_layer_norm_rows")


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_gated_add(bench: Bench, size, stored):
    check_gated_add(bench, size, stored)


@pytest.mark.parametrize("size", ROWS, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_rms_norm(bench: Bench, size, stored):
    check_rms_norm(bench, size, stored)


@pytest.mark.parametrize("size", [(1, 16), (3, 64), (5, 1040)], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_rms_norm_of_several_rows(bench: Bench, size, stored):
    """Rows that are worked on together are of several tokens and items."""
    check_rms_norm(bench, size, stored, name="rms_norm_rows")


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["rms_norm_rows"]))
def test_rms_norm_of_several_rows_tunings(bench: Bench, stored, tuning):
    check_rms_norm(bench, (3, 48), stored, tuning, "rms_norm_rows")


@pytest.mark.parametrize("size", ROWS, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_row_mean(bench: Bench, size, stored):
    rows, cols = size
    x = values("normal", size, stored)
    dims = {"rows": rows, "cols": cols}
    got = bench.run(KERNELS["row_mean"], [x], ((rows,), x.dtype), dims, F16=half(stored))
    (data,) = exact(x)
    want = data.mean(-1)
    limit = EPS[stored] * np.abs(want) + TINY[stored] + rtol("f32", min(cols, 128)) * np.abs(data).mean(-1)
    assert_close(got, want, limit, f"row_mean {size}")


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["ada_layer_norm"]))
def test_norms_tunings(bench: Bench, stored, tuning):
    check_ada_layer_norm(bench, (2, 3, 77), stored, tuning)
    check_rms_norm(bench, (5, 77), stored, tuning)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["gated_add"]))
def test_gated_add_tunings(bench: Bench, stored, tuning):
    check_gated_add(bench, (2, 3, 77), stored, tuning)
