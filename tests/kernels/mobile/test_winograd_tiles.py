"""The two transforms of Winograd's F(4x4, 3x3) for phones' GPUs, against float64."""

import pytest
from kernels.bench import STORED, Bench, tunings
from kernels.test_winograd import KERNELS, check_band, check_input, check_output

pytestmark = pytest.mark.device
# One tile; tiles cut off at both edges, and fours of channels that fill no group; channels of several groups.
SIZES = [(1, 1, 1, 4), (2, 5, 7, 20), (1, 12, 9, 72)]


@pytest.mark.parametrize("size, up", [(SIZES[1], 1), (SIZES[1], 2), ((1, 4, 8, 32), 1)], ids=str)  # the last: an image
@pytest.mark.parametrize("stored", STORED)
def test_patches(phone_bench: Bench, size, up, stored):
    check_input(phone_bench, "winograd_patches", size, up, stored, {})


@pytest.mark.parametrize("activation, parts", [("", False), ("Silu", True), ("ThenRelu", True)])
@pytest.mark.parametrize("stored", STORED)
def test_pixels(phone_bench: Bench, activation, parts, stored):
    check_output(phone_bench, "winograd_pixels", SIZES[1], activation, parts, stored, {}, inplace=True)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["winograd_patches"]))
def test_tunings_of_patches(bench: Bench, size, stored, tuning):
    check_input(bench, "winograd_patches", size, 1, stored, tuning)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("stored, tuning", tunings(KERNELS["winograd_pixels"]))
def test_tunings_of_pixels(bench: Bench, size, stored, tuning):
    check_output(bench, "winograd_pixels", size, "Silu", True, stored, tuning, inplace=True)


def test_a_band_writes_its_own_tiles_only(bench: Bench):
    check_band(bench, "winograd_pixels")
