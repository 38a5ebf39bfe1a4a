"""A text encoder's runs for the chunks of a text, and what becomes of their results.
The specification is docs/pipeline.md, "Texts"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ondevice.diffusion.text.chunks import Chunk, Pieces, start_of
from ondevice.diffusion.text.states import EMPHASIS, is_weighted


class Host(Protocol):
    """What is asked of a session: values of a device as arrays, and back."""

    def read(self, value: Any) -> np.ndarray: ...

    def put(self, array: np.ndarray) -> Any: ...


def encoded(
    chunks: Sequence[Chunk], run: Callable[[Chunk], Mapping[str, Any]], host: Host, tokenizer: Pieces, emphasis: str
) -> dict[str, Any]:
    """What a role makes of a text, by its output ports: states [1, chunks * length, width], weighted; and of what has
    another shape the first chunk's.

    Args:
        run: the role's results for one chunk.
        tokenizer: says how many positions a chunk has, and whether the first of them is its start.
        emphasis: one of EMPHASES.
    """
    known: dict[tuple[int, ...], Mapping[str, Any]] = {}

    def made(chunk: Chunk) -> Mapping[str, Any]:
        ids = tuple(token.id for token in chunk)
        if ids not in known:
            known[ids] = run(chunk)
        return known[ids]

    first, length = made(chunks[0]), tokenizer.length
    weighted = emphasis != "none" and any(map(is_weighted, chunks))
    found = dict(first)
    for port, value in first.items():
        if len(chunks) == 1 and not weighted:
            continue  # it stays where it is
        array = host.read(value)
        if array.ndim == 3 and array.shape[:2] == (1, length):

            def states(chunk: Chunk, port: str = port) -> np.ndarray:
                return host.read(made(chunk)[port]).astype(np.float32)

            start = len(start_of(tokenizer))
            parts = [EMPHASIS[emphasis](one, states, start) if is_weighted(one) else states(one) for one in chunks]
            found[port] = host.put(np.concatenate(parts, axis=1).astype(array.dtype))
    return found
