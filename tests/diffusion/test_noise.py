"""Noise against what torch drew (tests/data/misc/noise.json), bit for bit; Philox against its published answers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from diffusion.sampler_helpers import DATA
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.diffusion.noise import MODES, Noise, slerp
from ondevice.diffusion.philox import philox4x32
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


KNOWN = [  # Random123 1.14, tests/kat_vectors, "philox4x32 10": counter, key, answer
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("counter, key, answer", KNOWN)
def test_philox_gives_its_published_answers(counter: tuple[int, ...], key: tuple[int, int], answer: Any) -> None:
    assert tuple(int(word) for word in philox4x32(tuple(np.uint64(word) for word in counter), key)) == answer


def test_cuda_s_numbers_are_those_that_are_published_of_a_gpu() -> None:
    """Of torch.randn((3, 4), device="cuda") after torch.manual_seed(0), as WebUI's modules/rng_philox.py tells them."""
    published = [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ]
    np.testing.assert_allclose(Noise(0, "cuda").randn((3, 4)), published, rtol=0, atol=3e-7)


def test_each_number_of_cuda_has_its_place_and_each_draw_is_another() -> None:
    first = Noise(2**40 + 3, "cuda").randn((70000,))
    stream = Noise(2**40 + 3, "cuda")
    assert np.array_equal(stream.randn((17,)), first[:17]), "a shorter draw is the beginning of a longer one"
    assert not np.isin(stream.randn((17,)), first).any()
    assert abs(first.mean()) < 0.02 and abs(first.std() - 1) < 0.02
    assert not np.array_equal(Noise(3, "cuda").randn((8,)), first[:8]), "all 64 bits of a seed matter"


@pytest.mark.parametrize("mode", MODES)
def test_a_variation_goes_from_one_noise_to_another(mode: str) -> None:
    shape = (1, 4, 6, 5)
    low, high = Noise(1, mode).randn(shape), Noise(2, mode).randn(shape)
    whole = Noise(1, mode, variation=(2, 1.0))
    np.testing.assert_allclose(whole.initial(shape), high, rtol=1e-6, atol=1e-6)
    part = Noise(1, mode, variation=(2, 0.3)).initial(shape)
    assert np.array_equal(part, slerp(0.3, low, high)) and not np.array_equal(part, low)
    whole.enter_loop()
    later = Noise(1, mode)
    later.randn(shape)
    assert np.array_equal(whole.randn(shape), later.randn(shape)), "the variation takes nothing from the stream"


def test_a_delta_gives_the_loop_a_stream_of_its_own() -> None:
    stream = Noise(4, delta=31337)
    assert np.array_equal(stream.initial((1, 4, 2, 2)), Noise(4).randn((1, 4, 2, 2)))
    stream.enter_loop()
    assert np.array_equal(stream.randn((20,)), Noise(4 + 31337).randn((20,)))


def test_noises_that_are_almost_alike_are_summed() -> None:
    low = Noise(1).randn((1, 4, 6, 5))
    high = (low * np.float32(3)).astype(np.float32)
    np.testing.assert_allclose(slerp(0.25, low, high), 0.25 * low + 0.75 * high, rtol=1e-6)


def test_noise_of_one_row_has_no_direction() -> None:
    with pytest.raises(UsageError, match="variation_strength: a picture of one row of latents has no variations"):
        Noise(1, variation=(2, 0.5)).initial((1, 4, 1, 5))
