"""Weights with adapters: how changes are summed, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle.adapter_bundle import changed_weights

from ondevice.bundle import Bundle, open_bundle
from ondevice.bundle.changed import change_of
from ondevice.errors import NumericError
from ondevice.graph.adapted import Change


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(Path(__file__).resolve().parents[1] / "golden" / "bundle" / "adapters.ondevice")


@pytest.mark.parametrize(("rows", "columns", "rank"), [(7, 300, 1), (64, 37, 128), (3, 70_000, 5), (1, 1, 400)])
def test_changes_are_summed_in_their_order(rows: int, columns: int, rank: int) -> None:
    """To the last bit as players do it one by one: over the rank in ascending order, then over the terms."""
    rng = np.random.default_rng(rank)
    pairs = [
        (rng.standard_normal((rows, rank)).astype(kind), rng.standard_normal((rank, columns)).astype(kind))
        for kind in (np.float32, np.float16)
    ]
    terms = [
        (scale, Change(own, (up.shape, down.shape), "f32", lambda pair=(up, down): pair))
        for scale, own, (up, down) in zip((0.7, -1 / 3), (1 / 7, 0.1), pairs, strict=True)
    ]
    summed = np.zeros((rows, columns))
    for (scale, term), (up, down) in zip(terms, pairs, strict=True):
        product = np.zeros((rows, columns))
        for r in range(rank):
            product += up[:, r : r + 1].astype(float) * down[r : r + 1].astype(float)
        summed += (scale * term.scale) * product
    found = change_of((rows, columns), terms)
    assert found.dtype == np.float32 and (found == summed.astype(np.float32)).all()


@pytest.mark.parametrize("key", ["tiny/rows", "tiny/winograd.panels", "tiny/fused.int4 scales", "tiny/plain"])
def test_what_is_too_large_for_its_storage_is_refused(bundle: Bundle, key: str) -> None:
    scale = 1e42 if key == "tiny/plain" else 1e30
    with pytest.raises(NumericError, match=r"with its adapters it holds NaN, infinity, or what is too large") as said:
        changed_weights(bundle, [("first", scale)]).values(key)
    assert said.value.where == key and said.value.exit_code == 13


def test_weights_are_changed_where_a_term_is_for_them_alone(bundle: Bundle) -> None:
    first, second = (changed_weights(bundle, [(name, 1.0)]).keys for name in ("first", "second"))
    assert {"tiny/conv", "tiny/norm", "tiny/plain"} & first == {"tiny/norm", "tiny/plain"}
    assert first - second == {"tiny/norm", "tiny/plain", "tiny/scaled", "tiny/winograd"}
    assert "picked" not in first | second


def test_the_same_terms_are_the_same_changes(bundle: Bundle) -> None:
    one = changed_weights(bundle, [("first", 1.0)])
    assert one == one and one != changed_weights(bundle, [("first", 0.5)])
