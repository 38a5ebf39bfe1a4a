"""Noise against torch itself."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.diffusion.noise import Noise

pytestmark = pytest.mark.parity

SHAPES = [
    (1, 4, 64, 64), (16,), (3,), (2,), (17,), (1,), (15,), (1, 4, 7, 9), (31,), (0,), (5,), (2, 3, 16), (1, 4, 96, 64),
]  # fmt: skip


@pytest.mark.parametrize(
    "seed", [0, 1, 7, 2**31, 2**32 - 1, 2**32, 2**40 + 3, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**63)]
)
def test_successive_draws_equal_torch(seed: int) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = Noise(seed), torch.Generator("cpu").manual_seed(seed)
    same = total = 0
    for shape in SHAPES:
        got, want = ours.randn(shape), torch.randn(shape, generator=theirs).numpy()
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
        same += int((got.view(np.int32) == want.view(np.int32)).sum())
        total += got.size
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert same == total, f"{total - same} of {total} values differ in a bit"


def test_two_million_values_have_torch_s_bits() -> None:
    torch = pytest.importorskip("torch")
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("torch uses the C library's logarithm and sine on this machine")
    want = torch.randn(1 << 21, generator=torch.Generator("cpu").manual_seed(99)).numpy()
    assert np.array_equal(Noise(99).randn((1 << 21,)), want)
