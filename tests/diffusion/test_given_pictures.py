"""Pictures in each of the ways in which a pipeline asks for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference.pictures import clip_vision

from ondevice.bundle.pipeline import Given
from ondevice.diffusion.canny import edge_picture, edges
from ondevice.diffusion.clip_picture import clip_picture
from ondevice.diffusion.given_pictures import GivenPictures

DATA = Path(__file__).resolve().parents[1] / "data" / "pictures"
KNOWN = {
    "image": Given("fit", False),
    "control": Given("unit", True),
    "mask": Given("mask", True),
    "painted": Given("masked", True, ("image", "mask")),
    "lines": Given("edges", False, ("image",)),
    "seen": Given("clip_vision", False, ("image",)),
}


def test_edges_are_opencvs() -> None:
    """cv2.Canny(picture, 100, 200) of OpenCV 5.0, in colour and grey."""
    stored = np.load(DATA / "canny.npz")
    grey = np.repeat(stored["picture"][..., 1:2], 3, 2)
    for name, pixels in (("picture", stored["picture"]), ("noise", stored["noise"]), ("grey", grey)):
        assert np.array_equal(edges(pixels), stored[f"{name}.edges"]), name


THRESHOLDS = {"low": (50, 150), "swapped": (700, 90), "fractions": (99.5, 500.7)}


@pytest.mark.parametrize("word", THRESHOLDS)
def test_edges_of_other_thresholds_are_opencvs(word: str) -> None:
    """cv2.Canny(picture, LOW, HIGH): the smaller is the lower one, whichever comes first."""
    stored = np.load(DATA / "canny.npz")
    for name in ("picture", "noise"):
        white = edge_picture(stored[name], *THRESHOLDS[word])
        assert np.array_equal(white[..., 1] == 255, stored[f"{name}.edges_{word}"]), name
        assert set(np.unique(white)) == {0, 255} and np.array_equal(white[..., 0], white[..., 2])


def test_clips_picture_is_that_of_stable_video_diffusion() -> None:
    stored = np.load(DATA / "clip_vision.npz")
    found = clip_picture(stored["picture"])
    assert found.shape == (1, 3, 224, 224) and found.dtype == np.float32
    np.testing.assert_allclose(found[:, :, ::7, ::7], stored["every7"], rtol=0, atol=1e-5)
    large = np.random.default_rng(1).integers(0, 256, (300, 1000, 3), np.uint8)  # which is blurred, too
    np.testing.assert_allclose(clip_picture(large), clip_vision(large), rtol=0, atol=1e-6)
    turned = clip_picture(np.ascontiguousarray(stored["picture"].transpose(1, 0, 2)))
    np.testing.assert_allclose(turned.transpose(0, 1, 3, 2), found, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("pixel", "inside"),
    [((128, 128, 128), True), ((127, 127, 127), False), ((255, 87, 1), False), ((255, 87, 2), True),
     ((0, 218, 0), True), ((0, 217, 0), False)],
)  # fmt: skip
def test_a_mask_is_where_grey_is_light(pixel: tuple[int, int, int], inside: bool) -> None:
    given = GivenPictures(KNOWN, {"mask": np.full((8, 8, 3), pixel, np.uint8)}, (8, 8), 8)
    assert (given.mask("mask") == inside).all()


def test_masks_and_what_is_made_of_them() -> None:
    image, mask = np.full((16, 24, 3), 200, np.uint8), np.zeros((16, 24, 3), np.uint8)
    mask[8, 16] = 255  # the pixel that latent (1, 2) takes; the others of its 64 are dark
    mask[1, 1] = 255
    given = GivenPictures(KNOWN, {"image": image, "mask": mask}, (24, 16), 8)
    assert given.prepared("mask").tolist() == [[[[0, 0, 0], [0, 0, 1]]]]
    painted = given.prepared("painted")
    assert np.count_nonzero(painted == 0) == 6 and painted[0, :, 8, 16].tolist() == [0, 0, 0]
    assert painted.shape == given.prepared("lines").shape == (1, 3, 16, 24) and not given.prepared("lines").any()
    assert given.prepared("seen").shape == (1, 3, 224, 224)


def test_a_condition_is_the_resized_picture_of_0_to_1() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (20, 31, 3), np.uint8)
    given = GivenPictures(KNOWN, {"control": pixels}, (24, 16), 8)
    want = (given.fitted("control").astype(np.float32) / np.float32(255)).transpose(2, 0, 1)[np.newaxis]
    assert given.prepared("control").tobytes() == np.ascontiguousarray(want).tobytes() and want.max() > 0.9
    assert np.array_equal(
        np.float32(2) * want - np.float32(1),
        GivenPictures({"control": Given("fit", True)}, {"control": pixels}, (24, 16), 8).prepared("control"),
    )


def test_what_is_made_of_others_is_there_where_they_are() -> None:
    given = GivenPictures(KNOWN, {"image": np.zeros((8, 8, 3), np.uint8)}, (8, 8), 8)
    assert [given.has(name) for name in KNOWN] == [True, False, False, False, True, True]
