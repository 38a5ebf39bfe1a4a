"""`from ondevice import Pipeline`: bundles and checkpoints in, pictures out, in diffusers' words."""

import logging
import shutil

import numpy as np
import pytest

import ondevice
from ondevice import Pipeline, errors
from ondevice.base.paths import MODELS, cache_dir

pytestmark = pytest.mark.device
DEMO = MODELS / "demo"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Folder for converted checkpoints of the test's own, beside the kernels that all tests share."""
    kernels = cache_dir() / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kernels").symlink_to(kernels)
    return tmp_path / "cache" / "bundles"


def test_a_bundle(demo_bundle, tmp_path):
    steps = []
    pipe = Pipeline.from_bundle(demo_bundle, own_kernels=True)
    asked = {"negative_prompt": "blue", "num_inference_steps": 3, "guidance_scale": 3.0, "seed": 1}

    def after_each_step(pipeline, step, timestep, kwargs):
        steps.append((step, kwargs["latents"].shape))
        return kwargs

    drawn = pipe("a red circle", callback_on_step_end=after_each_step, **asked)
    assert drawn.images[0].size == (64, 64) and steps == [(step, (1, 4, 8, 8)) for step in range(3)]
    assert np.array_equal(pipe("a red circle", **asked).pixels, drawn.pixels)
    with pytest.raises(errors.BundleError, match="is not a bundle"):
        Pipeline.from_bundle(tmp_path)


def test_a_checkpoint_is_converted_once(cache, tmp_path, caplog, monkeypatch):
    folder = shutil.copytree(DEMO, tmp_path / "mine")
    first = Pipeline.from_pretrained(folder, size=(64, 64))("a red circle", num_inference_steps=2)
    (bundle,) = cache.iterdir()
    assert bundle.name.startswith("mine-") and first.images[0].size == (64, 64)
    with monkeypatch.context() as patched:
        patched.setattr("ondevice.compiler.compile_bundle", lambda *_, **__: pytest.fail("converted again"))
        again = Pipeline.from_pretrained(folder, size=(64, 64))("a red circle", num_inference_steps=2)
    assert np.array_equal(first.pixels, again.pixels)
    Pipeline.from_pretrained(folder, size=(64, 64), dtype="fp32")
    (folder / "README.md").write_text("changed")  # whatever a folder holds is part of what it is
    Pipeline.from_pretrained(folder, size=(64, 64))
    assert len(list(cache.iterdir())) == 3 and not [r for r in caplog.records if r.levelno >= logging.WARNING]
    for damaged in cache.iterdir():
        (damaged / "bundle.json").write_text("{}")
    Pipeline.from_pretrained(folder, size=(64, 64))
    assert "it is converted again" in caplog.text


def test_what_another_process_has_converted_meanwhile_is_opened(cache, demo_bundle, monkeypatch):
    def late(checkpoint, place, recipe, **_):
        shutil.copytree(demo_bundle, place)
        raise errors.BundleError("is there already.", where=place.name)

    monkeypatch.setattr("ondevice.compiler.compile_bundle", late)
    drawn = Pipeline.from_pretrained(DEMO)("a red circle", num_inference_steps=2)
    assert drawn.images[0].size == (64, 64) and len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path / "file"))
    said = r"ONDEVICE_CACHE: converted checkpoints cannot be kept in .*bundles \(Not a directory\)\. Fix: set it to a"
    with pytest.raises(errors.UsageError, match=said):
        Pipeline.from_pretrained(DEMO, size=(64, 64))


def test_what_is_no_checkpoint(cache, tmp_path):
    with pytest.raises(errors.CheckpointError, match="there is no such file or folder, and it is no hub id"):
        Pipeline.from_pretrained(tmp_path / "none")
    with pytest.raises(errors.UsageError, match=r"math: 'fp8' is no math \(expected one of fp32, bf16, bf16x3\)"):
        Pipeline.from_pretrained("x", math="fp8")
    with pytest.raises(TypeError, match=r"from_pretrained\(\) got an unexpected keyword argument 'maths'"):
        Pipeline.from_pretrained("x", maths="bf16")
    with pytest.raises(errors.UsageError, match="dtype: 'int4' is no storage"):
        Pipeline.from_pretrained(DEMO, dtype="int4")
    with pytest.raises(errors.UsageError, match="no model family is called 'sd9'"):
        Pipeline.from_pretrained(DEMO, family="sd9")
    assert not cache.exists()


def test_the_package_has_what_it_says():
    assert set(ondevice.__all__) == {"Pipeline", "__version__"}
    with pytest.raises(AttributeError, match="has no attribute 'pipeline_of_dreams'"):
        _ = ondevice.pipeline_of_dreams
