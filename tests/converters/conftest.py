"""The tiny checkpoint that most tests of readers write in one form or another."""

from __future__ import annotations

import pytest
from checkpoint_files import Arrays, original_arrays, tiny_checkpoint

from ondevice.converters.component import Checkpoint


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return tiny_checkpoint()


@pytest.fixture(scope="module")
def arrays(tiny: Checkpoint) -> Arrays:
    """All its weights, as a single file in the original layout has them."""
    return original_arrays(tiny)
