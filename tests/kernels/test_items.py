"""Products of items whose rows stand apart: read behind others, written behind others, and gated item by item; every
kernel of products, against NumPy in float64."""

import numpy as np
import pytest
from kernels.bench import STORED, Bench, assert_same_in_place, exact, half, values
from kernels.epilogues import defines, finished, in_panels
from kernels.mobile.test_products import staged
from tolerance import assert_close

from ondevice.lower.kernel_file import load_all
from ondevice.lower.program import MATH_EPS

pytestmark = pytest.mark.device
KERNELS = load_all()
ITEMS, ROWS, GAP = 2, 19, 8  # rows of an item; columns before and after its gate
SLACK = 32  # rows of scratch past the last one, in matmul_bf16
# Kernel, columns of a panel (0: rows of a weight as they are), columns of the result and of the left side.
WAYS = [("matmul", 0, 21, 20), ("matmul", 64, 21, 20), ("matmul", 0, 5, 20), ("matmul_tiles", 16, 21, 20)]
WAYS += [("matmul_waves", 16, 21, 32), ("matmul_matrix", 16, 20, 24), ("matmul_bf16", 32, 21, 20)]


def check(bench, way, stored, activation="", add=False, in_place=False, **built):
    """The left side stands behind 2 rows and before 3 of each item, the result behind one and before two."""
    name, panel, n, k = way
    halves = 1 + (activation == "Geglu")
    before, after = (0, 0) if in_place else (1, 2)
    shapes = (ITEMS, 2 + ROWS + 3, k), (k, halves * n), (halves * n,), (ITEMS, 2 * GAP + n - n % 4 + 4)
    x, weight, bias, gates = (values("normal", shape, stored, seed) for seed, shape in enumerate(shapes))
    residual = values("normal", (ITEMS, before + ROWS + after, n), stored, 9)
    kernel, columns = KERNELS[name], halves * n
    right, shift = weight, bias
    if panel:
        right, shift = in_panels(weight, panel, halves), in_panels(bias[None], panel, halves)
        columns = right.shape[0] * panel
    dims = {"batch": ITEMS, "m": ROWS, "n": n, "k": k, "k1": k, "ldb": columns, "b_batch": 0, "constant": 1}
    dims |= {"a_from": 2 * k, "a_batch": x[0].size, "y_from": before * n, "y_batch": residual[0].size}
    dims |= {"gate_from": GAP, "gate_row": gates.shape[1]}
    built |= kernel.asked({"PANELS": 1} if panel else {}) | {"HAS_GATE": 1, "F16": half(stored)}
    built |= defines(activation, True, False, add)
    scratch = 0
    if name == "matmul_bf16":
        slot = (12 + SLACK) * (panel + 32) + kernel.tuning()["DEPTH"] // 2 * panel
        dims |= {"strip": 12, "share": 1, "groups": 2, "slot": slot}
        built, scratch = built | {"MATH_bf16": 1}, 2 * slot
    operands = [x, x, right, *staged(name, stored), shift, gates, residual, x]
    call = kernel, operands, (residual.shape, x.dtype), dims, None, scratch
    if in_place:
        return assert_same_in_place(bench, *call, **built)
    got = bench.run(*call, **built)
    assert np.isnan(got[:, :before]).all() and np.isnan(got[:, before + ROWS :]).all(), "what is another's"
    left, right_, bias_, gate, rest = exact(x[:, 2 : 2 + ROWS], weight, bias, gates[:, None, GAP : GAP + n], residual)
    rest = rest[:, before : before + ROWS]
    sizes = np.abs(left) @ np.abs(right_)
    extra = {"gate": gate, "residual": rest if add else None}
    want, wrong = finished(left @ right_, sizes, k, stored, activation, bias_, **extra)
    if "MATH_bf16" in built:
        wrong = wrong + 4 * MATH_EPS["bf16"] * sizes[..., :n] * np.abs(gate)
    if built.get("HALF"):
        wrong = wrong + 40 * 2.0**-11 * (sizes[..., :n] + 1) * np.abs(gate)
    return assert_close(got[:, before : before + ROWS], want, wrong, f"{name} {activation}")


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_rows_that_stand_apart(bench: Bench, stored, way):
    check(bench, way, stored, add=True)
    check(bench, way, stored)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_gate_comes_after_the_activation(bench: Bench, way):
    check(bench, way, "f32", "Silu", add=True)


@pytest.mark.parametrize("way", WAYS[1:], ids=str)
def test_over_the_residual(bench: Bench, way):
    done = check(bench, way, "f16", add=True, in_place=True)
    assert done == (way[1] > 0)  # else some columns are computed twice


@pytest.mark.parametrize("way", WAYS[3:5], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_on_phones(phone_bench: Bench, stored, way):
    more = {"HALF": 1} if stored == "f16" and "half" in phone_bench.target.caps else {}
    check(phone_bench, way, stored, add=True, **more)
