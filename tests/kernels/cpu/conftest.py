"""What kernels for a CPU's matrix unit run on."""

import pytest
from kernels.bench import Bench
from kernels.matrix_units import SPELLINGS, Spelled

from ondevice.run.discovery import find_device, unit_of


@pytest.fixture(scope="session", params=SPELLINGS)
def spelled(request: pytest.FixtureRequest) -> Bench:
    """This machine's device with one spelling of the words."""
    if request.param == "unit" and not unit_of(find_device()).name:
        pytest.skip("this machine has no matrix unit")
    return Bench(Spelled(request.param))
