import pytest
from kernels.bench import Bench

from ondevice.run.opencl import choose_device


@pytest.fixture(scope="session")
def bench() -> Bench:
    """The device on which kernels are tested: the best one here, or the one that ONDEVICE_DEVICE names."""
    return Bench(choose_device())
