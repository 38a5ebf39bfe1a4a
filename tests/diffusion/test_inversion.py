"""Inversions: each step's formula, and a pipeline's pictures and back; what lies between two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from diffusion.fake_networks import COMPONENTS, Letters, OtherDevice, plans_at, spec_of
from diffusion.sampler_helpers import SD15
from recipe_weights import case

from ondevice.bundle.pipeline import Given, PipelineSpec
from ondevice.converters.families import FAMILIES
from ondevice.diffusion.image import from_pixels
from ondevice.diffusion.interpolation import lerp, slerp
from ondevice.diffusion.inversion import Inversion
from ondevice.diffusion.morph import Morph, parts_of_way, request_of_frames
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Request
from ondevice.diffusion.samplers import make_table, run_table
from ondevice.diffusion.samplers.inverse import INVERSIONS, inverse_table
from ondevice.errors import UsageError

Network = Callable[[np.ndarray, float], np.ndarray]
CONFIG, _, ARRAYS = case("morph")
SCHEDULER = CONFIG["scheduler"]
V = {"prediction_type": "v_prediction"}


@pytest.mark.parametrize("part", [0.0, 0.3, 1.0])
def test_recorded_slerp(part: float) -> None:
    found = slerp(ARRAYS["in.a"], ARRAYS["in.b"], part)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, ARRAYS[f"out.slerp_{part}"], rtol=0, atol=1e-6)


def test_slerp_of_vectors_without_a_circle() -> None:
    a = ARRAYS["in.a"]
    for part in (0.0, 0.25, 0.5, 1.0):
        np.testing.assert_allclose(slerp(a, a, part), a, rtol=1e-6, atol=0)  # one direction
        np.testing.assert_allclose(slerp(a, 3 * a, part), (1 + 2 * part) * a, rtol=1e-6, atol=0)
        opposite = slerp(a, -a, part)
        np.testing.assert_allclose(opposite, np.cos(np.pi * part) * a, rtol=0, atol=2e-3 * np.abs(a).max())
        np.testing.assert_array_equal(slerp(a, 0 * a, part), lerp(a, 0 * a, part))


def test_lerp_is_exact_at_its_ends_and_of_equals() -> None:
    a, b = ARRAYS["in.a"], ARRAYS["in.b"] * 1e4
    np.testing.assert_array_equal(lerp(a, b, 0), a)
    np.testing.assert_array_equal(lerp(a, b, 1), b)
    np.testing.assert_array_equal(lerp(b, a, 1), a)  # of which b + (a - b) loses digits
    for part in (0.1, 0.4999, 0.5, 0.9):
        np.testing.assert_array_equal(lerp(a, a, part), a)
        np.testing.assert_allclose(lerp(a, b, part), a * (1 - part) + b * part, rtol=1e-5, atol=1e-3)


def by_formula(way: str, config: dict[str, Any], steps: int, x: np.ndarray, network: Network) -> np.ndarray:
    """An inversion written out in float64, timesteps of DDIM's list."""
    betas = np.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    final = 1.0 if config.get("set_alpha_to_one", True) else alphas[0]
    table = make_table("ddim", steps, config)
    timesteps = [int(call.timestep) for call in table.calls][::-1]
    for i, t in enumerate(timesteps):
        before = t - 1000 // steps if way == "inverse" else timesteps[i - 1] if i else -1
        a, to = alphas[before] if before >= 0 else final, alphas[t]
        out = network(x.astype(np.float32), t).astype(np.float64)
        if config.get("prediction_type") == "v_prediction":
            clean, noise = a**0.5 * x - (1 - a) ** 0.5 * out, a**0.5 * out + (1 - a) ** 0.5 * x
        elif config.get("prediction_type") == "sample":
            clean, noise = out, (x - a**0.5 * out) / (1 - a) ** 0.5
        else:
            clean, noise = (x - (1 - a) ** 0.5 * out) / a**0.5, out
        x = to**0.5 * clean + (1 - to) ** 0.5 * noise
    return x


