"""--math from the command line: what a bundle is made with, and what is said of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ondevice import cli
from ondevice.base.matrix_unit import MatrixUnit
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.diffusion.pipeline import Pipeline
from ondevice.errors import UsageError
from ondevice.lower.program import math_of
from ondevice.run import matrix_spelling
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target

DEMO = ["demo", "--size", "64x64"]


def said(capsys: Any, *words: str) -> str:
    capsys.readouterr()
    assert cli.main([*words]) == 0
    return str(capsys.readouterr().out)


def test_a_target_without_a_unit(tmp_path: Path, capsys: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The bundle is as in fp32, which is logged; it says itself what it was asked for, and why nothing came of it."""
    path = str(tmp_path / "asked")
    with caplog.at_level(logging.WARNING):
        said(capsys, "convert", *DEMO, "--target", "host", "--math", "bf16", "--out", path)
    assert "host has no kernel for products in bf16: all are in fp32" in caplog.messages
    asked = open_bundle(path)
    assert asked.model["math"] == "bf16"
    for entry in asked.plans:
        plan = asked.plan(entry.component, **entry.sizes)
        assert {math_of(kernel.defines) for kernel in plan.kernels} == {"fp32"} and not plan.needs
    rules = {
        name: [row for row in part.rules if row.family == "math"] for name, part in asked.manifest.rewrites.items()
    }
    assert not rules["text_encoder"], "which is in fp32 whatever is asked for"
    assert [(row.rule, row.applied) for row in rules["unet"]] == [("Bf16", 0)]
    of_model = said(capsys, "show", *DEMO, "--target", "host", "--math", "bf16", "--component", "unet")
    of_bundle = said(capsys, "show", path, "--component", "unet")
    assert "  products in bf16: 0 nodes" in of_model and "  products in bf16: 0 nodes" in of_bundle


def test_pictures_in_bf16_by_the_unit_and_in_plain_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with the unit and on one without: one bundle, alike pictures, near those in fp32."""
    drawn: dict[str, np.ndarray] = {}
    for math, unit in (("fp32", True), ("bf16", True), ("bf16", False)):
        path = tmp_path / math
        if not path.exists():
            recipe = Recipe("f16", target=load_target("host-amx"), math=math)
            compile_bundle(open_checkpoint(None, family="demo"), path, recipe, sizes=[(64, 64)])
        bundle, device = open_bundle(path), choose_device("cpu")
        if not unit:
            monkeypatch.setattr(matrix_spelling, "usable", lambda found: MatrixUnit("", "not today"))
        paint = Pipeline.of(bundle, Session(bundle, device))
        drawn[f"{math} {unit}"] = paint("a red circle", num_inference_steps=4, seed=1).pixels
    unet = open_bundle(tmp_path / "bf16").plan("unet", batch=2, height=8, width=8)
    assert "bf16" in {math_of(unet.kernels[d.kernel].defines) for d in unet.dispatches if d.op == "Linear"}
    assert 25 < decibels(drawn["fp32 True"], drawn["bf16 True"]) < 90
    assert decibels(drawn["bf16 False"], drawn["bf16 True"]) > 35, "bf16 rounds sums that differ in their last bits"


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((one.astype(np.float64) - other) ** 2), 1e-9)))


def test_devices_say_what_auto_is(capsys: Any) -> None:
    found = json.loads(said(capsys, "devices", "--json"))
    target = load_target("auto")
    assert found["auto"]["target"] == target.name and found["auto"]["why"]
    for row in found["devices"]:
        assert ("matrix_unit" in row["caps"]) == bool(row["matrix_unit"])
    text = said(capsys, "devices")
    assert f"--target auto is {target.name}: {found['auto']['why']}" in text.splitlines()
    assert "; products in bf16 " in text


def test_other_formats_have_no_math(tmp_path: Path, capsys: Any) -> None:
    words = ["convert", "demo", "--format", "onnx", "--math", "bf16", "--out", str(tmp_path / "g")]
    assert cli.main(words) == UsageError.exit_code
    assert (
        "--math: a graph in another format leaves it to its runtime what products are multiplied in (got bf16). Fix: "
        "leave --math out, or write a bundle." in capsys.readouterr().err
    )
