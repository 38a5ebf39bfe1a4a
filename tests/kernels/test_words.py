"""The prelude's words for what phones' GPUs have, in both dialects, with and without what they stand for."""

from pathlib import Path

import numpy as np
import pytest
from kernels.bench import STORED, Bench, half, values

from ondevice.lower.kernel_file import KernelFile

pytestmark = pytest.mark.device

EXCHANGE = """\
//: op    = "Identity"
//: class = "mobile"
//: caps  = []
//: uses  = ["subgroups"]
//: why   = "What each work-item gets from each word."
//: in    = ["x: f32[n]"]
//: out   = ["y: f32[n, 11]"]
//: args  = ["n: int"]
//: grid  = ["n", "1", "1"]
//: group = ["X", "1", "1"]
//: tune  = {X = [64, 8, 256]}
//: needs = {}

KERNEL(exchange)(IN(float, x), OUT(float, y), ARG(int, n) GRID) {
  LOCAL(float, lanes, X);
  const int i = GID(0);
  const float own = LOAD(x, i);
  float sum, top;
  GROUP_SUM(sum, own, lanes)
  GROUP_MAX(top, own, lanes)
  y[i * 11] = sum;
  y[i * 11 + 1] = top;
#if SUBGROUPS
  const int lanes_here = MIN(SG_WIDTH, X - SG_INDEX * SG_WIDTH);
  y[i * 11 + 2] = (float)SG_WIDTH;
  y[i * 11 + 3] = (float)SG_LANE;
  y[i * 11 + 4] = (float)SG_INDEX;
  y[i * 11 + 5] = (float)SG_COUNT;
  y[i * 11 + 6] = SG_SUM(own);
  y[i * 11 + 7] = SG_MAX(own);
  y[i * 11 + 8] = SG_BROADCAST(own, 3);
  y[i * 11 + 9] = SG_SHUFFLE(own, lanes_here - 1 - SG_LANE);
  y[i * 11 + 10] = SG_SHUFFLE_XOR(own, 2);
#endif
}
"""

PRODUCTS = """\
//: op    = "Identity"
//: class = "mobile"
//: caps  = []
//: uses  = ["half", "image2d"]
//: why   = "x * w + 2048 twice: of what may be images, and of buffers, with the components in reverse; and x."
//: in    = ["x: tex[rows, 32]", "x2: stg[rows, 32]", "w: wtex[32]", "w2: wgt[32]"]
//: out   = ["y: stg[rows, 96]"]
//: args  = ["rows: int"]
//: grid  = ["8", "rows", "1"]
//: group = ["X", "1", "1"]
//: tune  = {X = [4]}
//: needs = {}
//: reach.w = "32 // (1 + W4)"
//: reach.w2 = "32 // (1 + W4)"

#ifndef W8
#define W8 0
#endif

KERNEL(products)(IN_TEX(x), IN(stg, x2), IN_WTEX(w), IN(wgt, w2), OUT(stg, y), ARG(int, rows) GRID) {
  const int column = GID(0), row = GID(1), out = row * 96 + column * 4;
  if (column >= 8 || row >= rows) return;
  STORE4(y, out, TO_VEC(RFMA(LOADT(x, row, column, 8), LOADWT(w, 0, column, 8), RSPLAT(2048.0f))));
  const real4 weight = LOADWR4(w2, column * 4), read = LOADR4(x2, row * 32 + column * 4);
  real4 back = TO_REAL4(SPLAT(2048.0f));
  back.x = RFMA(read.w, weight.w, back.x);
  back.y = RFMA(read.z, weight.z, back.y);
  back.z = RFMA(read.y, weight.y, back.z);
  back.w = RFMA(read.x, weight.x, back.w);
  STORE4(y, out + 32, TO_VEC(back));
  STORE4(y, out + 64, LOAD4(x2, row * 32 + column * 4));
}
"""


@pytest.fixture
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> KernelFile:
    """A kernel file of the text that the test is parametrized with."""
    name = request.param.partition("KERNEL(")[2].partition(")")[0]
    (tmp_path / f"{name}.cl").write_text(request.param)
    return KernelFile.read(tmp_path / f"{name}.cl")


@pytest.mark.parametrize("kernel", [EXCHANGE], indirect=True, ids=["exchange"])
@pytest.mark.parametrize("group", [8, 64, 256])
def test_exchange(phone_bench: Bench, kernel: KernelFile, group: int) -> None:
    """A group of 8 is a part of a sub-group."""
    x = values("normal", (2, group), "f32")
    got = phone_bench.run(kernel, [x], ((2, group, 11), np.float32), {"n": x.size}, {"X": group})
    np.testing.assert_allclose(got[..., 0], np.broadcast_to(x.sum(1, keepdims=True), x.shape), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got[..., 1], np.broadcast_to(x.max(1, keepdims=True), x.shape))
    assert (got[..., 0] == got[:, :1, 0]).all(), "additions have one order"
    if "subgroups" not in phone_bench.target.caps:
        assert np.isnan(got[..., 2:]).all()
        return
    width = int(got[0, 0, 2])
    assert width == (getattr(phone_bench.device, "sub_group", None) or width)
    lanes, place = min(width, group), np.arange(group)
    parts = x.reshape(2, -1, lanes)
    wanted = {
        2: np.full_like(x, width),
        3: np.broadcast_to(place % width, x.shape),
        4: np.broadcast_to(place // width, x.shape),
        5: np.full_like(x, group // lanes),
        7: np.repeat(parts.max(2), lanes, axis=1),
        8: np.repeat(parts[..., 3], lanes, axis=1),
        9: parts[..., ::-1].reshape(x.shape),
        10: parts[..., np.arange(lanes) ^ 2].reshape(x.shape),
    }
    for column, expected in wanted.items():
        np.testing.assert_array_equal(got[..., column], expected, err_msg=f"column {column}")
    np.testing.assert_allclose(got[..., 6], np.repeat(parts.sum(2), lanes, axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [PRODUCTS], indirect=True, ids=["products"])
@pytest.mark.parametrize("bits", [{}, {"W8": 1}, {"W4": 1}], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_products(phone_bench: Bench, kernel: KernelFile, stored: str, bits: dict[str, int]) -> None:
    """Near 2048 halves are whole numbers, so it shows where one is computed in."""
    rng = np.random.default_rng(len(bits))
    x, whole = rng.integers(-3, 4, (6, 32)).astype(STORED[stored]), rng.integers(-8, 8, 32)
    w = whole if bits else whole / 8
    given = (whole[::2] + 8 + 16 * (whole[1::2] + 8)).astype(np.uint8) if "W4" in bits else w
    given = given.astype(np.int8 if "W8" in bits else given.dtype if bits else STORED[stored])
    output = ((6, 3, 32), STORED[stored])
    got = phone_bench.run(kernel, [x, x, given, given], output, {"rows": 6}, F16=half(stored), **bits)
    computed = np.float16 if stored == "f16" and "half" in phone_bench.target.caps else np.float32
    want = (x.astype(np.float64) * w + 2048).astype(computed).astype(STORED[stored])
    np.testing.assert_array_equal(got[:, 0], want)
    np.testing.assert_array_equal(got[:, 1].reshape(6, 8, 4)[..., ::-1], want.reshape(6, 8, 4))
    np.testing.assert_array_equal(got[:, 2], x)
