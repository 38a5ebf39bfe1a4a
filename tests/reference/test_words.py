"""Every word of docs/pipeline.md: the pipelines written by hand, and changes of them, over tiny plans. `Pipeline` and
the reference player draw the same latents and pixels, to the last bit, and the word makes a difference."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle.pipeline_bundle import write_pipeline
from diffusion.sampler_helpers import SD15
from diffusion.test_pipeline_shapes import golden
from PIL import Image
from reference.player import Player

from ondevice import cli
from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.diffusion import memory_budget
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Request
from ondevice.diffusion.samplers import make_table
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

pytestmark = pytest.mark.device
SIZE = (24, 16)  # width, height in pixels
RANDOM = np.random.default_rng(4)
IMAGE, CONTROL = (RANDOM.integers(0, 256, shape, np.uint8) for shape in ((20, 31, 3), (16, 24, 3)))
MASK = np.zeros((32, 48), np.uint8)
MASK[:, 13:] = 200


def guessing() -> dict[str, Any]:
    """Two residuals of a ControlNet are zeros in the first pass, as in diffusers' guess mode."""
    whole = golden("controlnet")
    whole["pipeline"]["denoise"][0]["passes"][0]["zeros"] = ["residual_0", "residual_7"]
    return whole


def perhaps_a_picture() -> dict[str, Any]:
    """What was not made is zeros: latents of a picture, which the UNet reads beside its own."""
    whole = golden("sd1")
    whole["pipeline"]["denoise"][0]["roles"][0]["feed"]["other"] = {"value": "image_latents", "absent": "zeros"}
    for key in ("begin", "strength", "mask"):
        del whole["pipeline"]["latents"][key]
    return whole


def rounded_up() -> dict[str, Any]:
    """A part of a call that a strength leaves is a call."""
    whole = golden("sd1")
    whole["pipeline"]["latents"]["rounds"] = "up"
    return whole


def two_chunked() -> dict[str, Any]:
    """Something is done to the frames, so many at a time, before they are decoded."""
    whole = golden("svd")
    first = {"run": "refine", "every": "chunk", "feed": {"x": {"value": "latents"}}, "keep": {"y": "refined"}}
    whole["components"].append("refine")
    whole["pipeline"]["after"].insert(0, first)
    whole["pipeline"]["after"][1]["feed"]["more"] = {"value": "refined"}
    return whole


FILM = {"pictures": {"image": IMAGE}, "numbers": {"frame_count": 3, "fps": 9}}
# A pipeline, what is asked of it, and what is asked instead, or of which other, so that the word makes a difference.
WORDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "once per text": (golden("keys_values"), {"negative_prompt": "a dog"}, golden("sd1")),
    "mask": (golden("inpaint"), {"image": IMAGE, "mask": MASK}, {"mask": 255 - MASK}),
    "below": (golden("inpaint"), {"image": IMAGE, "mask": MASK, "strength": 0.6}, {"strength": 1.0}),
    "latents.mask": (golden("sd1"), {"image": IMAGE, "mask": MASK}, {"mask": None, "strength": 1.0}),
    "latents.mask, not of all": (golden("sd1"), {"image": IMAGE, "mask": MASK, "strength": 0.5}, {"strength": 1.0}),
    "latents.rounds": (rounded_up(), {"image": IMAGE, "strength": 0.6}, golden("sd1")),
    "edges": (golden("controlnet"), {"pictures": {"control": CONTROL}}, {"pictures": {"control": IMAGE[:16, :24]}}),
    "unit": (golden("control"), {"pictures": {"control": CONTROL}}, {"pictures": {"control": IMAGE[:16, :24]}}),
    "two nets": (
        golden("control"),
        {"pictures": {"control": CONTROL, "control_2": IMAGE}, "numbers": {"control_scale_2": 0.5}},
        {"pictures": {"control": CONTROL}},
    ),
    "a net without its picture": (golden("control"), {}, {"pictures": {"control_2": IMAGE, "control": CONTROL}}),
    "a number per text and call": (
        golden("control"),
        {"pictures": {"control": IMAGE}, "numbers": {"control_negative_scale": 0.0, "control_start": 0.3}},
        {"numbers": {"control_start": 0.3}},
    ),
    "window": (
        golden("controlnet"),
        {"pictures": {"control": CONTROL}, "numbers": {"control_start": 0.3, "control_end": 0.8}},
        {"numbers": {}},
    ),
    "zeros of a call": (guessing(), {"pictures": {"control": CONTROL}}, golden("controlnet")),
    "zeros for what was not made": (perhaps_a_picture(), {}, {"image": IMAGE}),
    "frames": (golden("svd"), FILM, {"numbers": {"frame_count": 3}}),
    "ramp": (golden("svd"), FILM, {"numbers": {**FILM["numbers"], "max_guidance_scale": 1.5}}),
    "a ramp without guidance": (
        golden("svd"),
        FILM | {"numbers": {**FILM["numbers"], "max_guidance_scale": 1.0}},
        {"numbers": FILM["numbers"]},
    ),
    "chunks before the last": (two_chunked(), FILM, {"pictures": {"image": CONTROL}}),
    "several encoders": (golden("sd3"), {"negative_prompt": "a dog"}, {"negative_prompt": "dogs"}),
    "a refiner": (golden("sdxl_refiner"), {"numbers": {"handover": 0.5}}, {"numbers": {"handover": 0.8}}),
    "one pass": (golden("lcm"), {"guidance_scale": 3.0}, {"guidance_scale": 2.0}),
}


