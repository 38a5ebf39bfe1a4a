"""Decoding in bands: every row is made once, from the rows it needs; statistics are those of the whole picture."""

import numpy as np
import pytest
from checkpoint_files import tiny_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.converters import build
from ondevice.diffusion.bands import Stage, _Sums, bands, decode, held_bytes
from ondevice.errors import BundleError, UsageError

F32 = np.dtype(np.float32)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 300), st.integers(4, 80))
def test_bands_keep_every_row_once_and_none_at_an_inner_edge(height, high):
    high = min(height, high)
    end = 0
    for start, begin, stop in bands(height, high):
        assert start >= 0 and start + high <= height and begin == end < stop
        assert begin == 0 or begin > start  # a row above, to look at
        assert stop == height or stop < start + high  # and one below
        end = stop
    assert end == height


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 3), st.floats(-100, 100))
def test_sums_of_bands_are_those_of_the_picture(heights, groups, mean):
    rng = np.random.default_rng(sum(heights))
    picture = (rng.normal(size=(1, sum(heights), 7, 6)) + mean).astype(np.float32)
    sums = _Sums(groups, 6)
    for end, rows in zip(np.cumsum(heights), heights, strict=True):
        sums.add(picture[:, end - rows : end])
    found, parts = sums.result("x"), picture.astype(np.float64).reshape(-1, groups, 6 // groups)
    np.testing.assert_allclose(found["x:mean"], parts.mean((0, 2)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["x:variance"], parts.var((0, 2)), rtol=1e-5, atol=1e-6)


def blurred(x):
    """Over rows, nothing beyond the edges: what a convolution sees."""
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    return padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]


def normal(x, mean, variance):
    return (
        (x - np.repeat(mean, x.shape[3] // len(mean))) / np.sqrt(np.repeat(variance, x.shape[3] // len(mean)) + 1)
    ).astype(np.float32)


class Session:
    """Stages as short formulas: a -> (b, twice as large) -> c = blur(normal(b)) -> d = blur(normal(c)) + blur(b), which
    gets the memory of b while it reads a row above and one below -> sample."""

    def run(self, component, inputs, *, stage, **_):
        given_ = dict(inputs)
        if stage == 1:
            return {"a": np.ascontiguousarray(given_["latent:sample"].transpose(0, 2, 3, 1))}
        if stage == 2:
            return {"b": blurred(given_["a"].repeat(2, 1).repeat(2, 2))}
        if stage == 3:
            return {"c": blurred(normal(given_["b"], given_["b:mean"], given_["b:variance"]))}
        if stage == 4:
            return {"d": blurred(normal(given_["c"], given_["c:mean"], given_["c:variance"])) + blurred(given_["b"])}
        return {"sample": blurred(normal(given_["d"], given_["d:mean"], given_["d:variance"]))[..., :3]}


def stages(height, width, small, large):
    def stage(number, output, output_shape, **inputs):
        return Stage(
            "vae_decoder",
            {"stage": number},
            {name.replace("_", ":"): shape for name, shape in inputs.items()},
            output,
            output_shape,
            F32,
        )

    b, g = (1, large, 2 * width, 4), (2,)
    return [
        stage(1, "a", (1, height, width, 4), latent_sample=(1, 4, height, width)),
        stage(2, "b", (1, 2 * small, 2 * width, 4), a=(1, small, width, 4)),
        stage(3, "c", b, b=b, b_mean=g, b_variance=g),
        stage(4, "d", b, b=b, c=b, c_mean=g, c_variance=g),
        stage(5, "sample", (1, large, 2 * width, 3), d=b, d_mean=g, d_variance=g),
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 40), st.integers(4, 20), st.integers(4, 40))
def test_the_same_picture_in_bands_as_in_one(height, small, large):
    latents = np.random.default_rng(height).normal(size=(1, 4, height, 3)).astype(np.float32)
    whole = decode(Session(), stages(height, 3, height, 2 * height), latents)
    cut = decode(Session(), stages(height, 3, min(small, height), min(large, 2 * height)), latents)
    assert whole.shape == (1, 3, 2 * height, 6) and whole.dtype == np.float32
    np.testing.assert_allclose(cut, whole, rtol=1e-4, atol=1e-4)


def test_what_is_held_is_counted():
    picture = 16 * 6 * 4 * 4  # of b, c and d
    assert held_bytes(stages(8, 3, 4, 8)) == 2 * picture  # d takes the place of b or c


def test_bands_lower_than_two_rows_of_each_edge_are_refused():
    checkpoint = tiny_checkpoint()
    with pytest.raises(UsageError, match=r"stage 1, 7 rows \(expected 1\.\..*, at least 8\)"):
        build(checkpoint).graph("vae_decoder", height=9, width=5, stage=1, rows=7)


def test_stages_that_do_not_fit_are_refused():
    latents = np.zeros((1, 4, 8, 3), np.float32)
    for wrong in (stages(8, 3, 9, 8), stages(8, 4, 4, 8)[1:]):
        with pytest.raises(BundleError, match="convert the checkpoint again"):
            decode(Session(), [stages(8, 3, 4, 8)[0], *wrong[-4:]], latents)
