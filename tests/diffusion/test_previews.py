"""Previews: which way latents are shown, what pixels they become, and what the folder holds meanwhile."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusion.fake_networks import OtherDevice
from diffusion.test_pipeline_shapes import golden, network, pipeline
from PIL import Image

from ondevice.bundle.format import Checker
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.bundle.pipeline_file import parse_pipeline
from ondevice.diffusion.previews import by_sum, previewer, way_of
from ondevice.drawing import previews
from ondevice.errors import UsageError

LATENTS = np.random.default_rng(4).standard_normal((1, 4, 2, 3), dtype=np.float32)
FACTORS = [[0.3, -0.2, 0.1, 0.4, 0.05], [0.0, 0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, -3.0]]


def whole(preview: bool, fast: bool) -> dict[str, Any]:
    """Stable Diffusion 1.x's pipeline; its fast decoder is two roles, one after the other."""
    made = golden("sd1")
    latents = made["pipeline"]["latents"]
    made["pipeline"]["latents"] = {name: value for name, value in latents.items() if name != "preview"}
    made["pipeline"]["latents"] |= {"preview": FACTORS} if preview else {}
    made["components"] += ["half", "taesd_decoder"]
    roles = [
        {"run": "half", "every": "picture", "feed": {"x": {"value": "latents"}}, "keep": {"y": "half_way"}},
        {"run": "taesd_decoder", "every": "picture", "feed": {"z": {"value": "half_way"}}, "keep": {"s": "picture"}},
    ]
    made["pipeline"] |= {"fast": roles} if fast else {}
    return made


def spec(preview: bool = True, fast: bool = True) -> PipelineSpec:
    made = whole(preview, fast)
    return parse_pipeline(Checker("test"), made["pipeline"], made["components"], made["tokenizers"], made["samplers"])


