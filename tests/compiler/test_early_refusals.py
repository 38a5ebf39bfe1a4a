"""What `convert` cannot write is refused before a checkpoint is opened, which may be a download,
and before the minutes of planning."""

import errno
import os

import pytest
from diffusion.fake_networks import spec_of

from ondevice import cli, errors
from ondevice.compiler import Recipe, compile_bundle
from ondevice.compiler.jobs import band_jobs, jobs
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.source import Source

pytestmark = pytest.mark.usefixtures("sealed")
FORMATS = [("bundle", errors.BundleError), ("onnx", errors.UsageError)]

SPEC = spec_of()


@pytest.fixture
def sealed(monkeypatch):
    """Neither a checkpoint nor a plan may be begun."""

    def begun(*_, **__):
        raise AssertionError("the work began")

    monkeypatch.setattr(Source, "open", begun)
    monkeypatch.setattr("ondevice.compiler.compile.planned_each", begun)
    monkeypatch.setattr("ondevice.export.writing.fused_graphs", begun)


def refused(capsys, error, out, *words):
    assert cli.main(["convert", "demo", "--out", str(out), *words]) == error.exit_code
    return capsys.readouterr().err


@pytest.mark.parametrize(("form", "error"), FORMATS)
def test_a_place_that_is_taken_or_missing(tmp_path, capsys, form, error):
    said = refused(capsys, error, tmp_path / "none" / "m", "--format", form)
    assert f"the folder {tmp_path / 'none'} does not exist. Fix: create it, or choose another" in said
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "cat.png").write_bytes(b"mine")
    kept = "is there already and is not a bundle." if form == "bundle" else "holds cat.png, which is not ours."
    assert kept in refused(capsys, error, tmp_path / "m", "--format", form)
    assert kept in refused(capsys, error, tmp_path / "m", "--format", form, "--force")
    assert (tmp_path / "m" / "cat.png").read_bytes() == b"mine"


@pytest.mark.parametrize(("form", "error"), [("bundle", errors.BundleError), ("onnx", errors.GraphError)])
def test_a_place_that_the_system_refuses(tmp_path, capsys, monkeypatch, form, error):
    def refusing(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "mkdir", refusing)  # a disk that is mounted read-only, whatever the permissions say
    said = refused(capsys, error, tmp_path / "m", "--format", form)
    assert said == "error: m: cannot be written (Read-only file system). Fix: choose another folder with --out.\n"


def test_a_target_that_cannot_be_had(tmp_path, capsys):
    assert "none.toml" in refused(capsys, errors.UsageError, tmp_path / "m", "--tuning", str(tmp_path / "none.toml"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--composites"], "it is of TFLite files. Fix: leave --composites out, or write those with --format tflite."),
        (["--format", "onnx", "--composites"], "it is not of ONNX files. Fix: leave --composites out."),
    ],
)
def test_flags_of_another_format(tmp_path, capsys, words, said):
    got = refused(capsys, errors.UsageError, tmp_path / "m", *words)
    assert got == f"error: --composites: {said}\n" and not list(tmp_path.iterdir())


def test_the_library_asks_first_too(tmp_path):
    with pytest.raises(errors.BundleError, match="does not exist"):
        compile_bundle(None, tmp_path / "none" / "m.ondevice", Recipe())


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("0x64", "'0x64' has no pixels (expected 1 or more each way). Fix: use a size such as 512x512."),
        ("64x64,64x0", "'64x0' has no pixels (expected 1 or more each way). Fix: use a size such as 512x512."),
        (
            "1000000x8",
            "1000000x8 is larger than a bundle can say (expected at most 131072 pixels per "
            "side). Fix: use a smaller size.",
        ),
        ("9" * 5000 + "x8", f"'{'9' * 40}'... is larger than any picture. Fix: use a size such as 512x512."),
        (
            ",".join(f"{8 * i}x8" for i in range(1, 300)),
            "1198 plans are too many for a bundle (expected at most 1024, of which a size has several).",
        ),
    ],
)
def test_sizes_that_no_bundle_can_have(tmp_path, capsys, monkeypatch, size, message):
    from tiny_model import TINY

    monkeypatch.setattr(Source, "open", lambda _: random_checkpoint_from_configs(**TINY, seed=1))
    assert f"error: --size: {message}" in refused(capsys, errors.UsageError, tmp_path / "m", "--size", size)


def test_bands_that_no_bundle_can_have():
    for rows, message in ((1, "too low"), (65_537, "too high (expected at most 65536)")):
        with pytest.raises(
            errors.UsageError, match=f"bands of {rows} rows are {message}".replace("(", r"\(").replace(")", r"\)")
        ):
            list(band_jobs(None, SPEC, [(64, 64)], rows))
    assert len(list(jobs(SPEC, lambda component: component != "text_encoder", [(64, 64)]))) == 5


def test_a_size_that_the_scale_does_not_divide_names_the_next_ones():
    wrong = {
        (0, 16): "got 0.*use 8",
        (16, -8): "got -8.*use 8",
        (16, 20): "got 20.*use 16 or 24",
        (3, 8): "got 3.*use 8",
    }
    for (width, height), what in wrong.items():
        with pytest.raises(
            errors.UsageError, match=rf"--size: {width}x{height} is not a multiple of 8 pixels \({what}\.$"
        ):
            list(jobs(SPEC, lambda _: True, [(8, 8), (width, height)]))