def smooth(x: np.ndarray, timestep: float) -> np.ndarray:
    """A network that is a formula."""
    mixed = 0.7 * np.sin(x + np.roll(x, 1, axis=-1)) + 0.3 * x
    return np.asarray(mixed * np.float32(np.cos(timestep / 400)), np.float32)


@pytest.mark.parametrize("way", ["inverse", "ddim"])
@pytest.mark.parametrize(
    "more",
    [{}, V, {"prediction_type": "sample"}, {"timestep_spacing": "trailing"}, {"set_alpha_to_one": True}],
    ids=lambda more: next(iter(more.values()), "epsilon"),
)
def test_each_way_is_its_formula(way: str, more: dict[str, Any]) -> None:
    config, steps = SCHEDULER | more, 7  # 1000 is no multiple: with trailing steps the two ways differ
    table = inverse_table(way, steps, config)
    found = run_table(table, smooth, table.start(ARRAYS["in.x0"]))
    expected = by_formula(way, config, steps, ARRAYS["in.x0"].astype(np.float64), smooth)
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
    other = inverse_table("ddim" if way == "inverse" else "inverse", steps, config)
    assert (table == other) == ("timestep_spacing" not in more)


@pytest.mark.parametrize("more", [{}, V, {"timestep_spacing": "trailing"}], ids=["epsilon", "v", "trailing"])
def test_refined_inversions_lead_back_to_where_they_came_from(more: dict[str, Any]) -> None:
    config = SCHEDULER | more
    forward, errors = make_table("ddim", 12, config), list[float]()
    for refine in (0, 3, 12):
        table = inverse_table("inverse", 12, config, refine=refine)
        assert len(table.calls) == 12 * (1 + refine)
        back = run_table(forward, smooth, forward.start(run_table(table, smooth, ARRAYS["in.x0"])))
        errors.append(float(np.abs(back - ARRAYS["in.x0"]).max()))
    assert errors[0] > 0.2 and errors[1] < errors[0] / 3 and errors[2] < 1e-3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("mirror", 10, {}),
            "inversion: no such inversion (got 'mirror', expected one of inverse, ddim, own). Fix: use",
        ),
        (("own", 10, {"own": "euler"}), "inversion own: only pndm and ddim have timesteps of their own"),
        (("ddim", 10, {"refine": 51}), "refine: out of range (got 51, expected 0 to 50). Fix: use 0 to 5."),
        (("ddim", 0, {}), "sampler ddim: steps out of range (got 0, expected 1 to 1000)"),
        (("ddim", 10, {"eta": 0.5}), "sampler ddim_inverse: no such option (got eta, expected"),
        (("ddim", 10, {"clip_sample": True}), "sampler ddim_inverse: clip_sample cannot be used"),
    ],
)
def test_inversions_that_cannot_be_had(given: tuple[str, int, dict[str, Any]], said: str) -> None:
    way, steps, options = given
    with pytest.raises(UsageError) as caught:
        inverse_table(way, steps, SCHEDULER, **options)
    assert str(caught.value).startswith(said)


HEIGHT, WIDTH = 3, 5  # latents


