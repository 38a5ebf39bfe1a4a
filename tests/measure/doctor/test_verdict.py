"""A result is right within what its storage and its sums allow, and not beyond."""

import numpy as np
import pytest

from ondevice.measure.doctor.content import FILLS, POSITIVE, content
from ondevice.measure.doctor.verdict import Bound, compare

BOUND = Bound(relative=2.0**-10, scaled=2.0**-20, least=0.0)
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "expected, got, wrong",
    [
        ([1.0, -2.0], [1.0009, -2.0019], 0),
        ([1.0, -2.0], [1.0011, -2.0], 1),
        ([1024.0, 0.0], [1024.0, 0.0009], 0),  # a sum's error goes by the largest value
        ([1024.0, 0.0], [1024.0, 0.0011], 1),
        ([NAN, INF, -INF], [NAN, INF, -INF], 0),
        ([1.0, 2.0, 3.0], [NAN, INF, 3.0], 2),
        ([NAN, INF, -INF], [0.0, -INF, -INF], 2),
        ([INF, 1.0], [INF, 1.0], 0),
    ],
)
def test_what_is_wrong(expected, got, wrong):
    found = compare("x", np.array(expected, np.float32), np.array(got, np.float32), BOUND)
    assert (found.count if found else 0) == wrong


def test_the_worst_is_told():
    want = np.ones((2, 3), np.float32)
    got = want.copy()
    got[0, 1], got[1, 2] = 1.5, NAN
    text = str(compare("y", want, got, BOUND))
    assert text == (
        "2 of 6 values of y are wrong, 1 of them NaN or infinite; the worst at [1, 2] is nan "
        "(expected 1, at most 0.00098 off)"
    )
    got[1, 2] = 1.0
    assert "the worst at [0, 1] is 1.5 (expected 1" in str(compare("y", want, got, BOUND))


@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("fill", FILLS)
def test_made_up_numbers_are_exact_in_half(dtype, fill):
    values = content((7, 331), dtype, 3, fill).astype(np.float64)
    whole = values * (2048 if fill == POSITIVE else 1024)
    low, high = (1, 2048) if fill == POSITIVE else (-1024, 1023)
    assert (whole == np.rint(whole)).all() and low <= whole.min() < whole.max() <= high
    assert abs(values.mean() - (0.5 if fill == POSITIVE else 0.0)) < 0.05
    assert (values != content((7, 331), dtype, 4, fill)).mean() > 0.99


def test_made_up_indices():
    ids = content((3, 77), "i32", 0, POSITIVE)
    assert ids.dtype == np.int32 and (ids.min(), ids.max()) == (0, 63)
