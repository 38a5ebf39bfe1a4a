"""Adapters on their way into a bundle: rows of the manifest, and factors in shards of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ondevice.bundle.adapters_file import PRODUCT, WHOLE
from ondevice.bundle.weights import WeightSource
from ondevice.graph.adapted import Change, Changes


def carried(name: str, changes: Changes, read: frozenset[str]) -> tuple[dict[str, Any], dict[str, WeightSource]]:
    """An adapter's row of the manifest, and its factors by their keys.

    Args:
        read: the weights of the checkpoint that stored ones come from; a change of another one is left out.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    sources: dict[str, WeightSource] = {}
    for leaf, terms in changes.items():
        for place, term in enumerate(terms if leaf in read else ()):
            words = WHOLE if len(term.shapes) == 1 else PRODUCT
            keys = {word: f"adapters/{name}/{leaf}:{place}:{word}" for word in words}
            rows.setdefault(leaf, []).append({**keys, "scale": term.scale})
            for index, (key, shape) in enumerate(zip(keys.values(), term.shapes, strict=True)):
                sources[key] = WeightSource(_reader(term, index), term.dtype, shape)
    return {"scale": 1.0, "changes": rows}, sources


def _reader(term: Change, index: int) -> Callable[[], np.ndarray]:
    return lambda: term.read()[index]
