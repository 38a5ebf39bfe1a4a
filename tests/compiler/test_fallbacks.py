"""What was not done in the best way is logged with its reason, and refused under --strict."""

import json
import logging
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
from tiny_model import TINY

from ondevice import cli
from ondevice.compiler import Recipe, compile_bundle, fallbacks
from ondevice.compiler.picture import about
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.errors import StrictError
from ondevice.export.options import FORMATS
from ondevice.export.writing import export
from ondevice.lower.kernel_file import load_all
from ondevice.lower.select import general, ways
from ondevice.rewrite import RULES, Outcome

SMALL = [(10, 6)]  # the tiny autoencoder halves once


@pytest.fixture
def checkpoint():
    return random_checkpoint_from_configs(**TINY, seed=1)


def without_kernels(monkeypatch, *names):
    few = {name: kernel for name, kernel in load_all().items() if name not in names}
    monkeypatch.setattr("ondevice.compiler.programs.load_all", lambda: few)


def written(checkpoint, path, *, without=(), sizes=SMALL, **options):
    compile_bundle(checkpoint, path, Recipe("f32", without=without), sizes=sizes, **options)
    return json.loads((path / "bundle.json").read_text())


def test_a_clean_model_is_converted_under_strict(tmp_path):
    manifest = written(open_checkpoint(None, family="demo"), tmp_path / "b", sizes=[(64, 64)], strict=True)
    assert [row["rule"] for row in manifest["components"]["unet"]["rewrite"]["rules"]] == [
        *(rule.__name__ for rule in RULES),
        "Flash",
        "Winograd",
        "TwoCommands",
    ]
    before, after = manifest["components"]["unet"]["rewrite"]["nodes"]
    assert after < before


def test_what_the_checkpoint_holds_and_was_not_used(checkpoint, tmp_path):
    noted = replace(checkpoint, notes=("12 averaged weights were ignored",))
    written(noted, tmp_path / "b")
    for act in (partial(compile_bundle, recipe=Recipe()), partial(export, format=FORMATS["onnx"])):
        with pytest.raises(
            StrictError, match=r"^--strict: \d+ fallbacks? \(expected none\): 12 averaged weights were ignored[.;]"
        ):
            act(noted, tmp_path / "c", sizes=SMALL, strict=True)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_match_that_a_rule_left_alone(checkpoint, tmp_path, monkeypatch, caplog):
    odd = "the axis is\nnot the last" + "!" * 600
    outcome = Outcome("SomeRule", "some", 1, Counter({odd: 3}))
    monkeypatch.setattr(fallbacks, "rewrite", lambda model, without: [outcome])
    with caplog.at_level(logging.INFO, "ondevice"):
        manifest = written(checkpoint, tmp_path / "b")
    row, *_ = manifest["components"]["vae_decoder"]["rewrite"]["rules"]
    (reason,) = row["skipped"]
    assert row["skipped"][reason] == 3 and len(reason) == 512 and reason.startswith("the axis is not the last!!")
    assert "vae_decoder: SomeRule left 3 alone: the axis is not" in caplog.text
    with pytest.raises(StrictError, match=r"5 fallbacks .* text_encoder: SomeRule left 3 alone"):
        written(checkpoint, tmp_path / "c", strict=True)


def test_a_general_kernel(checkpoint, tmp_path, monkeypatch, caplog):
    without_kernels(monkeypatch, "conv2d_tile")  # without rules, as they may choose another op's kernel
    with caplog.at_level(logging.INFO, "ondevice"):
        written(checkpoint, tmp_path / "b", without=["all"])
    assert "runs on the general kernel conv2d: conv2d_1x1: kh=3 is over 1" in caplog.text
    with pytest.raises(StrictError, match=r"; and \d+ more"):
        written(checkpoint, tmp_path / "c", without=["all"], strict=True)


def test_the_only_kernel_of_an_op_is_no_fallback(checkpoint, tmp_path, monkeypatch):
    without_kernels(monkeypatch, "conv2d_1x1", "conv2d_tile")
    written(checkpoint, tmp_path / "b", without=["all"], strict=True)


def test_general_kernels_come_last():
    kernels = load_all()
    assert general(kernels) == {"conv2d", "group_norm_nhwc_any"}
    assert {ways(op, kernels)[-1].first.name for op in ("Conv", "GroupNormNhwc")} == general(kernels)


def test_the_command_line(tmp_path, capsys, monkeypatch):
    without_kernels(monkeypatch, "conv2d_tile")
    words = ["convert", "demo", "--size", "64x64", "--without", "all", "--strict", "--out", str(tmp_path / "b")]
    assert cli.main(words) == StrictError.exit_code == 14
    assert "error: --strict: " in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_only_the_name_of_the_source_is_kept(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "anna" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "anna" / "model")
    sources = {
        "/home/anna/secret/model.safetensors": "model.safetensors",
        "CompVis/stable-diffusion-v1-4": "stable-diffusion-v1-4",
    }
    sources |= {
        ".": "model",
        "..": "anna",
        "a/": "a",
        "/": "unknown",
        "random weights, seed 0": "random weights, seed 0",
    }
    for source, name in sources.items():
        assert about(replace(checkpoint, source=source))["source"] == name
