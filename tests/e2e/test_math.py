"""--math from the command line: what a bundle is made with, and what is said of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from ondevice import cli
from ondevice.bundle.reader import open_bundle
from ondevice.errors import UsageError
from ondevice.lower.program import math_of
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
