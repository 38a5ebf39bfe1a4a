"""Fixtures that every part uses: goldens, what is made once in a run, and a kernel cache of the tests' own."""

import fcntl
import gc
import os
import tempfile
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption("--bless", action="store_true", help="rewrite the goldens with what the code gives now")


def pytest_configure(config):
    # One cache, apart from the user's, that all workers share and the next run finds again: compiling kernels takes
    # longer than all else. Its keys hold all that could change a kernel, so nothing old hides a failure;
    # `pytest --cache-clear` builds every kernel anew.
    if "ONDEVICE_CACHE" not in os.environ:
        kept = (
            config.cache.mkdir("kernels").resolve()
            if hasattr(config, "cache")
            else tempfile.mkdtemp(prefix="ondevice-tests-")
        )
        os.environ["ONDEVICE_CACHE"] = str(kept)  # workers inherit it


def pytest_collection_finish():
    # Eleven thousand tests are 800,000 objects that stay until the end. Each full collection of garbage would look at
    # all of them, for 0.7 s, a tenth of the run; and at what modules hold, for 0.08 s, so there is one less often.
    gc.freeze()
    gc.set_threshold(700, 10, 50)
    # Other workers have the other cores: processes that compile would only take as long to start.
    from ondevice.run import opencl

    opencl.COMPILERS = 1


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """`made_once(name, make)`: a path that `make(path)` makes, in the first worker of the run that asks for it. Several
    tests read it, in several processes, and none may change it."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent / "made_once" if "PYTEST_XDIST_WORKER" in os.environ else own / "made_once"
    folder.mkdir(exist_ok=True)

    def path_of(name, make):
        path = folder / name
        with open(folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                make(path)  # which leaves all of it or nothing
        return path

    return path_of


@pytest.fixture(scope="session")
def demo_bundle(made_once):
    """The demo model as `convert` makes it for this CPU, for pictures of 64x64 and 96x64."""

    def convert(path):
        from ondevice import cli

        assert cli.main(["convert", "demo", "--size", "64x64,96x64", "--out", str(path)]) == 0

    return made_once("demo.ondevice", convert)


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
