"""The table covers every op, and losers say why."""

import pytest

from ondevice.errors import NoKernelError
from ondevice.lower.kernel_file import load_all
from ondevice.lower.select import CANDIDATES, select

KERNELS = load_all()
CONV = {"n": 1, "ic": 4, "h": 8, "w": 8, "oc": 4, "oh": 8, "ow": 8, "kh": 3, "kw": 3, "stride": 1, "pad_top": 1, "pad_left": 1}


def test_every_file_is_a_candidate_for_the_ops_it_names() -> None:
    assert set(KERNELS) == {name for names in CANDIDATES.values() for name in names}
    for op, names in CANDIDATES.items():
        assert all(op in KERNELS[name].ops for name in names)
    for name, kernel in KERNELS.items():
        assert all(name in CANDIDATES[op] for op in kernel.ops)


def test_every_op_ends_with_a_kernel_that_takes_any_shape() -> None:
    assert all(KERNELS[names[-1]].header["needs"] == {} for names in CANDIDATES.values())


@pytest.mark.parametrize(
    "change, name",
    [
        ({"kh": 1, "kw": 1, "pad_top": 0, "pad_left": 0}, "conv2d_1x1"),
        ({"kh": 1, "kw": 1, "pad_top": 0, "pad_left": 0, "stride": 2, "oh": 4, "ow": 4}, "conv2d_tile"),
        ({"kh": 1, "kw": 1, "pad_top": 0, "pad_left": 0, "oh": 9}, "conv2d_tile"),
        ({}, "conv2d_tile"),
        ({"kh": 5}, "conv2d"),
        ({"stride": 3}, "conv2d"),
    ],
    ids=str,
)
def test_convolutions(change: dict[str, int], name: str) -> None:
    assert select("Conv", CONV | change, KERNELS).name == name


def test_says_why_each_candidate_lost() -> None:
    few = {name: KERNELS[name] for name in ("conv2d_1x1", "conv2d_tile")}
    with pytest.raises(NoKernelError) as caught:
        select("Conv", CONV | {"kh": 5}, few)
    assert "conv2d_1x1: kh=5 is over 1; conv2d_tile: kh=5 is over 3; conv2d: its file is missing" in str(caught.value)


def test_unknown_op() -> None:
    with pytest.raises(NoKernelError, match=r"Einsum \{'n': 1\}: no kernel fits \(no file for this op\)\. Fix: add a fallback kernel\."):
        select("Einsum", {"n": 1}, KERNELS)