def written(path: Path, whole: dict[str, Any], batches: tuple[int, ...] = (1, 2, 3)) -> Bundle:
    """A bundle of a pipeline, drawn in four steps."""
    whole = copy.deepcopy(whole)
    whole["pipeline"]["sampler"] = {"name": "euler_a", "steps": 4}
    film = {"frames": 3, "chunks": (1, 2)} if whole["pipeline"]["gives"] == "frames" else {}
    return open_bundle(write_pipeline(path, whole, batches=batches, **film))


def request(options: dict[str, Any]) -> Request:
    prompt = "" if {"frame_count"} <= options.get("numbers", {}).keys() else "a red cat"  # films read no text
    return Request(prompt=prompt, width=SIZE[0], height=SIZE[1], seed=6, **options)


def by_reference(path: Path, session: Session, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Latents and pixels of the reference player."""
    asked = request(options)
    player = Player(path, lambda component, sizes, inputs: session.run(component, inputs, **sizes))
    numbers = {name: options[name] for name in ("guidance_scale", "strength") if name in options}
    texts = {"prompt": asked.prompt, "negative_prompt": asked.negative_prompt}
    return player.draw(texts, SIZE, seed=6, numbers=numbers | dict(asked.numbers), pictures=asked.given_pictures())


ONE_BY_ONE = (
    "edges",
    "two nets",
    "a number per text and call",
    "zeros of a call",
    "zeros for what was not made",
    "ramp",
)


@pytest.mark.parametrize(
    ("word", "batches"), [*((word, (1, 2, 3)) for word in WORDS), *((word, (1,)) for word in ONE_BY_ONE)]
)
def test_a_word_is_the_pages(tmp_path: Path, word: str, batches: tuple[int, ...]) -> None:
    """With plans for all passes at once, or one by one."""
    whole, options, instead = WORDS[word]
    path = tmp_path / "bundle"
    bundle = written(path, whole, batches)
    session = Session(bundle, choose_device("cpu"))
    latents, pixels = by_reference(path, session, options)
    picture = Pipeline.of(bundle, session).draw(request(options))
    assert picture.latents.tobytes() == latents.tobytes()
    assert np.array_equal([picture.pixels] if picture.frames is None else picture.frames, pixels)
    assert len(pixels) == (3 if whole["pipeline"]["gives"] == "frames" else 1) and pixels.std() > 2
    if "pipeline" in instead:
        path = tmp_path / "other"
        other = Session(written(path, instead, batches), choose_device("cpu"))
        changed = by_reference(path, other, options)[0]
    else:
        changed = by_reference(path, session, options | instead)[0]
    assert not np.array_equal(changed, latents)


def test_a_film_by_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is drawn at the init image's size, its frames have files of their own, and its memory is known."""
    whole = golden("svd")
    whole["pipeline"]["numbers"]["frame_count"]["default"] = 3
    bundle = written(tmp_path / "bundle", whole)
    Image.fromarray(CONTROL).save(tmp_path / "begin.png")
    given = ["generate", str(bundle.path), "--init-image", str(tmp_path / "begin.png"), "--max-memory", "2GB"]
    assert cli.main([*given, "--out", str(tmp_path / "a.png")]) == 0
    said = capsys.readouterr()
    names = [str(tmp_path / f"a-{frame}.png") for frame in (1, 2, 3)]
    assert said.out.split() == names and "memory: " in said.err and not caplog.messages
    assert {Image.open(name).size for name in names} == {SIZE}
    unet = max(plan.arena for plan in bundle.plans if plan.component == "unet")
    need = memory_budget.need(bundle, 3, 2, memory_budget.Way())
    assert need.arena >= unet and need.host == 3 * 4 * 3 * 16 * 24
    assert cli.main([*given, "--number", "frame_count=5"]) == 2
    assert "no plans of so many (got 5, expected 3). Fix: use 3." in capsys.readouterr().err


@pytest.mark.parametrize("whole", [golden("inpaint"), golden("sd1")], ids=["nine channels", "four channels"])
def test_outside_of_the_mask_the_picture_stays(tmp_path: Path, whole: dict[str, Any]) -> None:
    bundle = written(tmp_path / "bundle", whole)
    pipeline = Pipeline.of(bundle, Session(bundle, choose_device("cpu")))
    steps: list[np.ndarray] = []
    picture = pipeline.draw(
        request({"image": CONTROL, "mask": MASK}), on_step=lambda done, calls, timestep, latents: steps.append(latents)
    )
    if "mask" in whole["pipeline"]["latents"]:  # after each call, too
        noised = make_table("euler_a", 4, SD15).noised
        for latents, (of_image, of_noise) in zip(steps, noised, strict=True):
            want = of_image * picture.latents + of_noise * picture.start
            np.testing.assert_allclose(latents[..., 0], want[..., 0], rtol=1e-5, atol=1e-5)
            assert not np.isclose(latents[..., 1:], want[..., 1:], rtol=1e-3).all() or of_noise == 0
    kept = (picture.pixels == CONTROL).all((0, 2))
    assert kept[:6].all() and not kept[7:].any()  # the mask begins in the seventh column
