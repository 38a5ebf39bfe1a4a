"""One server for all tests that ask it."""

import pytest
from serving.serving_helpers import Running, converted


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    return converted(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def running(bundle, tmp_path_factory):
    server = Running(bundle, tmp_path_factory.mktemp("gallery"))
    yield server
    server.stop()
