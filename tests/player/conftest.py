"""The C++ player (android_demo/player), built once for all tests of this folder, and what runs it."""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "android_demo" / "player"


def cmake():
    """CMake of this environment (a package of the extra `dev`), else the system's."""
    beside = Path(sys.executable).parent
    found = shutil.which("cmake", path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
    assert found, 'there is no CMake here: pip install -e ".[cpu,dev]"'
    return found


def run(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"


@pytest.fixture(scope="session")
def player_build(request):
    """Folder with `od_player` and each tool of android_demo/player/tests. Kept between runs; one process builds it."""
    cache = getattr(request.config, "cache", None)
    folder = Path(cache.mkdir("player")) if cache else Path(tempfile.gettempdir()) / f"ondevice-player-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        javac = shutil.which("javac")
        jni = [f"-DOD_JNI={Path(javac).resolve().parents[1] / 'include'}"] if javac else []
        run(cmake(), "-S", SOURCE, "-B", folder, "-DOD_TESTS=ON", *jni)
        run(cmake(), "--build", folder, "--parallel", "2")
    return folder


@pytest.fixture(scope="session")
def tool(player_build):
    """`tool(name, *arguments, input=None)`: run a tool that was built; gives what subprocess.run does, in text."""

    def call(name, *arguments, **options):
        options = {"capture_output": True, "text": True, "timeout": 300, "check": False, **options}
        return subprocess.run([str(player_build / name), *map(str, arguments)], **options)

    return call


@pytest.fixture
def odd(player_build):
    """Variables for a library that says of the host's CPU what `told` says."""

    from player.opencl_environment import environment  # makes drivers visible, which not all tests here need

    def variables(told="", **more):
        real = environment()["ONDEVICE_OPENCL"]
        library = str(player_build / "odd_opencl.so")
        return {"ONDEVICE_OPENCL": library, "ODD_OPENCL": real, "ODD_DEVICE": told, **more}

    return variables


@pytest.fixture(scope="session")
def apk_api():
    """The module of `make apk-check` that looks up what the app uses of Android."""
    spec = importlib.util.spec_from_file_location("apk_api", ROOT / "android_demo" / "app" / "check" / "api.py")
    module = sys.modules["apk_api"] = importlib.util.module_from_spec(spec)  # where its dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ask(tool):
    """`ask(verb, lines, *arguments)`: what check_bundle says of each line, in one process."""

    def call(verb, lines, *arguments):
        done = tool("check_bundle", verb, *arguments, input="".join(f"{line}\n" for line in lines))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    return call
