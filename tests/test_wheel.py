"""A wheel holds everything, owns nothing but `ondevice`, and works from any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the tracked files: what a release would hold, and no build folder left in the checkout."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--wheel-dir", str(out), str(copy)]
    said = subprocess.run(build, check=True, capture_output=True, text=True)
    # setuptools' warning of data folders that it takes for packages
    assert "importable" not in said.stdout + said.stderr
    (path,) = out.glob("ondevice-*.whl")
    return path


def test_it_owns_only_ondevice_and_holds_the_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"ondevice"}
    held = [
        "shaders/portable/matmul.cl",
        "shaders/cpu/winograd_strips.cl",
        "shaders/prelude/metal.h",
        "converters/architectures/unet.py",
        "models/clip_tokenizer/vocab.json",
    ]
    held += [
        "shaders/tuning/intel-opencl-cpu-16.toml",
        "targets/host-avx2.toml",
        "measure/tuner/search.py",
        "measure/predict/constants.toml",
        "base/publish/hidden.py",
    ]
    held += [f"serving/page/{name}" for name in ("index.html", "page.js", "page.css", "docs.html")]
    held += ["shaders/README.md"]  # errors of kernel files name it
    held += ["models/demo/unet/diffusion_pytorch_model.safetensors", "bundle/plan.schema.json", "py.typed"]
    assert not [name for name in held if f"ondevice/{name}" not in names]


def test_it_works_installed_elsewhere(wheel, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )

    def run(*words):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=work,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(site)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run("-c", "import ondevice.converters as c; print(c.__file__)").startswith(str(site))
    assert run("-m", "ondevice.tokens", "a cat", "--json")
    assert run("-m", "ondevice", "convert", "demo") == str(work / "demo.ondevice")
