"""Plans for several targets in one bundle: what is shared is stored once, and a device takes its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bundle.target_bundle import (
    DEVICES,
    FAST_PLAN,
    SHARED_PLAN,
    TARGET_CHANGES,
    WIDE_PLAN,
    facts_of,
    write_targets,
)
from bundle.tiny_bundle import edit_json, write_tiny

from ondevice.bundle import open_bundle
from ondevice.errors import BundleError, DeviceError, UsageError


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_targets(tmp_path_factory.mktemp("targets") / "t")


def test_what_targets_share_is_stored_once(path: Path) -> None:
    manifest = json.loads((path / "bundle.json").read_text())
    assert [(row["file"], row.get("targets")) for row in manifest["plans"]] == [
        (FAST_PLAN, ["fast"]),
        (SHARED_PLAN, None),
        (WIDE_PLAN, ["wide", "any"]),
    ]
    shards = {key: row["file"] for key, row in manifest["weights"].items()}
    assert shards["tiny/own"] not in {shards[key] for key in ("tiny/bias", "picked", "parts")}
    assert len({shards[key] for key in ("tiny/bias", "picked", "parts")}) == 1, "what all targets read is together"
    assert manifest["targets"][0]["needs"] == ["half"] and manifest["targets"][1]["needs"] == []
    assert [row["limits"]["work_group"] for row in manifest["targets"]] == [8, 4, 4]
    assert {row["limits"]["allocation"] for row in manifest["targets"]} == {8704}, "the arena of the plan of 1,000"


def test_a_bundle_has_the_plans_of_one_target(path: Path) -> None:
    bundle = open_bundle(path, verify=True)
    assert bundle.target == "any", "the last, unless another is asked for"
    files = {name: [entry.file for entry in bundle.for_target(name).plans] for name in ("fast", "wide", "any")}
    assert files == {
        "fast": [FAST_PLAN, SHARED_PLAN],
        "wide": [SHARED_PLAN, WIDE_PLAN],
        "any": [SHARED_PLAN, WIDE_PLAN],
    }
    assert bundle.for_target("fast").plan("tiny", width=8).needs == ("half",)
    assert bundle.plan("tiny", width=8).needs == ()
    with pytest.raises(UsageError, match=r"--plans: t has no plans of gpu \(it has those of fast, wide, any\)"):
        bundle.for_target("gpu")


def test_of_a_bundle_for_one_target_no_plans_have_a_name(tmp_path: Path) -> None:
    bundle = open_bundle(write_tiny(tmp_path / "tiny"))
    assert bundle.target == "" and bundle.for_device({"name": "any"}, "opencl") is bundle
    with pytest.raises(UsageError, match=r"tiny has no plans of gpu \(it is for one kind .* Fix: leave it out"):
        bundle.for_target("gpu")


@pytest.mark.parametrize(("device", "target"), DEVICES)
def test_a_device_takes_its_own(path: Path, device: dict[str, Any], target: str | None) -> None:
    bundle = open_bundle(path)
    if target is not None:
        assert bundle.for_device(facts_of(device), "metal").target == target
        return
    with pytest.raises(DeviceError, match=r"runs none of the bundle's plans \((wide|fast): it needs (work|alloc)"):
        bundle.for_device(facts_of(device), "metal")


def test_words_that_a_dialect_spells_are_no_need(path: Path, tmp_path: Path) -> None:
    other = write_targets(tmp_path / "t")
    edit_json(other, "bundle.json", lambda manifest: manifest["targets"][0].update(needs=["half", "matrix_unit"]))
    device = facts_of(DEVICES[0][0])
    assert open_bundle(other).for_device(device, "opencl").target == "fast"
    assert open_bundle(other).for_device(device, "metal").target == "any"
    unknown = {"name": "GPU 9", "caps": ["half"]}
    assert open_bundle(path).for_device(unknown, "opencl").target == "fast", "what is not known stands in no way"


@pytest.mark.parametrize(("file", "change", "expected"), TARGET_CHANGES)
def test_refusals(tmp_path: Path, file: str, change: Any, expected: str) -> None:
    bundle = write_targets(tmp_path / "t")
    edit_json(bundle, file, change)
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle, verify=True)
    assert str(caught.value).startswith(expected if expected.startswith("plans/") else f"{file}: {expected}")
