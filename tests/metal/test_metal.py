"""What stands in for Metal's library, by texts in Metal itself: what the dialect's words do not reach."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from metal import build
from metal.device import MetalOnCpu

from ondevice.errors import DeviceError, KernelBuildError

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
MATRICES = """
kernel void matrices(device const half* a [[buffer(0)]], device const half* b [[buffer(1)]],
                     device float* c [[buffer(2)]], constant int& k [[buffer(3)]],
                     ushort simd [[simdgroup_index_in_threadgroup]], uint tid [[thread_index_in_threadgroup]],
                     uint2 group [[threadgroup_position_in_grid]], ushort width [[threads_per_simdgroup]]) {
  threadgroup half tile[2 * 64];
  simdgroup_float8x8 sum = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
  simdgroup_half8x8 left, right, turned;
  const int row = (group.y * 2 + simd) * 8, column = group.x * 8;
  for (int start = 0; start < k; start += 8) {
    simdgroup_load(left, a + row * k + start, k);
    simdgroup_load(turned, b + column * k + start, k, ulong2(0, 0), true);
    simdgroup_store(turned, tile + simd * 64, 8);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_load(right, tile + simd * 64, 8);
    simdgroup_multiply_accumulate(sum, left, right, sum);
  }
  simdgroup_store(sum, c + row * 16 + column, 16);
}
"""
TEXELS = """
kernel void texels(texture2d<half, access::read> x [[texture(0)]], texture2d<float, access::write> y [[texture(1)]],
                   constant float& factor [[buffer(0)]], uint2 at [[thread_position_in_grid]]) {
  const half4 texel = x.read(at);
  y.write(float4(texel) * factor, uint2(y.get_width() - 1 - at.x, at.y));
}
"""
VECTORS = """
kernel void vectors(device float* y, uint i [[thread_position_in_grid]]) {
  float4 v = float4(1.0f, 2.0f, 3.0f, 4.0f);
  v.xy = v.zw;                             // 3 4 3 4
  v.yw += 1.0f;                            // 3 5 3 5
  v.xz = v.xz * 2.0f;                      // 6 5 6 5
  v.zw = v.zw - v.yw + 1.0f;               // 6 5 2 1
  const half2 narrow = half2(2049.0f, v.w);  // 2048 1
  y[0] = v.x; y[1] = v[1]; y[2] = float(narrow.x); y[3] = dot(float2(v.xz), float2(v.xz));
  y[4] = float(half(1.0h + 0.0004h)); y[5] = float(fma(2048.0h, 1.0h, 1.0h));
  y[6] = as_type<float>(0x40490fdbu); y[7] = select(v, -v, v > float4(5.5f)).x;
  y[8] = simd_min(1.0f + i) + simd_shuffle_down(7.0f + i, 0); y[9] = clamp(9.0f, -1.0f, 1.0f) + mix(0.0f, 4.0f, 0.25f);
}
"""


@pytest.fixture(params=[8, 16, 32, 64])
def device(request: pytest.FixtureRequest) -> MetalOnCpu:
    return make(request.param)


def make(sub_group: int = 32, **options: bool) -> MetalOnCpu:
    return MetalOnCpu(Path(os.environ["ONDEVICE_CACHE"]), sub_group, **options)


def run(device: MetalOnCpu, text: str, operands: list, scalars: list, grid: tuple, group: tuple) -> None:
    name = text.partition("kernel void ")[2].partition("(")[0]
    program = device.build(HEAD + text, name, name)
    device.launch(device.bind(program, operands, scalars), (*grid, 1, 1)[:3], (*group, 1, 1)[:3])


def test_matrices(device: MetalOnCpu) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(size, 24)).astype(np.float16) for size in (32, 16))
    c = np.zeros((32, 16), np.float32)
    buffers = [device.upload(array, "") for array in (a, b, c)]
    run(device, MATRICES, buffers, [24], (2 * 2 * device.sub_group, 2), (2 * device.sub_group, 1))
    np.testing.assert_allclose(c, a.astype(np.float64) @ b.T.astype(np.float64) + 1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sanitized", [False, pytest.param(True, marks=pytest.mark.phones)])
def test_textures(sanitized: bool) -> None:
    device = make(sanitized=sanitized)
    x, y = np.arange(3 * 20, dtype=np.float16).reshape(3, 20), np.zeros((3, 20), np.float32)
    images = [device.image(device.upload(array, ""), 5, 3, dtype, "") for array, dtype in ((x, "f16"), (y, "f32"))]
    run(device, TEXELS, images, [0.5], (5, 3), (5, 1))
    np.testing.assert_array_equal(y.reshape(3, 5, 4), x.reshape(3, 5, 4)[:, ::-1] * np.float32(0.5))


def test_vectors_and_halves() -> None:
    device, y = make(), np.zeros(10, np.float32)
    run(device, VECTORS, [device.upload(y, "")], [], (1,), (1,))
    half = np.float32(np.float16(1) + np.float16(0.0004))
    assert y.tolist() == [6, 5, 2048, 40, half, 2048, np.float32(np.pi), -6, 8, 2]


@pytest.mark.parametrize(
    "change, reason",
    [
        (("[[buffer(2)]]", "[[buffer(4)]]"), "not numbered in their order"),
        (("threadgroup half tile[2 * 64];", "threadgroup half tile[64], other[64];"), "one variable per line"),
        (("[[simdgroup_index_in_threadgroup]]", "[[thread_index_in_quadgroup]]"), "not understood"),
        (("threadgroup half tile[2 * 64];", "threadgroup half tile[128]; half* p = tile;"), "no address space"),
        (("threadgroup half tile[2 * 64];", "threadgroup half tile[128]; half own[k];"), "refused it"),
        (("sum, left, right, sum", "sum, left, b, sum"), "refused it"),
    ],
)
def test_what_is_not_understood_is_refused(change: tuple[str, str], reason: str) -> None:
    with pytest.raises(KernelBuildError, match=reason):
        make().build(HEAD + MATRICES.replace(*change), "matrices", "")


def test_a_matrix_needs_a_whole_simdgroup() -> None:
    device = make(32)
    buffers = [device.alloc(4096, "") for _ in range(3)]
    with pytest.raises(DeviceError, match="SIMD-group that is not whole"):
        run(device, MATRICES, buffers, [8], (16,), (16,))


def test_a_wild_write_ends_the_launch_and_not_the_process() -> None:
    device = make()
    wild = VECTORS.replace("y[0] = v.x;", "y[0] = v.x; y[0x3fffffffffl] = 1.0f;")
    with pytest.raises(DeviceError, match="signal 11"):
        run(device, wild, [device.alloc(64, "")], [], (1,), (1,))


def test_programs_in_other_languages_get_a_kernel_by_its_text(tmp_path: Path) -> None:
    """With a Python that has nothing installed."""

    def compiled(text: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", str(Path(build.__file__).with_name("compile.py")), str(tmp_path)]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    entry, library, runtime, kinds = compiled(HEAD + TEXELS).stdout.splitlines()
    assert entry == "texels" and kinds.split() == ["texture", "texture", "value"]
    ctypes.CDLL(runtime, ctypes.RTLD_GLOBAL)
    assert ctypes.CDLL(library).shim_run
    refused = compiled(HEAD + TEXELS.replace("kernel", "kernal"))
    assert refused.returncode == 11 and "has no kernel" in refused.stderr
