"""Several devices that compute one network together: each is a rank, with a share of its weights.

A rank's graph is that of the whole with fewer heads and channels between the two products of a pair, of which the first
is cut by columns and the second by rows. What the second gives is a part of a sum, which `SumRanks` ends. Of one rank
alone that op gives what it is given.

Reference: "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism" (arXiv 1909.08053),
section 3.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

SUM = "SumRanks"
SHARE = "share"  # the op of a rank's share of a weight, in how a bundle says that weights are made
MOST = 8  # ranks


class Rank(NamedTuple):
    """Which of several, from 0 on, and how many there are."""

    number: int = 0
    of: int = 1


WHOLE = Rank()


def share_of(values: np.ndarray, axis: int, parts: int, number: int, ranks: int) -> np.ndarray:
    """The share that rank `number` has of an array along an axis: of each of so many equal parts of it, one after
    another, one of `ranks`. Their product must divide the axis."""
    shares = (np.split(part, ranks, axis)[number] for part in np.split(values, parts, axis))
    return np.concatenate(list(shares), axis)


def component_of(component: str, rank: Rank) -> str:
    """What a bundle calls a rank's share of a component."""
    return f"{component}_{rank.number + 1}of{rank.of}"


def is_share(component: str) -> bool:
    """Whether a bundle calls a rank's share so."""
    return re.fullmatch(r".+_[1-8]of[2-8]", component) is not None
