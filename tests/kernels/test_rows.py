"""softmax, layer_norm and instance_norm against NumPy in float64."""

import numpy as np
import pytest
from kernels.bench import STORED, Bench, exact, tunings, values
from tolerance import EPS, TINY, assert_close, rtol

from ondevice.lower.kernel_file import load_all

pytestmark = pytest.mark.device
KERNELS = load_all()
SIZES = [(1, 1), (3, 4), (5, 15), (4, 16), (7, 17), (3, 77), (2, 131), (3, 1024), (2, 4099)]
EPSILON = 1e-5


def softmax(bench: Bench, x: np.ndarray, stored: str, tuning: dict[str, int] | None = None) -> np.ndarray:
    rows, cols = x.shape
    return bench.run(
        KERNELS["softmax"], [x], (x.shape, x.dtype), {"rows": rows, "cols": cols}, tuning, F16=int(stored == "f16")
    )


def softmax_close(got: np.ndarray, x: np.ndarray, stored: str) -> None:
    exponents = x.astype(np.float64) - x.astype(np.float64).max(1, keepdims=True)
    powers = np.exp(exponents)
    want = powers / powers.sum(1, keepdims=True)
    # exp(x - max) carries the rounding of x - max, which grows with the difference.
    spread = np.where(np.isfinite(exponents), np.abs(exponents), 0.0)
    assert_close(
        got, want, want * (rtol(stored, x.shape[1]) + EPS["f32"] * (4 + spread)) + TINY[stored], f"softmax {x.shape}"
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_softmax(bench: Bench, size: tuple[int, int], stored: str) -> None:
    x = values("normal", size, stored) * STORED[stored](4)
    softmax_close(softmax(bench, x, stored), x, stored)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["softmax"]))
def test_softmax_tunings(bench: Bench, tuning: dict[str, int], stored: str) -> None:
    x = values("normal", (67, 77), stored)
    softmax_close(softmax(bench, x, stored, tuning), x, stored)


@pytest.mark.parametrize("masked", [slice(0, 1), slice(0, 16), slice(16, None), slice(1, None), slice(0, 76)], ids=str)
@pytest.mark.parametrize("cols", [9, 64, 77])
@pytest.mark.parametrize("stored", STORED)
def test_softmax_masks(bench: Bench, cols: int, masked: slice, stored: str) -> None:
    x = values("normal", (3, cols), stored)
    x[:2, masked] = -np.inf
    x[0, cols // 2] = 1.0
    x[1, 0] = 1.0
    softmax_close(softmax(bench, x, stored), x, stored)


def test_softmax_causal_mask(bench: Bench) -> None:
    x = values("normal", (77, 77), "f32")
    x[np.triu_indices(77, 1)] = -np.inf
    got = softmax(bench, x, "f32")
    softmax_close(got, x, "f32")
    assert (got[np.triu_indices(77, 1)] == 0).all()


@pytest.mark.parametrize("cols", [5, 40])
def test_softmax_of_a_row_masked_everywhere_is_zero(bench: Bench, cols: int) -> None:
    """Our policy, where the formula gives NaN: such a row attends to nothing."""
    assert (softmax(bench, np.full((2, cols), -np.inf, np.float32), "f32") == 0).all()


@pytest.mark.parametrize("cols", [5, 40])
def test_softmax_does_not_hide_nan(bench: Bench, cols: int) -> None:
    x = values("normal", (2, cols), "f32")
    x[1, 3] = np.nan
    got = softmax(bench, x, "f32")
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1]).all()


@pytest.mark.parametrize("kind", ["equal", "largest"])
@pytest.mark.parametrize("stored", STORED)
def test_softmax_values(bench: Bench, kind: str, stored: str) -> None:
    x = values(kind, (4, 100), stored)
    softmax_close(softmax(bench, x, stored), x, stored)


