"""Noise with the bits of `torch.randn` on a CPU generator, without torch.

The stream is mt19937. Sixteen or more values: 24-bit uniforms go through Box-Muller in runs of sixteen (the first eight
of a run are radii, the last eight angles), in float32. Fewer: one pair of 53-bit uniforms at a time in float64, the
second value of a pair kept for the next draw.
Reference: PyTorch ATen/native/cpu/DistributionTemplates.h (`normal_fill`), ATen/core/DistributionsHelper.h.

torch's x86 kernel takes logarithm, sine and cosine from the Cephes polynomials (`avx_mathfun.h`), and the compiler
contracts each multiply-add there into one rounding. The same polynomials with the same contractions stand below,
because NumPy's own functions differ in the last bit of one value in seven. (torch on a machine without AVX2 uses the C
library, and agrees with this within 5e-7 only.)
"""

from __future__ import annotations

import math

import numpy as np

Position = tuple[int, float | None]
_SKIPPED = 1 << 20  # words at a time
_F = np.float32
_RUN = 16
_LOG = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
_LN2_LOW, _LN2_HIGH = -2.12194440e-4, 0.693359375
_PI_4 = (-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8)
_SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)


class Mersenne:
    """A stream of standard normal numbers. Successive calls equal successive `torch.randn` calls on one generator.

    `seed`: any integer; only its low 32 bits matter, as in torch.
    """

    def __init__(self, seed: int) -> None:
        self._words = np.random.RandomState(seed & 0xFFFFFFFF)
        self._taken = 0
        self._kept: float | None = None

    @property
    def position(self) -> Position:
        """Where the stream is: words taken, and the number that is kept for the next short draw."""
        return self._taken, self._kept

    def skip_to(self, position: Position) -> None:
        """Go on from a later position of the same stream."""
        taken, kept = position
        while left := taken - self._taken:
            self._raw(min(left, _SKIPPED))
        self._kept = kept

    def randn(self, shape: tuple[int, ...]) -> np.ndarray:
        """float32 array of `shape`, row-major, as `torch.randn(shape, generator=...)`."""
        count = math.prod(shape)
        values = self._long(count) if count >= _RUN else self._short(count)
        return values.reshape(shape)

    def _raw(self, count: int) -> np.ndarray:
        """The next `count` 32-bit words."""
        self._taken += count
        return self._words.randint(0, 2**32, size=count, dtype=np.uint32)

    def _uniform(self, count: int) -> np.ndarray:
        return (self._raw(count) & np.uint32(0xFFFFFF)).astype(_F) * _F(2.0**-24)

    def _long(self, count: int) -> np.ndarray:
        values = self._uniform(count)
        whole = count - count % _RUN
        values[:whole] = _box_muller(values[:whole])
        if count % _RUN:  # torch draws sixteen fresh uniforms over the end, part of the last whole run included
            values[-_RUN:] = _box_muller(self._uniform(_RUN))
        return values

    def _short(self, count: int) -> np.ndarray:
        values = np.empty(count, _F)
        for i in range(count):
            if self._kept is not None:
                values[i], self._kept = self._kept, None
                continue
            high1, low1, high2, low2 = (int(word) for word in self._raw(4))
            u1, u2 = (((high << 32 | low) & (2**53 - 1)) * 2.0**-53 for high, low in ((high1, low1), (high2, low2)))
            radius, theta = math.sqrt(-2.0 * math.log1p(-u2)), 2.0 * math.pi * u1
            self._kept = radius * math.sin(theta)
            values[i] = radius * math.cos(theta)
        return values


def _fma(a: np.ndarray, b: np.ndarray | float, c: np.ndarray | float) -> np.ndarray:
    """float32 a*b+c with one rounding.
    The float64 product is exact, so only a tie of the float64 sum could differ (1 in 2**29)."""
    return (a.astype(np.float64) * _wide(b) + _wide(c)).astype(_F)


def _wide(x: np.ndarray | float) -> np.ndarray | np.float64:
    """A float32 array or constant as float64; constants are rounded to float32 first, as in the C source."""
    return x.astype(np.float64) if isinstance(x, np.ndarray) else np.float64(_F(x))


def _polynomial(x: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    y = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        y = _fma(y, x, c)
    return y


def _box_muller(uniforms: np.ndarray) -> np.ndarray:
    """[n*16] uniforms in [0, 1) -> [n*16] normals. float32."""
    runs = uniforms.reshape(-1, 2, _RUN // 2)
    radius = np.sqrt(_F(-2.0) * _log(_F(1.0) - runs[:, 0]))
    sine, cosine = _sincos(_F(2.0 * math.pi) * runs[:, 1])
    return np.stack([radius * cosine, radius * sine], axis=1).reshape(-1)


def _log(x: np.ndarray) -> np.ndarray:
    """log of positive normal float32 (Cephes `logf`)."""
    bits = x.view(np.int32)
    exponent = ((bits >> 23) - 126).astype(_F)
    x = ((bits & 0x007FFFFF) | 0x3F000000).view(_F)  # mantissa, in [0.5, 1)
    low = x < _F(0.707106781186547524)
    exponent = exponent - low.astype(_F)
    x = (x - _F(1.0)) + np.where(low, x, _F(0.0))
    z = x * x
    y = _polynomial(x, _LOG) * x
    y = _fma(y, z, exponent * _F(_LN2_LOW))
    y = _fma(-z, 0.5, y)
    return _fma(exponent, _LN2_HIGH, x + y)


def _sincos(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of float32 angles in [0, 2*pi] (Cephes `sinf`, `cosf`)."""
    octant = ((x * _F(1.27323954473516)).astype(np.int32) + 1) & ~1
    y = octant.astype(_F)
    for part in _PI_4:
        x = _fma(y, part, x)
    z = x * x
    c = _polynomial(z, _COS) * z
    c = _fma(c, z, -(z * _F(0.5))) + _F(1.0)
    s = _fma(_polynomial(z, _SIN) * z, x, x)
    direct = (octant & 2) == 0
    sine, cosine = np.where(direct, s, c), np.where(direct, c, s)
    return np.where(octant & 4, -sine, sine), np.where((octant - 2) & 4, cosine, -cosine)
