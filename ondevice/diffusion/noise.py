"""The normal numbers that a picture is drawn from, by its seed (docs/noise.md).

Modes: `torch` has the bits of diffusers with a CPU generator; `cuda` the numbers of one on a CUDA device, where the
numbers of a draw are no more than its threads; `a1111` those of AUTOMATIC1111's WebUI on such a device, where no seed
sets what an image's encoder draws, and its mean is taken here.
"""

from __future__ import annotations

import numpy as np

from ondevice.diffusion.mersenne import Mersenne, Position
from ondevice.diffusion.philox import Philox
from ondevice.errors import UsageError

MODES = ("torch", "cuda", "a1111")
NOISE_FIELDS = ("seed", "seed_mode", "variation_seed", "variation_strength", "noise_seed_delta")
"""Of a request: all that the numbers depend on."""

ALIKE = 0.9995
"""Mean cosine of two noises from which on WebUI takes a plain sum of them."""


class Noise:
    """All the draws of one picture, in their order.

    Args:
        seed: -2**63 .. 2**64 - 1, as torch takes it.
        mode: one of MODES.
        variation: (seed, strength) of a second noise that the initial one is turned towards, by 0 to 1 of the way.
        delta: draws of the loop come from a stream of their own, of seed + delta (WebUI's ENSD); 0: they go on.

    Raises:
        UsageError: one of the seeds is none.
    """

    def __init__(
        self, seed: int, mode: str = "torch", *, variation: tuple[int, float] | None = None, delta: int = 0
    ) -> None:
        _check_seed(seed, "seed")
        _check_seed(seed + delta, "noise_seed_delta")
        if variation is not None:
            _check_seed(variation[0], "variation_seed")
        self._source = Mersenne if mode == "torch" else Philox
        self._stream: Mersenne | Philox = self._source(seed)
        self._loop_seed, self._variation = seed + delta if delta else None, variation
        self.draws_encodings = mode != "a1111"

    def randn(self, shape: tuple[int, ...]) -> np.ndarray:
        """float32 array of `shape`, row-major: the next draw."""
        return self._stream.randn(shape)

    def initial(self, shape: tuple[int, ...]) -> np.ndarray:
        """float32 [1, channels, height, width]: the next draw, turned towards the variation's first."""
        noise = self.randn(shape)
        if self._variation is None or not self._variation[1]:
            return noise
        seed, strength = self._variation
        return slerp(strength, noise, self._source(seed).randn(shape))

    @property
    def position(self) -> Position:
        """Where the stream that is drawn from now is."""
        return self._stream.position

    def skip_to(self, position: Position) -> None:
        """Go on from a later position of that stream."""
        self._stream.skip_to(position)

    def enter_loop(self) -> None:
        """What is drawn from here on is the loop's."""
        if self._loop_seed is not None:
            self._stream = self._source(self._loop_seed)


def slerp(strength: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """float32 [1, c, h, w]: from `low` towards `high` on a sphere, each column of h values by itself.
    In double, rounded once.

    Reference: `slerp` of WebUI's modules/rng.py, with both of its oddities: vectors are columns, since it is given
    [c, h, w] and takes dimension 1; and noises that are almost alike are summed with their weights exchanged.

    Raises:
        UsageError: a column has one value, and no direction.
    """
    if low.shape[2] < 2:
        raise UsageError(
            f"a picture of one row of latents has no variations (got {low.shape[2]}, expected 2 or more)",
            where="variation_strength",
            fix="use 0, or a higher picture",
        )
    wide_low, wide_high = low.astype(np.float64), high.astype(np.float64)
    lengths = [np.sqrt((wide * wide).sum(2, keepdims=True)) for wide in (wide_low, wide_high)]
    cosine = ((wide_low / lengths[0]) * (wide_high / lengths[1])).sum(2, keepdims=True)
    if cosine.mean() > ALIKE:
        return (wide_low * strength + wide_high * (1 - strength)).astype(np.float32)
    angle = np.arccos(cosine)
    parts = np.sin((1 - strength) * angle), np.sin(strength * angle)
    return ((parts[0] * wide_low + parts[1] * wide_high) / np.sin(angle)).astype(np.float32)


def _check_seed(seed: int, where: str) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
        raise UsageError(
            f"not a seed (got {seed!r}, expected an integer from 0 to 2**64-1)", where=where, fix="choose another seed"
        )
