"""What a user reads when a bundle cannot be written or opened.
The reader's field checks are in tests/bundle/test_checks.py."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle.picture_bundle import component_plan, picture_plans, write_picture
from bundle.tiny_bundle import BIAS, KERNELS, MODEL, edit_json, replace_file, tiny_plan, tiny_weights, write_tiny

from ondevice.bundle import WeightSource, open_bundle
from ondevice.bundle.in_memory import MemoryBundle
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.errors import BundleError, CheckpointError

COPY = "Fix: copy the bundle again, or write it again with `ondevice convert`."


def message(call: Callable[[], object]) -> str:
    with pytest.raises(BundleError) as caught:
        call()
    return str(caught.value)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.ondevice")


def test_a_size_that_is_not_there_says_what_is_and_how_to_get_it(tmp_path: Path) -> None:
    latents, states = ("sample", "f32", (2, 4, 64, 64)), ("encoder_hidden_states", "f32", (2, 3, 5))
    sizes = {"batch": 2, "height": 64, "width": 64}
    unet = component_plan(
        "unet", sizes, [latents, ("timestep", "f32", (1,)), states], ("out_sample", "f32", (2, 4, 64, 64))
    )
    bundle = open_bundle(write_picture(tmp_path / "sd.ondevice", plans=[*picture_plans(), unet]))
    assert message(lambda: bundle.plan("unet", batch=2, height=96, width=64)) == (
        "sd.ondevice: has no plan of unet for batch=2 height=96 width=64 (it has batch=1 height=4 width=2; batch=2 "
        "height=64 width=64). Fix: convert the checkpoint again with `--size 128x192`."
    )
    assert message(lambda: bundle.plan("unet")) == (
        "sd.ondevice: has no plan of unet for no sizes (it has batch=1 height=4 width=2; batch=2 height=64 width=64). "
        "Fix: convert the checkpoint again with `--size WIDTHxHEIGHT`."
    )
    assert message(lambda: bundle.plan("safety_checker", batch=1)) == (
        "sd.ondevice: has no safety_checker (it has text_encoder, unet, vae_decoder, vae_encoder). Fix: "
        "convert the checkpoint again."
    )


def test_names_that_are_not_there(tiny: Path) -> None:
    bundle = open_bundle(tiny)
    assert message(lambda: bundle.weight("w")) == f'tiny.ondevice: has no weight "w". {COPY}'
    assert message(lambda: bundle.array("w")) == f'tiny.ondevice: has no weight "w". {COPY}'
    assert message(lambda: bundle.kernel_source("x")) == f'tiny.ondevice: has no kernel "x". {COPY}'
    assert (
        message(lambda: bundle.shard("bundle.json"))
        == 'tiny.ondevice: "bundle.json" is not a file of weights. Fix: ask `weight(key)` for the name.'
    )
    assert message(lambda: bundle.shard("weights/x.bin")) == f"weights/x.bin: is not a file of tiny.ondevice. {COPY}"
    assert message(lambda: bundle.prelude("cuda")) == (
        'tiny.ondevice: has no kernels for the dialect "cuda" (it has metal, opencl). '
        "Fix: use a device of one of these dialects, or convert again."
    )
    assert (
        message(lambda: bundle.sampler("euler_20"))
        == 'tiny.ondevice: has no sampler table "euler_20" (it has tiny_2). Fix: use one of these.'
    )


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    expected = (
        f"{tmp_path}: is not a bundle (no bundle.json in it). Fix: give the folder that `ondevice convert` wrote."
    )
    assert message(lambda: open_bundle(tmp_path)) == expected
    assert message(lambda: open_bundle(tmp_path / "none")).startswith(
        f"{tmp_path / 'none'}: is not a bundle (there is no such file or folder)."
    )
    assert message(lambda: open_bundle("a\0b")).startswith("a\\x00b: is not a bundle")


def test_a_bundle_from_the_future(tiny: Path) -> None:
    edit_json(tiny, "bundle.json", lambda manifest: manifest | {"version": "3.0"})
    assert (
        message(lambda: open_bundle(tiny))
        == "bundle.json: has format 3.0 (expected 2.x). Fix: install a newer ondevice."
    )


def test_damage(tiny: Path) -> None:
    replace_file(tiny, "plans/tiny_width8.json", json.dumps({"component": "tiny"}).encode())
    assert (
        message(lambda: open_bundle(tiny).plan("tiny", width=8)) == f"plans/tiny_width8.json: sizes is missing. {COPY}"
    )
    (tiny / "weights/tiny-000.bin").write_bytes(b"")
    assert (
        message(lambda: open_bundle(tiny))
        == f"weights/tiny-000.bin: is cut or changed (got 0 bytes, expected 1536). {COPY}"
    )
    (tiny / "weights/tiny-000.bin").unlink()
    assert message(lambda: open_bundle(tiny)) == f"weights/tiny-000.bin: is missing from tiny.ondevice. {COPY}"


def test_a_value_that_does_not_fit_half(tmp_path: Path) -> None:
    large = np.array([[1, 2], [3, -70000]], np.float32).reshape(4)
    weights = tiny_weights() | {"tiny/bias": WeightSource(lambda: large, "f16", (4,))}
    assert message(lambda: write_tiny(tmp_path / "t", weights=weights)) == (
        "tiny/bias: holds -70000.0 at [3], too large for f16 (expected -65504..65504). Fix: "
        "convert with `--dtype fp32`."
    )
    weights["tiny/bias"] = WeightSource(lambda: BIAS * np.nan, "f16", (4,))
    assert message(lambda: write_tiny(tmp_path / "t", weights=weights)) == (
        "tiny/bias: holds NaN at [0]. Fix: use another checkpoint: this one is broken."
    )


def test_wrong_weights(tmp_path: Path) -> None:
    weights = tiny_weights() | {"tiny/bias": WeightSource(lambda: BIAS[:3], "f16", (4,))}
    assert message(lambda: write_tiny(tmp_path / "t", weights=weights)) == (
        "tiny/bias: has the wrong shape (got [3], expected [4]). "
        "Fix: report this with the checkpoint's name: the graph and the weights disagree."
    )
    weights["tiny/bias"] = WeightSource(lambda: BIAS, "f32", (4,))
    assert message(lambda: write_tiny(tmp_path / "t", weights=weights)) == (
        "tiny/bias: has two layouts (got f32[4], expected f16[4] as the plan of tiny reads it). Fix: "
        "give each layout its own key."
    )
    weights["tiny/bias"] = WeightSource(lambda: BIAS.astype(np.int64), "f16", (4,))
    assert message(lambda: write_tiny(tmp_path / "t", weights=weights)) == (
        "tiny/bias: cannot be stored as f16 (got int64). Fix: convert the weight before it is given to write_bundle."
    )
    del weights["tiny/bias"]
    assert message(lambda: write_tiny(tmp_path / "t", weights=weights)) == (
        "tiny/bias: no values were given for this weight. Fix: give write_bundle every weight that the plans name."
    )


def test_targets_that_may_not_be_replaced(tiny: Path, tmp_path: Path) -> None:
    assert (
        message(lambda: write_tiny(tiny))
        == f"{tiny}: is there already. Fix: choose another name with --out, or replace it with --force."
    )
    (tiny / "a.png").write_bytes(b"")
    assert message(lambda: write_tiny(tiny, force=True)) == (
        f"{tiny}: cannot be replaced: a.png in it is not part of the bundle. Fix: "
        "move it elsewhere, or choose another name with --out."
    )
    (tiny / "bundle.json").write_text("{}")
    assert message(lambda: write_tiny(tiny, force=True)) == (
        f"{tiny}: is there already and is not a bundle that this version can read. "
        "Fix: delete the folder yourself, or choose another name with --out."
    )
    (tiny / "bundle.json").unlink()
    assert (
        message(lambda: write_tiny(tiny, force=True))
        == f"{tiny}: is there already and is not a bundle. Fix: choose another name with --out."
    )
    none = tmp_path / "none"
    assert (
        message(lambda: write_tiny(none / "t"))
        == f"t: the folder {none} does not exist. Fix: create it, or choose another with --out."
    )


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1_000_000))
    assert message(lambda: write_tiny(tmp_path / "t")) == (
        f"{tmp_path}: the bundle does not fit on this disk (got 1 MB free, expected 2 MB). "
        "Fix: free 1 MB, or choose another folder with --out."
    )


def test_what_convert_hands_over_wrongly(tmp_path: Path) -> None:
    report = "Fix: report this: what is to be written is no valid bundle."
    assert (
        message(lambda: write_tiny(tmp_path / "t", model={"family": "sd"}))
        == f"bundle.json: model.source is missing. {report}"
    )
    assert message(
        lambda: write_tiny(tmp_path / "t", kernels={**KERNELS, "pick.cl": ""}, model=MODEL | {"source": 0})
    ) == (f"bundle.json: model.source is 0 (expected 1..512 printable characters). {report}")
    assert message(lambda: write_tiny(tmp_path / "t", kernels={})) == (
        "pick.cl: a plan calls this kernel, but its text was not given. Fix: give write_bundle its text."
    )
    assert message(lambda: write_tiny(tmp_path / "t", plans=[tiny_plan(8)] * 2)) == (
        "plans/tiny_width8.json: two plans have the same component and sizes. Fix: give each size once."
    )
    assert message(lambda: write_tiny(tmp_path / "t", scheduler={"x": float("inf")})).startswith(
        "scheduler/scheduler_config.json: cannot be written as JSON (Out of range float values are not JSON compliant"
    )
    assert not any(tmp_path.iterdir())


def test_a_plan_that_no_file_can_say(tmp_path: Path) -> None:
    plan = tiny_plan(8)
    first, *others = plan.dispatches
    for number in (-1, 2):
        wrong = replace(plan, dispatches=(replace(first, kernel=number), *others))
        assert message(lambda wrong=wrong: write_tiny(tmp_path / "t", plans=[wrong])) == (
            f"plans/tiny_width8.json: dispatches[0].kernel is {number} (expected 0..1). Fix: report this."
        )
    unused = replace(plan, kernels=(*plan.kernels, plan.kernels[0]))
    assert message(lambda: write_tiny(tmp_path / "t", plans=[unused])) == (
        "plans/tiny_width8.json: lists the kernel scale_add but no dispatch calls it. Fix: "
        "list only kernels that are called."
    )


def test_two_dtypes_of_a_component(tmp_path: Path) -> None:
    other = replace(tiny_plan(9), dtype="f32")
    assert message(lambda: write_tiny(tmp_path / "t", plans=[tiny_plan(8), other])) == (
        "tiny: has plans of two dtypes (got f32, expected f16 as in its first plan). Fix: write one bundle per dtype."
    )


def test_plans_in_memory_say_what_was_not_given() -> None:
    bundle = MemoryBundle([tiny_plan(8)], tiny_weights(), {})
    assert bundle.plan("tiny", width=8) == tiny_plan(8)
    assert message(lambda: bundle.plan("tiny", width=9)) == (
        "plans in memory: no plan of tiny for {'width': 9} was given. Fix: give it the plan."
    )


@pytest.mark.parametrize("name", ["tiny.ondevice", "tiny.odpack"])
def test_a_bundle_is_no_checkpoint(name: str) -> None:
    path = Path(__file__).parents[1] / "golden" / "bundle" / name
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, family="sd14")
    said = "this is a bundle, which is compiled already. Fix: draw with it, or give the checkpoint that it was made of."
    assert str(caught.value) == f"{path}: {said}"
