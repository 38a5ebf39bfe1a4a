"""Products of small matrices: the words, in each of their spellings, and the kernel for products, against float64."""

from pathlib import Path

import numpy as np
import pytest
from kernels.bench import STORED, Bench, assert_same_in_place, exact, half, tunings, values
from kernels.epilogues import FEW_BITS, defines, finished, in_panels
from kernels.mobile.test_products import KERNELS, WAYS, check_product
from kernels.opencl_device import PhoneOpenCL
from tolerance import assert_close

from ondevice.errors import NoDeviceError
from ondevice.lower.kernel_file import KernelFile
from ondevice.lower.linear import DENSE

pytestmark = pytest.mark.device
MATRIX = KERNELS["matmul_matrix"]

WORDS = """\
//: op    = "Identity"
//: class = "mobile"
//: caps  = []
//: uses  = ["half", "matrix_unit"]
//: why   = "a b, 16 by 16 by 16, in matrices from local memory, then from storage where that holds what they are of."
//: in    = ["a: stg[16, 24]", "b: stg[16, 20]"]
//: out   = ["y: f32[2, 16, 16]"]
//: args  = ["n: int"]
//: grid  = ["LANES", "n", "1"]
//: group = ["LANES", "1", "1"]
//: tune  = {LANES = [32, 64, 16, 8, 2, 1]}
//: needs = {}

KERNEL(words)(IN(stg, a), IN(stg, b), OUT(float, y), ARG(int, n) GRID) {
  LOCAL(real, left, 384);
  LOCAL(real, right, 320);
  LOCAL(float, line, 288);
  const int lane = LID(0), from_storage = GID(1);
  for (int i = lane; i < 384; i += LANES) left[i] = (real)LOAD(a, i);
  for (int i = lane; i < 320; i += LANES) right[i] = (real)LOAD(b, i);
  BARRIER();
  for (int i = 0; i < 16; i += MAT_M)
    for (int j = 0; j < 16; j += MAT_N) {
      mat_left rows;
      mat_right columns;
      mat_sum sum;
      MAT_ZERO(sum)
      for (int k = 0; k < 16; k += MAT_K) {
#if F16 == HALF
        if (from_storage) {
          MAT_LEFT_STG(rows, a + i * 24 + k, 24)
          MAT_RIGHT_STG(columns, b + k * 20 + j, 20)
        } else
#endif
        {
          MAT_LEFT(rows, left + i * 24 + k, 24)
          MAT_RIGHT(columns, right + k * 20 + j, 20)
        }
        MAT_MULTIPLY(sum, rows, columns)
      }
      MAT_STORE(sum, line + i * 18 + j, 18)
    }
  BARRIER();
  for (int i = lane; i < 256; i += LANES) y[from_storage * 256 + i] = line[i / 16 * 18 + i % 16];
}
"""


@pytest.fixture
def words(tmp_path: Path) -> KernelFile:
    (tmp_path / "words.cl").write_text(WORDS)
    return KernelFile.read(tmp_path / "words.cl")


def check_words(bench: Bench, words: KernelFile, stored: str, lanes: int, **more: int) -> None:
    """Sums of halves are float: the products of the first row would be infinite in half."""
    a, b = values("normal", (16, 24), stored), values("normal", (16, 20), stored, 1)
    a[0] *= 20000
    got = bench.run(words, [a, b], ((2, 16, 16), np.float32), {"n": 2}, {"LANES": lanes}, F16=half(stored), **more)
    left, right = exact(a[:, :16], b[:, :16])
    want, wrong = finished(left @ right, np.abs(left) @ np.abs(right), 16, "f32", "")
    for way in got:
        assert_close(way, want, wrong, f"{lanes} lanes")


def width(bench: Bench) -> int:
    """Work-items that share a matrix: those of a sub-group, where the device has a unit."""
    return getattr(bench.device, "sub_group", 32) if "matrix_unit" in bench.target.caps else 32


@pytest.mark.parametrize("lanes", [32, 64, 16, 8, 2, 1])
@pytest.mark.parametrize("stored", STORED)
def test_words_in_plain_c(bench: Bench, words, stored, lanes):
    check_words(bench, words, stored, lanes)


@pytest.mark.parametrize("stored", STORED)
def test_words(phone_bench: Bench, words, stored):
    check_words(phone_bench, words, stored, width(phone_bench))


