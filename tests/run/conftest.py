import pytest

from ondevice.errors import NoDeviceError
from ondevice.run.discovery import discover
from ondevice.run.opencl import OpenCLDevice


@pytest.fixture(params=["best", "second"])
def device(request: pytest.FixtureRequest) -> OpenCLDevice:
    """The device that is used by default, and the next best one where there is one."""
    try:
        usable = [found for found in discover()[0] if found.refused is None]
    except NoDeviceError as error:
        pytest.skip(str(error))
    number = ["best", "second"].index(request.param)
    if number >= len(usable):
        pytest.skip(f"there are {len(usable)} usable devices here")
    return OpenCLDevice(usable[number])
