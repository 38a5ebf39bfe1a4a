"""Quantiles of the symmetric beta distribution, for schedules of arXiv 2407.12173; scipy's `beta.ppf(p, a, a)`."""

from __future__ import annotations

import math


def beta_quantile(p: float, a: float) -> float:
    """The x of 0 to 1 below which the part `p` of Beta(a, a) lies, in double precision. `a` is 0.1 to 10."""
    if p > 0.5:
        return 1.0 - beta_quantile(1.0 - p, a)
    if p <= 0.0:
        return 0.0
    # Newton's steps, held inside what is known to enclose the answer.
    low, high = 0.0, 0.5
    beta = math.gamma(a) ** 2 / math.gamma(2 * a)
    x = min((p * a * beta) ** (1 / a), 0.5)
    for _ in range(100):
        error = _below(x, a, beta) - p
        low, high = (low, x) if error > 0 else (x, high)
        step = x - error * beta / (x * (1 - x)) ** (a - 1)
        new = step if low < step < high else (low + high) / 2
        if abs(new - x) <= 1e-16 * x:
            break
        x = new
    return x


def _below(x: float, a: float, beta: float) -> float:
    """The part of Beta(a, a) below `x`, at most 1/2, by its power series (DLMF 8.17.8): all terms are positive."""
    total = term = 1.0
    k = 0
    while term > 1e-17 * total:
        term *= x * (2 * a + k) / (a + 1 + k)
        total += term
        k += 1
    return (x * (1 - x)) ** a / (a * beta) * total
