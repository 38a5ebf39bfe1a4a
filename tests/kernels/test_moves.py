"""strided_copy, resize_nearest and gather move bits: results are compared exactly."""

import numpy as np
import pytest
from kernels.bench import STORED, Bench, tunings, values

from ondevice.lower.kernel_file import load_all

pytestmark = pytest.mark.device
KERNELS = load_all()


def copy(
    bench: Bench,
    x: np.ndarray,
    out: tuple[int, ...],
    n: list[int],
    source: list[int],
    target: list[int],
    s_offset: int = 0,
    d_offset: int = 0,
    tuning: dict[str, int] | None = None,
) -> np.ndarray:
    """Lists are innermost first."""
    dims = {"s_offset": s_offset, "d_offset": d_offset}
    for letter, numbers, missing in (("n", n, 1), ("s", source, 0), ("d", target, 0)):
        dims |= {f"{letter}{i}": number for i, number in enumerate(numbers + [missing] * (4 - len(numbers)))}
    return bench.run(KERNELS["strided_copy"], [x], (out, x.dtype), dims, tuning, F16=int(x.dtype == np.float16))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 16), (17, 33), (70, 131)], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_transpose(bench: Bench, shape: tuple[int, int], stored: str) -> None:
    x, (rows, cols) = values("normal", shape, stored), shape
    np.testing.assert_array_equal(copy(bench, x, (cols, rows), [rows, cols], [cols, 1], [1, rows]), x.T)
    np.testing.assert_array_equal(copy(bench, x, (cols, rows), [cols, rows], [1, cols], [rows, 1]), x.T)


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["strided_copy"]))
def test_heads_to_front(bench: Bench, stored: str, tuning: dict[str, int]) -> None:
    """[batch, tokens, heads, dim] -> [batch, heads, tokens, dim], then dim before tokens."""
    b, t, h, d = 2, 19, 3, 37
    x = values("normal", (b, t, h, d), stored)
    got = copy(bench, x, (b, h, t, d), [d, t, h, b], [1, h * d, d, t * h * d], [1, d, t * d, h * t * d], tuning=tuning)
    np.testing.assert_array_equal(got, x.transpose(0, 2, 1, 3))
    got = copy(bench, x, (b, h, d, t), [t, d, h, b], [h * d, 1, d, t * h * d], [1, t, t * d, h * t * d], tuning=tuning)
    np.testing.assert_array_equal(got, x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("stored", STORED)
def test_slice_with_offset_and_step(bench: Bench, stored: str) -> None:
    x = values("normal", (4, 6, 50), stored)
    got = copy(bench, x, (2, 3, 17), [17, 3, 2], [2, 100, 300], [1, 17, 51], s_offset=300 + 50 + 7)
    np.testing.assert_array_equal(got, x[1:3, 1::2, 7:41:2])


def test_concat_writes_only_its_part(bench: Bench) -> None:
    x = values("normal", (3, 20), "f32")
    got = copy(bench, x, (3, 50), [20, 3], [1, 20], [1, 50], d_offset=13)
    np.testing.assert_array_equal(got[:, 13:33], x)
    assert np.isnan(got[:, :13]).all()
    assert np.isnan(got[:, 33:]).all()


def test_expand_repeats_through_zero_strides(bench: Bench) -> None:
    x = values("normal", (5, 1), "f16")
    np.testing.assert_array_equal(
        copy(bench, x, (3, 5, 21), [21, 5, 3], [0, 1, 0], [1, 21, 105]), np.broadcast_to(x, (3, 5, 21))
    )


def test_every_bit_pattern_survives(bench: Bench) -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    got = copy(bench, halves, (256, 256), [256, 256], [256, 1], [1, 256])
    np.testing.assert_array_equal(got.view(np.uint16), np.arange(65536, dtype=np.uint16).reshape(256, 256).T)
    ints = np.array([-1, 0, 2**31 - 1, -(2**31), 0x7F800001, 49407], np.int32)
    np.testing.assert_array_equal(copy(bench, ints, (6,), [6], [1], [1]), ints)


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (3, 8, 8, 2), (2, 5, 7, 2), (2, 3, 67, 3)], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_resize_whole_factors(bench: Bench, size: tuple[int, int, int, int], stored: str) -> None:
    n, h, w, factor = size
    x = values("normal", (n, h, w), stored)
    dims = {"n": n, "h": h, "w": w, "oh": h * factor, "ow": w * factor}
    got = bench.run(
        KERNELS["resize_nearest"], [x], ((n, h * factor, w * factor), x.dtype), dims, F16=int(stored == "f16")
    )
    np.testing.assert_array_equal(got, x.repeat(factor, 1).repeat(factor, 2))


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["resize_nearest"]))
@pytest.mark.parametrize("target", [(7, 200), (5, 33), (13, 67), (20, 134)], ids=str)
def test_resize_to_any_size(bench: Bench, target: tuple[int, int], stored: str, tuning: dict[str, int]) -> None:
    x, (oh, ow) = values("normal", (2, 10, 67), stored), target
    dims = {"n": 2, "h": 10, "w": 67, "oh": oh, "ow": ow}
    got = bench.run(KERNELS["resize_nearest"], [x], ((2, oh, ow), x.dtype), dims, tuning, F16=int(stored == "f16"))
    np.testing.assert_array_equal(got, x[:, np.arange(oh) * 10 // oh][:, :, np.arange(ow) * 67 // ow])


@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["gather"]))
@pytest.mark.parametrize("cols", [1, 15, 768])
def test_gather(bench: Bench, cols: int, stored: str, tuning: dict[str, int]) -> None:
    table, ids = values("normal", (11, cols), stored), np.array([0, 10, 3, 3, -5, 11, 2**31 - 1], np.int32)
    dims = {"count": 7, "rows": 11, "cols": cols}
    got = bench.run(KERNELS["gather"], [ids, table], ((7, cols), table.dtype), dims, tuning, F16=int(stored == "f16"))
    np.testing.assert_array_equal(got, table[np.clip(ids, 0, 10)])