def norm(
    bench: Bench, name: str, x: np.ndarray, stored: str, tuning: dict[str, int] | None = None, epsilon: float = EPSILON
) -> None:
    """Run and compare. Rows of instance_norm cycle through 3 channels."""
    (rows, cols), channels = x.shape, 3
    count = channels if name == "instance_norm" else cols
    scale, bias = values("normal", (count,), stored, 1), values("normal", (count,), stored, 2)
    dims = {"rows": rows, "cols": cols, "channels": channels, "epsilon": epsilon}
    got = bench.run(KERNELS[name], [x, scale, bias], (x.shape, x.dtype), dims, tuning, F16=int(stored == "f16"))
    data, gain, shift = exact(x, scale, bias)
    if name == "instance_norm":
        gain, shift = (v[np.arange(rows) % channels][:, None] for v in (gain, shift))
    centred = data - data.mean(1, keepdims=True)
    deviation = np.sqrt(centred.var(1, keepdims=True) + np.float64(np.float32(epsilon)))
    unit = centred / deviation
    want = unit * gain + shift
    # The mean's rounding moves every value by a part of the row's spread; sums are kept in blocks of 64 vectors.
    spread = np.abs(centred).max(1, keepdims=True) / deviation
    limit = (
        EPS[stored] * np.abs(want)
        + TINY[stored]
        + rtol("f32", min(cols, 128)) * (np.abs(unit * gain) + spread * np.abs(gain) + np.abs(shift))
    )
    assert_close(got, want, limit, f"{name} {x.shape}")


NORMS = ["layer_norm", "instance_norm"]
WHOLE = [(1, 16), (3, 48), (4, 320), (9, 1040), (6, 2064)]  # rows of whole vectors, in blocks of R and one over


@pytest.mark.parametrize("size", WHOLE, ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_layer_norm_of_several_rows(bench: Bench, size: tuple[int, int], stored: str) -> None:
    norm(bench, "layer_norm_rows", values("normal", size, stored), stored)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["layer_norm_rows"]))
def test_layer_norm_of_several_rows_tunings(bench: Bench, stored: str, tuning: dict[str, int]) -> None:
    norm(bench, "layer_norm_rows", values("normal", (11, 96), stored), stored, tuning)


@pytest.mark.parametrize("kind", ["equal", "largest"])
@pytest.mark.parametrize("stored", STORED)
def test_layer_norm_of_several_rows_of_other_values(bench: Bench, kind: str, stored: str) -> None:
    norm(bench, "layer_norm_rows", values(kind, (5, 1024), stored), stored)


def test_layer_norm_of_several_rows_keeps_digits_when_the_mean_is_large(bench: Bench) -> None:
    """Rows whose means lie far apart, and one whose first value is far from its mean."""
    x = values("normal", (6, 1024), "f32") + np.float32(3000) * np.arange(-3, 3, dtype=np.float32)[:, np.newaxis]
    x[1, 0] = 1e5
    norm(bench, "layer_norm_rows", x, "f32")


@pytest.mark.parametrize("size", [*SIZES, (5, 40_960), (2, 70_001)], ids=str)
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("stored", STORED)
def test_norms(bench: Bench, name: str, size: tuple[int, int], stored: str) -> None:
    norm(bench, name, values("normal", size, stored), stored)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["layer_norm"]))
def test_layer_norm_tunings(bench: Bench, stored: str, tuning: dict[str, int]) -> None:
    norm(bench, "layer_norm", values("normal", (67, 333), stored), stored, tuning)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["instance_norm"]))
def test_instance_norm_tunings(bench: Bench, stored: str, tuning: dict[str, int]) -> None:
    norm(bench, "instance_norm", values("normal", (67, 333), stored), stored, tuning)


@pytest.mark.parametrize("kind", ["equal", "largest"])
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("stored", STORED)
def test_norm_values(bench: Bench, name: str, kind: str, stored: str) -> None:
    """All equal: the variance is 0 and epsilon alone decides, so a mean that is off by a rounding shows."""
    norm(bench, name, values(kind, (4, 5003), stored), stored)


@pytest.mark.parametrize("name", NORMS)
def test_norm_keeps_digits_when_the_mean_is_large(bench: Bench, name: str) -> None:
    norm(bench, name, values("normal", (3, 40_960), "f32") + np.float32(3000), "f32")