def tiny(component: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Networks beside those of the golden pipelines."""
    if component == "half":
        return {"y": inputs["x"] / 2}
    if component == "taesd_decoder":
        return {"s": inputs["z"][:, :3].repeat(8, 2).repeat(8, 3)}
    return network(component, inputs)


def pixels_of(values: np.ndarray) -> np.ndarray:
    return np.round(np.clip(values * np.float32(0.5) + np.float32(0.5), 0, 1) * 255).astype(np.uint8)


def test_a_sum_of_channels() -> None:
    expected = np.einsum("rc,chw->hwr", np.array(FACTORS)[:, :4], LATENTS[0].astype(np.float64))
    found = by_sum(FACTORS, LATENTS)
    assert found.dtype == np.uint8 and found.shape == (2, 3, 3)
    np.testing.assert_array_equal(found, pixels_of(expected + np.array(FACTORS)[:, 4]))
    assert (found[..., 2] == 0).all()  # of -3, which is black


def test_which_way() -> None:
    assert [way_of(spec(True, fast), None) for fast in (True, False)] == ["rgb", "rgb"]
    assert way_of(spec(False, True), None) == way_of(spec(True, True), "taesd") == "taesd"


@pytest.mark.parametrize(
    ("have", "asked", "message"),
    [
        ((True, True), "png", "preview: unknown (got 'png', expected rgb or taesd). Fix: use rgb."),
        (
            (False, False),
            None,
            "preview: no sum of this model's channels is known to be a picture and this bundle has no fast decoder. "
            "Fix: convert with --taesd.",
        ),
        ((False, True), "rgb", "preview: no sum of this model's channels is known to be a picture. Fix: use taesd."),
        ((False, False), "rgb", "preview: no sum of this model's channels is known to be a picture. Fix: convert "),
        ((True, False), "taesd", "preview: this bundle has no fast decoder. Fix: use rgb, or convert with --taesd."),
        ((False, False), "taesd", "preview: this bundle has no fast decoder. Fix: convert with --taesd."),
    ],
)
def test_no_way(have: tuple[bool, bool], asked: str | None, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        way_of(spec(*have), asked)
    assert str(caught.value).startswith(message)


def test_by_the_fast_decoder() -> None:
    """It is given what decoders are given, and what lies between its roles stays on the device."""
    device = OtherDevice(tiny)
    model = pipeline(whole(True, True), device)
    found = model.previewer("taesd")(LATENTS)
    expected = pixels_of((LATENTS[0, :3] / np.float32(0.18215) / 2).transpose(1, 2, 0))
    np.testing.assert_array_equal(found, expected.repeat(8, 0).repeat(8, 1))
    assert [run[0] for run in device.runs] == ["half", "taesd_decoder"] and not device.reads
    np.testing.assert_array_equal(np.asarray(model.preview(LATENTS, "taesd")), found)
    np.testing.assert_array_equal(np.asarray(model.preview(LATENTS)), by_sum(FACTORS, LATENTS))


def test_a_callback_shows_what_is_drawn() -> None:
    shown = []

    def show(pipe: Any, step: int, timestep: float, given: dict[str, np.ndarray]) -> None:
        shown.append(np.asarray(pipe.preview(given["latents"], by="taesd")))

    model = pipeline(whole(True, True), OtherDevice(tiny))
    drawn = model("x", num_inference_steps=3, sampler="ddim", callback_on_step_end=show, taesd=True)
    assert len(shown) == 3 and not np.array_equal(shown[0], shown[1])
    np.testing.assert_array_equal(shown[-1], drawn.pixels)  # the last step's latents are those that are decoded
    assert drawn.parameters["taesd"] is True


def test_the_fast_decoder_takes_the_place_of_the_whole_one() -> None:
    device = OtherDevice(tiny)
    options: dict[str, Any] = {"num_inference_steps": 2, "sampler": "ddim", "guidance_scale": 1.0}
    one = pipeline(whole(True, True), device)("x", taesd=True, **options)
    assert "vae_decoder" not in {run[0] for run in device.runs}
    other = pipeline(whole(True, True), device)("x", **options)
    assert one.latents.tobytes() == other.latents.tobytes() and "taesd" not in other.parameters
    assert not np.array_equal(one.pixels, other.pixels)
    with pytest.raises(UsageError) as caught:
        pipeline(whole(True, False), device)("x", taesd=True, **options)
    assert str(caught.value) == (
        "taesd: this bundle has no fast decoder. Fix: convert the checkpoint again with --taesd."
    )


def test_a_fast_decoder_that_reads_more() -> None:
    made = whole(False, True)
    made["pipeline"]["fast"][0]["feed"]["more"] = {"numbers": [1]}
    read = parse_pipeline(Checker("test"), made["pipeline"], made["components"], made["tokenizers"], made["samplers"])
    with pytest.raises(UsageError, match=r"^preview: the fast decoder reads numbers, which is not there before"):
        previewer(read, OtherDevice(tiny), {})


# The folder -----------------------------------------------------------------------------------------------------------


def flags(folder: Path | None, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    previews.add_arguments(parser)
    args = parser.parse_args([*(["--preview", str(folder)] if folder else []), *words])
    args.bundle = Path("m.ondevice")
    previews.check(args)
    return args


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "progress.json").read_text())


def test_what_is_there_while_pictures_are_drawn(tmp_path: Path) -> None:
    folder, model = tmp_path / "new", pipeline(whole(True, True), OtherDevice(tiny))
    shown = previews.of(flags(folder, "--preview-every", "2"), 2)
    shown.of(model)
    none = {"seconds_left": None, "picture": None, "count": 2, "out": None}
    shown.begin(0)
    assert written(folder) == {"step": 0, "steps": None, "number": 1, **none}
    shown.step(1, 3, LATENTS)
    assert written(folder) == {"step": 1, "steps": 3, "number": 1, **none} and len(os.listdir(folder)) == 1
    for step in (2, 3):  # every second, and the last
        shown.step(step, 3, LATENTS * np.float32(step))
        said = written(folder)
        assert said["picture"] == f"1-step-000{step}.png" and said["seconds_left"] >= 0
        drawn = np.asarray(Image.open(folder / said["picture"]))
        np.testing.assert_array_equal(drawn, by_sum(FACTORS, LATENTS * np.float32(step)))
        assert (folder / "latest.png").read_bytes() == (folder / said["picture"]).read_bytes()
    shown.end(Path("a-1.png"))
    assert written(folder) == said | {"seconds_left": 0.0, "out": "a-1.png"} | {"step": 3, "steps": 3}
    shown.begin(1)
    assert written(folder) == {"step": 0, "steps": None, "number": 2, **none}
    assert sorted(os.listdir(folder)) == ["1-step-0002.png", "1-step-0003.png", "latest.png", "progress.json"]
    assert not shown.failed


def test_one_picture_has_no_number(tmp_path: Path) -> None:
    shown = previews.of(flags(tmp_path), 1)
    shown.of(pipeline(whole(True, True), OtherDevice(tiny)))
    shown.begin(0)
    shown.step(1, 1, LATENTS)
    assert (tmp_path / "step-0001.png").exists()


def test_a_preview_that_cannot_be_written_ends_previews_alone(tmp_path: Path) -> None:
    shown = previews.of(flags(tmp_path), 1)
    shown.of(pipeline(whole(True, True), OtherDevice(tiny)))
    shown.begin(0)
    (tmp_path / "step-0001.png").mkdir()
    for step in (1, 2):
        shown.step(step, 2, LATENTS)
    shown.end(Path("a.png"))
    (error,) = shown.failed
    assert str(error).startswith(f"{tmp_path / 'step-0001.png'}: cannot be written (")
    assert written(tmp_path)["picture"] is None and not (tmp_path / "step-0002.png").exists()


def test_nothing_is_written_where_nobody_asked() -> None:
    shown = previews.of(flags(None), 1)
    shown.of(pipeline(whole(False, False), OtherDevice(tiny)))
    shown.begin(0)
    shown.step(1, 1, LATENTS)
    shown.end(Path("a.png"))
    assert not shown.failed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--preview-every", "2"), "--preview-every: there are no previews without --preview."),
        (("--preview-by", "rgb"), "--preview-by: there are no previews without --preview."),
        (("--preview", "{0}", "--preview-every", "0"), "--preview-every: steps cannot be counted so (got 0, expected"),
        (
            ("--preview", "{0}/no/where"),
            "--preview {0}/no/where: the folder cannot be made (No such file or directory)",
        ),
        (("--preview", "{0}/file"), "--preview {0}/file: the folder cannot be made (File exists). Fix: name a folder"),
    ],
)
def test_flags_that_are_refused(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught:
        flags(None, *(word.format(tmp_path) for word in words))
    assert str(caught.value).startswith(message.format(tmp_path))
