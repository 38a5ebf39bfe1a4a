"""Noise with the numbers of `torch.randn` on a CUDA generator, without CUDA.

Philox4x32-10: a counter of four words and a key of two (the seed) give four words, each counter for itself. Every
number has a counter of its own: its place in the draw and the draw's place in the stream. The first two words become
one normal number by Box-Muller.

Reference: "Parallel Random Numbers: As Easy as 1, 2, 3" (SC11); PyTorch's aten/src/ATen/native/cuda/
DistributionTemplates.h, with cuRAND's `curand_normal4`; the arithmetic is that of the port to NumPy in AUTOMATIC1111's
WebUI (its RNG "NV"): constants of float32, all else in double, rounded to float32 at the end.
"""

from __future__ import annotations

import math

import numpy as np

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_UNIT = 2.0**-32
_TURN = float(np.float32(2.3283064e-10 * 6.2831855))  # 2 pi / 2**32, as cuRAND has it


class Philox:
    """A stream of standard normal numbers, as of a GPU that has a thread for each number of a draw (docs/noise.md).

    `seed`: any integer; its low 64 bits matter, as in torch.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self._draws = seed & 0xFFFFFFFFFFFFFFFF, 0

    @property
    def position(self) -> tuple[int, float | None]:
        """Where the stream is: draws made; nothing is kept between them."""
        return self._draws, None

    def skip_to(self, position: tuple[int, float | None]) -> None:
        """Go on from a later position of the same stream."""
        self._draws, _ = position

    def randn(self, shape: tuple[int, ...]) -> np.ndarray:
        """float32 array of `shape`, row-major, as `torch.randn(shape, generator=..., device="cuda")`."""
        places = np.arange(math.prod(shape), dtype=np.uint64)
        draw = self._draws
        self._draws += 1
        first, second, _, _ = philox4x32(
            (np.uint64(draw & 0xFFFFFFFF), np.uint64(draw >> 32), places & _LOW, places >> _HALF),
            (self._seed & 0xFFFFFFFF, self._seed >> 32),
        )
        radius = np.sqrt(-2.0 * np.log(first * _UNIT + _UNIT / 2))
        angle = second * _TURN + _TURN / 2
        return (radius * np.sin(angle)).astype(np.float32).reshape(shape)


def philox4x32(counter: tuple[np.ndarray | np.uint64, ...], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Four words of each counter of four, uint64 below 2**32 in and out; `key`: two words."""
    a, b, c, d = (np.asarray(word, np.uint64) for word in counter)
    low, high = key
    for _ in range(_ROUNDS):
        left, right = a * np.uint64(_MULTIPLIERS[0]), c * np.uint64(_MULTIPLIERS[1])
        a, c = (right >> _HALF) ^ b ^ np.uint64(low), (left >> _HALF) ^ d ^ np.uint64(high)
        b, d = right & _LOW, left & _LOW
        low, high = (low + _KEY_STEPS[0]) & 0xFFFFFFFF, (high + _KEY_STEPS[1]) & 0xFFFFFFFF
    return a, b, c, d