class WithArmsUnit(PhoneOpenCL):
    """Has cl_arm_matrix_multiply by exchange within sub-groups of 16, as Arm's Compute Library describes it
    (src/core/CL/cl_kernels/common/mat_mul_mmul.cl): of each side and of the sums, lane 4 y + x has row y, column x."""

    UNIT = """\
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#define cl_arm_matrix_multiply 1
#define ARM_UNIT(type)                                                                            \\
  static float __attribute__((overloadable)) arm_matrix_multiply(type a, type b, float sum) {     \\
    const uint lane = get_sub_group_local_id();                                                   \\
    for (uint k = 0; k < 4; k++)                                                                  \\
      sum += (float)intel_sub_group_shuffle(a, lane / 4 * 4 + k) *                                \\
             (float)intel_sub_group_shuffle(b, k * 4 + lane % 4);                                 \\
    return sum;                                                                                   \\
  }
ARM_UNIT(half)
ARM_UNIT(float)
"""

    def build(self, source: str, entry: str, where: str):  # type: ignore[no-untyped-def]
        with_width = source.replace("#define KERNEL(name)    __kernel", "#define KERNEL(name)    OD_16 __kernel")
        return super().build(
            f"{self.UNIT}#define OD_16 __attribute__((intel_reqd_sub_group_size(16)))\n{with_width}", entry, where
        )


@pytest.fixture(scope="module")
def arm() -> Bench:
    try:
        return Bench(WithArmsUnit("intel"))
    except NoDeviceError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("stored", STORED)
def test_words_of_arms_unit(arm: Bench, words, stored):
    check_words(arm, words, stored, 16, MATRIX_UNIT=1, HALF=half(stored))


@pytest.mark.phones
@pytest.mark.parametrize("way", [("f32", 0), ("f16", 1)], ids=str)
def test_products_by_arms_unit(arm: Bench, way):
    tuning = {"LANES": 16, "ROWS": 16}
    check_product(arm, (70, 36, 40), way, "Geglu", add=True, k1=12, tuning=tuning, name="matmul_matrix", MATRIX_UNIT=1)
    check_product(arm, (37, 100, 72), way, bits="i8", tuning=tuning, name="matmul_matrix", MATRIX_UNIT=1)


# rows cut off, or several groups of them; fours of columns that fill no panel, and panels that fill no group; k that
# fills no DEPTH, or several
SIZES = [(1, 4, 8), (5, 20, 24), (70, 36, 40), (131, 100, 136), (64, 128, 64)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("activation", ["", "Silu", "Geglu"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_products(bench: Bench, way, activation, size):
    check_product(bench, size, way, activation, add=True, name="matmul_matrix")


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("activation", ["", "Geglu"])
@pytest.mark.parametrize("bits", ["", *FEW_BITS])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_few_bits_and_two_parts(bench: Bench, way, bits, activation, size):
    k1 = size[2] // 2 if size[2] > 8 else None
    check_product(bench, size, way, activation, bias=False, add=True, bits=bits, k1=k1, name="matmul_matrix")


@pytest.mark.parametrize("stored, tuning", tunings(MATRIX))
def test_tunings(bench: Bench, stored, tuning):
    way = (stored, int(stored == "f16"))
    check_product(bench, (70, 84, 152), way, "Geglu", add=True, k1=72, tuning=tuning, name="matmul_matrix")
    check_product(bench, (9, 132, 152), way, bits="i4", tuning=tuning, name="matmul_matrix")


@pytest.mark.parametrize("stored", STORED)
def test_products_on_phones(phone_bench: Bench, stored):
    way, tuning = (stored, int(stored == "f16" and "half" in phone_bench.target.caps)), {"LANES": width(phone_bench)}
    given = {"tuning": tuning, "name": "matmul_matrix"}
    check_product(phone_bench, (70, 36, 24), way, "Geglu", add=True, k1=12, **given)
    check_product(phone_bench, (7, 20, 40), way, "Silu", bits="i8", **given)
    check_product(phone_bench, (5, 36, 72), way, bits="i4", **given)


def test_a_batch(bench: Bench):
    """As Winograd's products: each with a side of its own."""
    batch, m, n, k = 3, 37, 20, 24
    left, weight = values("normal", (batch, m, k), "f32"), values("normal", (batch, k, n), "f32", 1)
    panels = in_panels(weight, 16)
    dims = {"batch": batch, "m": m, "n": n, "k": k, "k1": k, "ldb": panels.shape[1] * 16}
    dims |= DENSE | {"a_batch": m * k, "b_batch": panels[0].size, "y_batch": m * n}
    got = bench.run(MATRIX, [left, left, panels, left, left, left, left], ((batch, m, n), left.dtype), dims, F16=0)
    a, b = exact(left, weight)
    want, wrong = finished(a @ b, np.abs(a) @ np.abs(b), k, "f32", "")
    assert_close(got, want, wrong)


def test_over_the_residual(bench: Bench):
    x, weight, residual = (values("normal", s, "f16", i) for i, s in enumerate(((70, 24), (24, 36), (70, 36))))
    panels = in_panels(weight, 16)
    dims = {"batch": 1, "m": 70, "n": 36, "k": 24, "k1": 24, "ldb": panels.shape[0] * 16, "a_batch": 0, "b_batch": 0}
    dims |= DENSE
    built = {"F16": 1, "HALF": 1} | defines("Silu", False, False, True)
    assert assert_same_in_place(bench, MATRIX, [x, x, panels, x, x, residual, x], ((70, 36), x.dtype), dims, **built)
