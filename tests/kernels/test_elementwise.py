"""binary, unary and cast against NumPy in float64."""

import math

import numpy as np
import pytest
from kernels.bench import STORED, Bench, exact, tunings, values
from tolerance import EPS, TINY, assert_close, bound

from ondevice.lower.kernel_file import load_all

pytestmark = pytest.mark.device
KERNELS = load_all()
BINARY = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
UNARY = {
    "Sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "Erf": np.vectorize(math.erf, otypes=[np.float64]),
    "Tanh": np.tanh,
    "Sin": np.sin,
    "Cos": np.cos,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Neg": np.negative,
}
# Shapes of a and b, outermost first; they broadcast as NumPy's do.
BROADCASTS = [
    ((1, 1, 1, 1), (1, 1, 1, 1)),
    ((2, 3, 5, 7), (2, 3, 5, 7)),
    ((2, 3, 5, 257), (1, 3, 1, 1)),
    ((2, 3, 5, 67), (1, 1, 1, 67)),
    ((1, 1, 1, 67), (2, 3, 5, 67)),
    ((2, 1, 5, 1), (1, 3, 1, 31)),
    ((1, 1, 1, 1000), (1, 1, 1, 1)),
    ((2, 3, 4, 1), (2, 3, 4, 16)),
]


def strides(shape: tuple[int, ...]) -> list[int]:
    """Element strides, innermost first; 0 where the dim is broadcast."""
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step if size > 1 else 0)
        step *= size
    return steps


def run_binary(
    bench: Bench, op: str, a: np.ndarray, b: np.ndarray, stored: str, tuning: dict[str, int] | None = None
) -> np.ndarray:
    shape = np.broadcast_shapes(a.shape, b.shape)
    dims = {f"n{i}": n for i, n in enumerate(reversed(shape))}
    dims |= {f"a{i}": s for i, s in enumerate(strides(a.shape))} | {f"b{i}": s for i, s in enumerate(strides(b.shape))}
    return bench.run(
        KERNELS["binary"], [a, b], (shape, STORED[stored]), dims, tuning, F16=int(stored == "f16"), **{f"OP_{op}": 1}
    )


@pytest.mark.parametrize("shapes", BROADCASTS, ids=str)
@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("stored", STORED)
def test_binary_broadcasts(bench: Bench, op: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], stored: str) -> None:
    a, b = values("normal", shapes[0], stored), values("normal", shapes[1], stored, 1)
    if op == "Div":
        b = (np.sign(b) * (np.abs(b) + STORED[stored](0.5))).astype(b.dtype)
    want = BINARY[op](*exact(a, b))
    assert_close(run_binary(bench, op, a, b, stored), want, bound(stored, want, np.abs(want)), op)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["binary"]))
def test_binary_tunings(bench: Bench, tuning: dict[str, int], stored: str) -> None:
    a, b = values("normal", (2, 1, 3, 531), stored), values("normal", (2, 2, 1, 531), stored, 1)
    want = np.add(*exact(a, b))
    assert_close(run_binary(bench, "Add", a, b, stored, tuning), want, bound(stored, want, np.abs(want)))


def test_binary_reads_other_strides(bench: Bench) -> None:
    """Neither dense nor broadcast along the innermost dim: every second element of a."""
    a, b = values("normal", (66,), "f32"), values("normal", (33,), "f32", 1)
    dims = {"n0": 33, "n1": 1, "n2": 1, "n3": 1, "a0": 2, "a1": 0, "a2": 0, "a3": 0, "b0": 1, "b1": 0, "b2": 0, "b3": 0}
    got = bench.run(KERNELS["binary"], [a, b], ((33,), np.float32), dims, F16=0, OP_Sub=1)
    np.testing.assert_array_equal(got, a[::2] - b)


def test_masks_flow_through_binary(bench: Bench) -> None:
    a, b = values("normal", (1, 1, 1, 40), "f16"), np.zeros((1, 1, 1, 40), np.float16)
    b[..., ::3] = -np.inf
    got = run_binary(bench, "Add", a, b, "f16")
    assert np.isneginf(got[..., ::3]).all()
    np.testing.assert_array_equal(got[b == 0], a[b == 0])


def test_largest_half_overflows_to_infinity_only_when_stored(bench: Bench) -> None:
    a = np.full((1, 1, 1, 5), 65504, np.float16)
    assert np.isposinf(run_binary(bench, "Add", a, a, "f16")).all()
    assert (run_binary(bench, "Div", a, a, "f16") == 1).all()


def run_unary(bench: Bench, op: str, x: np.ndarray, stored: str, tuning: dict[str, int] | None = None) -> np.ndarray:
    kernel = KERNELS["unary"]
    return bench.run(
        kernel, [x], (x.shape, x.dtype), {"n": x.size}, tuning, F16=int(stored == "f16"), **{f"OP_{op}": 1}
    )


@pytest.mark.parametrize("n", [1, 3, 16, 17, 4099])
@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("stored", STORED)
def test_unary(bench: Bench, op: str, n: int, stored: str) -> None:
    x = np.random.default_rng(n).uniform(-12.0, 10.0, n).astype(STORED[stored])
    x = np.abs(x) if op == "Sqrt" else x
    want = UNARY[op](*exact(x))
    # Built-in functions are within 4 units in the last place; -x and 1 + exp(-x) round once more each.
    assert_close(
        run_unary(bench, op, x, stored),
        want,
        EPS[stored] * np.abs(want) + TINY[stored] + 16 * EPS["f32"] * np.abs(want),
        op,
    )


@pytest.mark.parametrize("op", ["Sigmoid", "Erf", "Tanh", "Exp"])
@pytest.mark.parametrize("stored", STORED)
def test_unary_at_the_ends(bench: Bench, op: str, stored: str) -> None:
    x = np.array([-65504.0, 65504.0, 0.0, -np.inf, np.inf, *([0.5] * 14)], STORED[stored])
    with np.errstate(over="ignore"):
        want = UNARY[op](*exact(x)).astype(STORED[stored]).astype(np.float64)
    assert_close(run_unary(bench, op, x, stored), want, (EPS[stored] + 8 * EPS["f32"]) * 2, op)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["unary"]))
def test_unary_tunings(bench: Bench, stored: str, tuning: dict[str, int]) -> None:
    x = values("normal", (1031,), stored)
    np.testing.assert_array_equal(run_unary(bench, "Neg", x, stored, tuning), -x)


@pytest.mark.parametrize("source, tuning", tunings(KERNELS["cast"]))
@pytest.mark.parametrize("target", STORED)
def test_cast(bench: Bench, source: str, target: str, tuning: dict[str, int]) -> None:
    x = np.concatenate(
        [values("normal", (1030,), source), np.array([65504, -65504, np.inf, -np.inf, 0, 6e-8], STORED[source])]
    )
    defines = {"SRC_F16": int(source == "f16"), "DST_F16": int(target == "f16")}
    got = bench.run(KERNELS["cast"], [x], (x.shape, STORED[target]), {"n": x.size}, tuning, **defines)
    np.testing.assert_array_equal(got, x.astype(STORED[target]))
