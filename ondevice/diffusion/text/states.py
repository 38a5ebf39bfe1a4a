"""How weights of a text's tokens act on the states that its encoder gives. The specification is docs/prompts.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ondevice.diffusion.text.chunks import Chunk, weights

_LEAST = 1e-5  # of a weight, where it says how far to go towards a text without the piece
Encode = Callable[[Chunk], np.ndarray]
"""float32 [1, length, width]: the states of a chunk."""


def is_weighted(chunk: Chunk) -> bool:
    """Whether any weight is not 1."""
    return any(token.weight != 1 for token in chunk)


def mean_kept(chunk: Chunk, encode: Encode, start: int = 1) -> np.ndarray:
    """States times weights, brought back to the mean that they had. Reference: AUTOMATIC1111's EmphasisOriginal."""
    states = encode(chunk)
    scaled = weights(chunk, states.shape[1], start)[:, np.newaxis] * states
    mean = scaled.mean(dtype=np.float64)
    ratio = np.float32(states.mean(dtype=np.float64) / mean) if mean else np.float32(1)
    return np.asarray(ratio * scaled, np.float32)


def from_empty(chunk: Chunk, encode: Encode, start: int = 1) -> np.ndarray:
    """States moved away from the empty text's by their weights, and, of weights below 1, towards those of the text
    without these words. Reference: compel's EmbeddingsProvider with DownweightMode.REMOVE."""
    empty = encode([])
    lessened = [piece for piece in dict.fromkeys(token.piece for token in chunk) if _weight(chunk, piece) < 1]
    parts = [math.tan((1 - max(_weight(chunk, piece), _LEAST)) * math.pi / 2) for piece in lessened]
    total = sum(parts, 1.0)
    states: np.ndarray = np.float32(1 / total) * _moved(chunk, encode(chunk), empty, start)
    for piece, part in zip(lessened, parts, strict=True):
        without = [token for token in chunk if token.piece != piece]
        states = states + np.float32(part / total) * _moved(without, encode(without), empty, start)
    return states


EMPHASIS: dict[str, Callable[[Chunk, Encode, int], np.ndarray]] = {"mean": mean_kept, "compel": from_empty}
"""The ways, by name; the number is of positions before a chunk's own. What is computed is float32."""


def _weight(chunk: Sequence, piece: int) -> float:
    return next(token.weight for token in chunk if token.piece == piece)


def _moved(chunk: Chunk, states: np.ndarray, empty: np.ndarray, start: int) -> np.ndarray:
    factors = weights(chunk, states.shape[1], start)[:, np.newaxis]
    return np.where(factors == 1, states, empty + factors * (states - empty))
