"""Stands for scipy.integrate, which diffusers' LMS class needs, where scipy is not installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class GaussLegendre:
    """Exact for the cubic polynomials that the class integrates."""

    @staticmethod
    def quad(function: Callable[[float], Any], low: Any, high: Any, **_: Any) -> tuple[float]:
        nodes, weights = np.polynomial.legendre.leggauss(8)
        half, middle = (float(high) - float(low)) / 2, (float(high) + float(low)) / 2
        return (half * sum(w * float(function(half * x + middle)) for x, w in zip(nodes, weights, strict=True)),)