def networks(component: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Short formulas, with an encoder whose variance is large."""
    if component == "text_encoder":
        return {"last_hidden_state": np.repeat(inputs["input_ids"][:, :, None].astype(np.float32) / 100, 3, axis=2)}
    if component == "unet":
        states = inputs["encoder_hidden_states"].mean(axis=(1, 2))[:, None, None, None]
        return {"out_sample": smooth(inputs["sample"] + states, float(inputs["timestep"][0]))}
    if component == "vae_encoder":
        mean = np.repeat(inputs["sample"][:, :1, ::8, ::8], 4, axis=1) * np.float32([1, 2, 3, 4])[None, :, None, None]
        return {"latent_parameters": np.concatenate([mean, np.full_like(mean, 3.0)], axis=1)}
    return {"sample": np.repeat(np.repeat(inputs["latent_sample"][:, :3] / 8, 8, 2), 8, 3)}


def painter(spec: PipelineSpec | None = None) -> tuple[Pipeline, OtherDevice]:
    session = OtherDevice(networks)
    plans = plans_at(HEIGHT, WIDTH)
    return Pipeline(spec or spec_of(), session, {"tokenizer": Letters(77)}, SD15, plans=plans, size=(40, 24)), session


def photo(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return np.repeat(np.repeat(small, 8, 0), 8, 1)


def clean_of(pixels: np.ndarray) -> np.ndarray:
    """The mean of what the encoder makes of it, scaled."""
    return np.float32(0.18215) * networks("vae_encoder", {"sample": from_pixels(pixels)})["latent_parameters"][:, :4]


def predicted(states: np.ndarray) -> Network:
    def run(x: np.ndarray, timestep: float) -> np.ndarray:
        given = {"sample": x, "timestep": np.float32([timestep]), "encoder_hidden_states": states}
        return networks("unet", given)["out_sample"]

    return run


def states_of(text: str) -> np.ndarray:
    return networks("text_encoder", {"input_ids": Letters(77)(text)[None]})["last_hidden_state"]


@pytest.mark.parametrize("way", INVERSIONS)
def test_a_pipeline_inverts_the_mean_without_guidance(way: str) -> None:
    pipeline, session = painter()
    found = pipeline.invert(photo(1), "a cat", num_inference_steps=5, inversion=way)
    table = inverse_table(way, 5, SD15, own="pndm")
    np.testing.assert_array_equal(found, run_table(table, predicted(states_of("a cat")), clean_of(photo(1))))
    calls = len(table.calls)
    assert [name for name, *_ in session.runs] == ["text_encoder", "vae_encoder", *["unet"] * calls]
    assert {batch for _, batch, *_ in session.runs} == {1}


def test_what_is_drawn_from_an_inversion_is_the_picture() -> None:
    pipeline, _ = painter()
    latents = pipeline.invert(photo(1), "a cat", num_inference_steps=10, refine=14)
    call: dict[str, Any] = {"num_inference_steps": 10, "guidance_scale": 1.0, "sampler": "ddim"}
    back = pipeline("a cat", latents=latents, **call)
    np.testing.assert_allclose(back.latents, clean_of(photo(1)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("prompt", [None, "a dog, asleep"])
@pytest.mark.parametrize("guidance", [None, 3.0])
def test_frames_are_drawn_from_latents_and_texts_between_the_ends(prompt: str | None, guidance: float | None) -> None:
    pipeline, session = painter()
    spec = spec_of()
    asked = Request(prompt="a cat", negative_prompt="x", num_inference_steps=4, guidance_scale=guidance)
    request = request_of_frames(spec, SD15, asked, Inversion())
    assert (request.sampler, request.guidance_scale) == ("ddim", guidance or 1.0)
    morph = Morph(pipeline, request, (photo(1), photo(2)), prompt)
    shown: list[int] = []
    for end in (0, 1):
        morph.invert(end, lambda done, *_: shown.append(done))
    assert shown == [1, 2, 3, 4] * 2
    inverse, forward = inverse_table("inverse", 4, SD15), make_table("ddim", 4, SD15)
    states = [states_of("a cat"), states_of(prompt or "a cat")]
    ends = [run_table(inverse, predicted(states[end]), clean_of(photo(1 + end))) for end in (0, 1)]
    session.runs.clear()
    for part in parts_of_way(5):
        mixed = lerp(*states, part)

        def guided(x: np.ndarray, timestep: float, mixed: np.ndarray = mixed) -> np.ndarray:
            text = predicted(mixed)(x, timestep)
            if guidance is None:
                return text
            none = predicted(states_of("x"))(x, timestep)
            return none + np.float32(guidance) * (text - none)

        expected = run_table(forward, guided, slerp(*ends, part))
        np.testing.assert_allclose(morph.frame(part).latents, expected, rtol=0, atol=2e-5)
    texts = (1 if prompt is None else 2) * (1 if guidance is None else 2)
    ran = [name for name, *_ in session.runs]
    assert (ran.count("text_encoder"), ran.count("vae_encoder"), ran.count("vae_decoder")) == (texts, 0, 5)


def test_adapters_are_turned_before_anything_runs_there() -> None:
    pipeline, session = painter()
    turned: list[tuple[float, int]] = []
    request = request_of_frames(spec_of(), SD15, Request(prompt="a cat", num_inference_steps=2), Inversion())
    morph = Morph(pipeline, request, (photo(1), photo(2)), turn=lambda part: turned.append((part, len(session.runs))))
    morph.invert(1)
    morph.invert(0)
    morph.frame(0.25)
    morph.frame(0.5)
    an_inversion, a_frame = 4, 4  # text encoder, VAE, two steps
    assert turned == [
        (1.0, 0), (0.0, an_inversion), (0.25, 2 * an_inversion), (0.5, 2 * an_inversion + a_frame),
    ]  # fmt: skip
    assert len(session.runs) == 2 * an_inversion + 2 * a_frame


def test_texts_without_a_way_between_them() -> None:
    pipeline, _ = painter()
    one, other = (pipeline.encode(Request(prompt=text, emphasis="mean")) for text in ("a cat", "a cat AND a dog"))
    with pytest.raises(UsageError) as caught:
        pipeline.between(one, other, 0.5)
    assert str(caught.value) == (
        "prompt: texts of several parts (AND) have no way between them. Fix: write both without AND."
    )


def refused(spec: PipelineSpec, **fields: Any) -> str:
    pipeline, session = painter(spec)
    with pytest.raises(UsageError) as caught:
        pipeline.invert_request(Request(**{"prompt": "x", "image": photo(1)} | fields), Inversion())
    assert not session.runs
    return str(caught.value)


def test_models_that_invert_no_pictures() -> None:
    spec = spec_of()
    without = replace(spec, latents=replace(spec.latents, begin=None, strength=None, mask=None))
    assert refused(without) == (
        "inversion: this model begins from no picture, so that none can be inverted. Fix: use a bundle of Stable "
        "Diffusion 1.x, 2.x or XL that draws from a text."
    )
    assert "drawn by flow_euler, whose steps DDIM does not have" in refused(replace(spec, sampler="flow_euler"))
    assert "other networks for other parts of the schedule" in refused(replace(spec, denoise=spec.denoise * 2))
    needing = replace(spec, pictures={**spec.pictures, "mask": Given("mask", optional=False)})
    assert "draws nothing without mask" in refused(needing, mask=np.zeros((24, 40), np.uint8))
    (loop,) = spec.denoise
    assert "always guided" in refused(replace(spec, denoise=(replace(loop, guided=None),)))
    assert "one picture is inverted (got none, expected image)" in refused(spec, image=None)
    assert "(got image, mask, expected image)" in refused(spec, mask=np.zeros((24, 40), np.uint8))


def test_inpainting_is_refused_by_what_it_needs() -> None:
    """Through the words of its own family's pipeline."""
    from ondevice.bundle.format import Checker
    from ondevice.bundle.pipeline_file import parse_pipeline

    family = FAMILIES["sd15-inpaint"]
    vae = {"latent_channels": 4, "block_out_channels": [1] * 4, "scaling_factor": 0.18215}
    value = family.pipeline(family, {"vae": vae}) | {"sampler": {"name": "pndm", "steps": 20}}
    spec = parse_pipeline(Checker("test"), value, COMPONENTS, ["tokenizer"], ["pndm_20"])
    said = refused(spec, mask=np.zeros((24, 40), np.uint8))
    assert said.startswith("inversion: this model draws nothing without image and mask, and has no other way back")


def test_a_sampler_that_draws_noise_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        request_of_frames(spec_of(), SD15, Request(prompt="x", sampler="euler_a"), Inversion())
    assert str(caught.value) == (
        "sampler: euler_a draws noise in its steps, and does not lead back to the pictures. Fix: use ddim."
    )
    own = request_of_frames(spec_of(), SD15, Request(prompt="x"), Inversion("own"))
    assert (own.sampler, own.num_inference_steps) == ("pndm", 20)
