"""Plans that need something of a device, and read operands as images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bundle.image_bundle import ROWS, WIDTH, image_answer, write_images
from null_device import NullDevice

from ondevice.bundle.reader import open_bundle
from ondevice.errors import DeviceError
from ondevice.run.discovery import capabilities
from ondevice.run.opencl import OpenCLDevice
from ondevice.run.session import Session

X = np.arange(ROWS * WIDTH * 4, dtype=np.float32).reshape(ROWS, WIDTH * 4) % 41 / 8 - 2.5


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write_images(tmp_path / "t")


def test_images_are_made_over_buffers_once(written: Path) -> None:
    device = NullDevice()
    session = Session(open_bundle(written), device)
    for _ in range(2):
        session.run("images", {"x": X}, width=WIDTH)
    assert [line for line in device.log if line.startswith("image")] == [
        "image images width=64: twice f32 64x4",
        "image images width=64: w f16 128x2",
    ]


def test_images_are_made_over_streamed_weights(written: Path) -> None:
    device = NullDevice()
    session = Session(open_bundle(written), device)
    session.stream_weights(0)
    session.run("images", {"x": X}, width=WIDTH)
    assert [line for line in device.log if line.startswith("image")] == [
        "image images width=64: twice f32 64x4",
        "image images width=64: w f16 128x2",
    ]


def test_what_a_device_has_not_is_refused_before_anything_is_made(written: Path) -> None:
    device = NullDevice(limits={"caps": ["half"]})
    with pytest.raises(DeviceError) as caught:
        Session(open_bundle(written), device).run("images", {"x": X}, width=WIDTH)
    assert str(caught.value) == (
        "images width=64: it needs image2d (operands that are read as images), which null has not. "
        "Fix: convert for a --target of this device, or use another --device."
    )
    assert device.log == []


@pytest.mark.parametrize(
    "version, images, extensions, expected",
    [
        ("OpenCL 1.2 x", True, "cl_khr_fp16 cl_khr_subgroups", ["half", "subgroups"]),
        ("OpenCL 2.0 x", True, "", ["image2d"]),
        ("OpenCL 2.0 x", False, "cl_qcom_subgroup_constant_load", ["wave_constants"]),
        ("OpenCL 3.0 x", True, "cl_intel_subgroups", ["subgroups"]),
        ("OpenCL 3.0 x", True, "cl_khr_image2d_from_buffer", ["image2d"]),
    ],
)
def test_capabilities_are_told_by_version_and_extensions(
    version: str, images: bool, extensions: str, expected: list[str]
) -> None:
    assert capabilities(SimpleNamespace(version=version, image_support=images, extensions=extensions)) == expected


@pytest.fixture
def imaging(device: OpenCLDevice) -> OpenCLDevice:
    """A device that has images; what another says is tested above."""
    if "image2d" not in device.facts()["caps"]:
        pytest.skip(f"{device.name} has no images over buffers")
    return device


@pytest.mark.device
@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("through", [None, 0])
def test_an_image_shows_what_was_written_to_its_buffer(
    written: Path, imaging: OpenCLDevice, check: bool, through: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if through is not None:  # where weights are copied
        facts = imaging.facts() | {"maps_weights": False}
        monkeypatch.setattr(imaging, "facts", lambda: facts)
    session = Session(open_bundle(written), imaging, check=check)
    session.stream_weights(through)
    for x in (X, -X):
        np.testing.assert_array_equal(session.run("images", {"x": x}, width=WIDTH)["y"], image_answer(x))


@pytest.mark.device
def test_an_image_that_is_too_large_or_refused_is_an_error(imaging: OpenCLDevice) -> None:
    buffer = imaging.alloc(64 * 70_000 * 8, "tall")
    with pytest.raises(DeviceError, match=r"tall: it is read as an image of 64 by 70000 texels, and .* takes at most "):
        imaging.image(buffer, 64, 70_000, "f16", "tall")
    with pytest.raises(
        DeviceError, match=r"short: .* could not read f32 as an image of 64 by 64 texels over a buffer: "
    ):
        imaging.image(imaging.alloc(1024, "short"), 64, 64, "f32", "short")
