"""Noise against what torch drew (tests/data/misc/noise.json), bit for bit."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from diffusion.sampler_helpers import DATA
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.diffusion.noise import Noise
from ondevice.errors import UsageError

STREAMS = json.loads((DATA / "misc" / "noise.json").read_text())["streams"]


@pytest.mark.parametrize("stream", STREAMS, ids=[str(s["seed"]) for s in STREAMS])
def test_successive_draws_have_the_bits_of_torch(stream: dict[str, Any]) -> None:
    noise = Noise(stream["seed"])
    for draw in stream["draws"]:
        got = noise.randn(tuple(draw["shape"]))
        assert got.dtype == np.float32 and list(got.shape) == draw["shape"]
        np.testing.assert_allclose(got.ravel()[:8], np.array(draw["first"], np.float32), rtol=0, atol=0)
        np.testing.assert_allclose((got.astype(np.float64) ** 2).sum(), draw["sum_of_squares"], rtol=1e-12)
        assert hashlib.sha256(got.astype("<f4").tobytes()).hexdigest() == draw["sha256"], (
            f"bits differ at {draw['shape']}"
        )


def test_only_the_low_32_bits_of_a_seed_matter() -> None:
    assert np.array_equal(Noise(5).randn((32,)), Noise(2**32 + 5).randn((32,)))
    assert not np.array_equal(Noise(5).randn((32,)), Noise(6).randn((32,)))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 70), max_size=6))
def test_any_seed_and_sizes_give_finite_numbers_and_repeat(seed: int, sizes: list[int]) -> None:
    once, again = Noise(seed), Noise(seed)
    for size in sizes:
        values = once.randn((size,))
        assert values.shape == (size,) and np.isfinite(values).all() and (np.abs(values) < 9).all()
        assert np.array_equal(values, again.randn((size,)))


def test_the_numbers_are_normal() -> None:
    values = Noise(3).randn((1 << 18,)).astype(np.float64)
    # Five standard errors of each moment.
    error = 5 / 512
    assert (
        abs(values.mean()) < error
        and abs(values.var() - 1) < error * 2**0.5
        and abs((values**3).mean()) < error * 15**0.5
    )


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 1.5, "1", True, None])
def test_what_is_not_a_seed_is_refused(seed: Any) -> None:
    with pytest.raises(UsageError, match="not a seed"):
        Noise(seed)
