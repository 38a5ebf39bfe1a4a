"""Fixtures that every part uses: goldens, and a kernel cache of the tests' own."""

import os
import tempfile
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption("--bless", action="store_true", help="rewrite the goldens with what the code gives now")


def pytest_configure(config):
    # One cache for the session, apart from the user's: builds are shared between tests, and nothing old can hide a failure.
    os.environ.setdefault("ONDEVICE_CACHE", tempfile.mkdtemp(prefix="ondevice-tests-"))


@pytest.fixture
def golden(request):
    """`golden(name, text)`: compare with tests/golden/<name>, or rewrite it under --bless."""

    def compare(name, text):
        path = GOLDEN / name
        if request.config.getoption("--bless"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} is missing; pytest --bless writes it"
        assert text == path.read_text()

    return compare
