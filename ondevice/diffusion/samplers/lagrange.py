"""Lagrange's basis polynomials, which the solvers that remember earlier outputs integrate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from numpy.polynomial import Polynomial


def lagrange(nodes: Sequence[float]) -> Iterator[Polynomial]:
    """One per node: 1 there, and 0 at the others, which must differ from it."""
    for j, node in enumerate(nodes):
        basis = Polynomial([1.0])
        for k, other in enumerate(nodes):
            if k != j:
                basis = basis * Polynomial([-other, 1.0]) / (node - other)
        yield basis
