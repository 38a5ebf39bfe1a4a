"""Our tensors in the order of axes, shape and dtype that an export's files have, and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import BundleError, PeerError
from ondevice.export.layout import from_file, to_file
from ondevice.export.manifest import Port


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_there_and_back(shape, data):
    """Also where axes are joined and a size is free."""
    ours = np.random.default_rng(0).standard_normal(shape, np.float32)
    axes = tuple(data.draw(st.permutations(range(len(shape)))))
    moved = [shape[axis] for axis in axes]
    there = data.draw(st.sampled_from([moved, [*moved[:1], 1, *moved[1:]], [int(np.prod(moved))]]))
    free = data.draw(st.sampled_from([None, *range(len(there))]))
    port = Port("p", "float32", tuple(0 if i == free else size for i, size in enumerate(there)), axes)
    given_to = to_file(port, ours, "x")
    assert given_to.shape == tuple(there)
    np.testing.assert_array_equal(given_to.reshape(-1), ours.transpose(axes).reshape(-1))
    np.testing.assert_array_equal(from_file(port, tuple(shape), given_to, "x"), ours)
    if len(there) == len(shape):
        np.testing.assert_array_equal(from_file(port, (0,) * len(shape), given_to, "x"), ours)


def test_a_first_dimension_of_one_is_repeated_and_dtypes_change():
    timestep = to_file(Port("t", "float16", (2,)), np.array([500.0], np.float32), "x")
    assert timestep.tolist() == [500, 500] and timestep.dtype == np.float16
    ids = to_file(Port("i", "float32", (1, 3)), np.array([[1, 2, 3]], np.int32), "x")
    assert ids.tolist() == [[1, 2, 3]] and ids.dtype == np.float32
    back = from_file(Port("o", "float16", (1, 2)), (2,), np.ones((1, 2), np.float16), "x")
    assert back.tolist() == [1, 1] and back.dtype == np.float32


def test_what_does_not_fit_is_refused():
    ours = np.zeros((2, 3), np.float32)
    for shape in ((7,), (4, 3), (5, 0)):
        with pytest.raises(BundleError, match=r"export.json: x has the shape .* there, which \[2, 3\] does not fill"):
            to_file(Port("p", "float32", shape), ours, "x")
    with pytest.raises(PeerError, match=r"x: it gave \[3, 2\] \(expected \[2, 3\] as in export.json\)"):
        from_file(Port("p", "float32", (2, 3)), (2, 3), ours.T, "x")
