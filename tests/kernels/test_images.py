"""An operand that may be an image: the same values from a buffer and from images, however its rows stand in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernels.bench import STORED, Bench, half, values
from lower.test_images import TEXT
from tolerance import EPS, assert_close, rtol

from ondevice.lower.kernel_file import KernelFile

ROWS = 24


@pytest.mark.device
@pytest.mark.parametrize("stored, real", [("f32", "f32"), ("f16", "f32"), ("f16", "f16")])
@pytest.mark.parametrize("fold", [0, 2, 8])  # rows of at least 64 bytes, which Intel's CPU runtime asks for
def test_loadt(bench: Bench, tmp_path: Path, stored: str, real: str, fold: int) -> None:
    caps = bench.device.facts()["caps"]
    if (fold and "image2d" not in caps) or (real == "f16" and "half" not in caps):
        pytest.skip(f"{bench.device.name} has {caps}")
    (tmp_path / "rows_of_16.cl").write_text(TEXT)
    kernel = KernelFile.read(tmp_path / "rows_of_16.cl")
    x = values("normal", (ROWS * 16,), stored)
    defines = {"F16": half(stored), "HALF": int(real == "f16"), "IMAGE_x": int(fold > 0)} | (
        {"FOLD_x": fold} if fold else {}
    )
    got = bench.run(kernel, [x], (x.shape, STORED[stored]), {"n": x.size}, **defines)
    assert_close(got, 1 / (1 + np.exp(-x.astype(np.float64))), rtol(stored, 4) + EPS[stored])
