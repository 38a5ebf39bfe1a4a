"""Pipelines of other shapes than Stable Diffusion 1.x's, on a device that keeps its values:
tests/golden/pipeline, and changes of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusion.fake_networks import Kept, Letters, OtherDevice
from diffusion.sampler_helpers import SD15

from ondevice.bundle.format import Checker
from ondevice.bundle.pipeline_file import parse_pipeline
from ondevice.diffusion.memory_budget import Way
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Request
from ondevice.errors import BundleError, UsageError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "pipeline"
Arrays = dict[str, np.ndarray]
PIXELS = np.full((16, 24, 3), 200, np.uint8)
PLACE = {"height": 2, "width": 3}


def golden(name: str) -> dict[str, Any]:
    return copy.deepcopy(json.loads((GOLDEN / f"{name}.json").read_text()))


def per_pass(value: np.ndarray) -> np.ndarray:
    """One number per pass, to be added to latents."""
    return value.reshape(len(value), -1).mean(1)[:, None, None, None]


def network(component: str, inputs: Arrays) -> Arrays:
    """Short formulas for every component of the golden pipelines. What the UNets make depends on all that they read."""
    if component.startswith("text_encoder"):
        states = inputs["input_ids"][:, :, None].astype(np.float32) / 100
        return {"last_hidden_state": states, "hidden_states": states, "text_embeds": states.mean(1)}
    if component.endswith("condition"):
        return {"context": inputs["states"] + 1, "added": inputs["time_ids"] / 10}
    if component.startswith("controlnet"):
        scale = inputs["scale"] if "scale" in inputs else inputs["scales"][:, :1] - inputs["scales"][:, 1:]
        residual = np.tanh(inputs["sample"] + scale[:, :, None, None] + per_pass(inputs["encoder_hidden_states"]))
        return {f"residual_{i}": residual * np.float32(i) + inputs.get(f"sum_{i}", 0) for i in range(13)}
    if component.endswith("unet"):
        rest = sum(per_pass(value) for name, value in inputs.items() if name not in ("sample", "timestep"))
        return {"out_sample": np.tanh(inputs["sample"] + rest)}
    if component == "vae_encoder":
        small = inputs["sample"][:, :1, ::8, ::8]
        return {"latent_parameters": np.repeat(small, 8, 1)}
    return {"sample": np.repeat(np.repeat(inputs["latent_sample"][:, :3], 8, 2), 8, 3)}


def pipeline(whole: dict[str, Any], device: OtherDevice, batches: dict[str, tuple[int, ...]] | None = None) -> Pipeline:
    """A pipeline over `network`. `batches`: of the components' plans, 1 and 2 where they are not named."""
    value = whole["pipeline"]
    spec = parse_pipeline(Checker("test"), value, whole["components"], whole["tokenizers"], whole["samplers"])
    place = {name: {} if "text" in name or "condition" in name else PLACE for name in whole["components"]}
    plans = {name: [{"batch": batch} | at for batch in (batches or {}).get(name, (1, 2))] for name, at in place.items()}
    tokenizers = {name: Letters(7) for name in whole["tokenizers"]}
    shapes: dict[str, tuple[int, ...]] = {
        f"{port}_{i}": (1, 4, 2, 3) for port in ("residual", "sum") for i in range(13)
    }
    shapes |= {"last_hidden_state": (1, 7, 1), "hidden_states": (1, 7, 1), "text_embeds": (1, 1)}
    return Pipeline(
        spec,
        device,
        tokenizers,
        SD15,
        plans=plans,
        size=(24, 16),
        zeros=lambda _, sizes, port: np.zeros(shapes[port], np.float32),
    )


def controlnet() -> dict[str, Any]:
    """As in the golden, on a picture that is here already and as it is."""
    whole = golden("controlnet")
    whole["pipeline"]["pictures"] = {"image": {"prepare": "fit"}}
    whole["pipeline"]["denoise"][0]["roles"][0]["feed"]["control"] = {"picture": "image"}
    return whole


def test_what_a_role_of_the_loop_makes_stays_on_the_device() -> None:
    device = OtherDevice(network)
    numbers = {"control_scale": 0.5, "control_start": 0.25, "control_end": 0.75}
    drawn = pipeline(controlnet(), device)("x", num_inference_steps=4, image=PIXELS, numbers=numbers)
    assert [name for name, *_ in device.runs] == ["text_encoder"] * 2 + ["controlnet", "unet"] * 4 + ["vae_decoder"]
    # the encoder's, for NaN
    assert {batch for name, batch, *_ in device.runs if name.endswith("net")} == {2} and device.reads == 2
    assert [arrays["scale"].tolist() for arrays in device.of("controlnet")] == [
        [[0], [0]],
        [[0.5], [0.5]],
        [[0.5], [0.5]],
        [[0], [0]],
    ]
    assert [arrays["timestep"].shape for arrays in device.of("unet")] == [(1,)] * 4
    assert all(
        isinstance(given[f"residual_{i}"], Kept) for name, *_, given in device.runs if name == "unet" for i in range(13)
    )
    assert np.array_equal(device.of("unet")[0]["residual_3"], 3 * device.of("unet")[0]["residual_1"])
    assert drawn.parameters["control_scale"] == 0.5 and "strength" not in drawn.parameters


GUIDED = {"guidance_scale": 1.0, "num_inference_steps": 2}  # one pass


def test_nets_run_where_their_picture_is_given() -> None:
    """The last first; what those that do not run would have added is zeros."""
    for given, ran in (
        ({}, []),
        ({"control": PIXELS}, ["controlnet"]),
        (
            {"control_2": PIXELS, "control": PIXELS},
            ["controlnet_2", "controlnet"],
        ),
    ):
        device = OtherDevice(network)
        pipeline(golden("control"), device)("x", **GUIDED, pictures=given)
        assert [name for name, *_ in device.runs][1:] == [*ran, "unet"] * 2 + ["vae_decoder"]
        for net in ran:
            picture = device.of(net)[0]["control"]
            assert picture.shape == (1, 3, 16, 24) and np.all(picture == np.float32(200 / 255))
        unet = device.of("unet")[0]
        if not ran:
            assert not any(unet[f"residual_{i}"].any() for i in range(13)) and unet["residual_0"].shape == (1, 4, 2, 3)
            continue
        first = device.of("controlnet")[0]
        assert np.array_equal(unet["residual_5"], network("controlnet", first)["residual_5"])
        assert first["sum_5"].any() == (len(ran) == 2)


def test_scales_of_a_net_are_each_texts() -> None:
    device, numbers = OtherDevice(network), {"control_scale": 0.75, "control_guess": 1, "control_negative_scale": 0}
    numbers |= {"control_start": 0.5}
    pipeline(golden("control"), device)(
        "x", num_inference_steps=2, sampler="ddim", pictures={"control": PIXELS}, numbers=numbers
    )
    assert [arrays["scales"].tolist() for arrays in device.of("controlnet")] == [[[0, 1], [0, 1]], [[0, 1], [0.75, 1]]]
    device = OtherDevice(network)
    pipeline(golden("control"), device)("x", **GUIDED, pictures={"control": PIXELS}, numbers={"control_scale": 2})
    assert device.of("controlnet")[0]["scales"].tolist() == [[2, 0]]


@pytest.mark.parametrize("batches", [{"controlnet": (1,)}, {"unet": (1,)}, {}])
def test_passes_one_after_another_where_a_role_has_no_plan_for_all(batches: dict[str, tuple[int, ...]]) -> None:
    one, other = OtherDevice(network), OtherDevice(network)
    at_once = pipeline(controlnet(), one)("x", negative_prompt="y", num_inference_steps=3, image=PIXELS)
    request = Request(prompt="x", negative_prompt="y", num_inference_steps=3, image=PIXELS)
    singly = pipeline(controlnet(), other, batches).draw(request, Way(split=not batches))
    assert [(name, batch) for name, batch, *_ in other.runs if name.endswith("net")] == [
        ("controlnet", 1),
        ("unet", 1),
    ] * 6
    np.testing.assert_allclose(singly.latents, at_once.latents, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("handover", "base"), [(0.5, 2), (0.0, 0), (1.0, 4), (0.3, 2)])
def test_two_stretches_of_the_schedule(handover: float, base: int) -> None:
    device = OtherDevice(network)
    pipeline(golden("sdxl_refiner"), device)("x", num_inference_steps=4, numbers={"handover": handover})
    loop = [name for name, *_ in device.runs if name.endswith("unet")]
    assert loop == ["unet"] * base + ["refiner_unet"] * (4 - base)


def test_a_number_per_text_and_a_text_that_stands_for_zeros() -> None:
    """SDXL: what the base's encoders would make of a text that was not given are zeros,
    and the refiner's is the empty text's."""
    device, states = OtherDevice(network), (1, 7, 1)
    drawn = pipeline(golden("sdxl_refiner"), device)(
        "x", num_inference_steps=2, numbers={"crop_top": 3, "aesthetic_score": 7}
    )
    assert [len(device.of(name)) for name in ("text_encoder", "text_encoder_2", "condition", "refiner_condition")] == [
        1,
        3,
        2,
        2,
    ]
    absent, given = device.of("condition")
    assert np.array_equal(absent["states"], np.zeros(states)) and np.array_equal(absent["pooled"], np.zeros((1, 1)))
    assert given["states"].all() and given["time_ids"].tolist() == absent["time_ids"].tolist() == [
        [16, 24, 3, 0, 16, 24]
    ]
    negative, positive = device.of("refiner_condition")
    assert (negative["time_ids"][0, 4], positive["time_ids"][0, 4]) == (2.5, 7)
    assert np.array_equal(negative["states"][0, :, 0], Letters(7)("").astype(np.float32) / 100)
    unet = device.of("unet")[0]
    assert np.array_equal(unet["encoder_hidden_states"], np.concatenate([absent["states"], given["states"]]) + 1)
    empty = OtherDevice(network)
    other = pipeline(golden("sdxl_refiner"), empty)("x", negative_prompt="", num_inference_steps=2)
    assert len(empty.of("text_encoder")) == 2 and not np.array_equal(other.latents, drawn.latents)
    assert drawn.parameters["crop_top"] == 3


def picture_guided() -> dict[str, Any]:
    """InstructPix2Pix: three passes, of which the first has zeros for the picture,
    and here for what the text became too."""
    whole = golden("sd1")
    value = whole["pipeline"]
    value["numbers"] = {"guidance_scale": {"default": 7.5}, "picture_guidance": {"default": 1.5}}
    value["pictures"]["image"].pop("optional")
    del value["latents"]["begin"], value["latents"]["strength"], value["latents"]["mask"], value["outside"]
    value["before"][2] = {"sample": "image_moments", "take": "mean", "keep": "image_latents"}
    loop = value["denoise"][0]
    del loop["guided"], loop["rescale"]
    loop["roles"][0]["feed"]["picture"] = {"value": "image_latents"}
    loop["passes"] = [
        {"text": "negative_prompt", "zeros": ["image_latents", "context"]},
        {"text": "negative_prompt"},
        {"text": "prompt"},
    ]
    loop["combine"] = {"first": 0, "add": [["picture_guidance", 1, 0], ["guidance_scale", 2, 1]]}
    return whole


@pytest.mark.parametrize("batches", [(1, 3), (1, 2)])
def test_a_pass_with_zeros(batches: tuple[int, ...]) -> None:
    device = OtherDevice(network)
    pipe = pipeline(picture_guided(), device, {"unet": batches})
    seen: list[np.ndarray] = []
    request = Request(prompt="x", negative_prompt="y", num_inference_steps=2, sampler="ddim", image=PIXELS)
    drawn = pipe.draw(request, on_step=lambda done, calls, timestep, latents: seen.append(latents))
    assert {batch for name, batch, *_ in device.runs if name == "unet"} == {max(batches) if 3 in batches else 1}
    parts = device.of("unet")[: 1 if 3 in batches else 3]
    mean = np.float32(2 * 200 / 255 - 1)
    picture, context = (np.concatenate([part[name] for part in parts]) for name in ("picture", "encoder_hidden_states"))
    np.testing.assert_allclose(
        picture, np.concatenate([np.zeros((1, 4, 2, 3)), np.full((2, 4, 2, 3), mean)]), rtol=1e-6
    )
    assert not context[0].any() and context[1].any() and context[2].any() and not np.array_equal(context[1], context[2])
    outputs = [
        network("unet", {"sample": drawn.start, "picture": picture[i : i + 1], "states": context[i : i + 1]})
        for i in range(3)
    ]
    nothing, some, all_of_it = (output["out_sample"] for output in outputs)
    prediction = nothing + 1.5 * (some - nothing) + 7.5 * (all_of_it - some)
    now, later = (np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[t] for t in (501, 1))
    want = later**0.5 * (drawn.start - (1 - now) ** 0.5 * prediction) / now**0.5 + (1 - later) ** 0.5 * prediction
    np.testing.assert_allclose(seen[0], want, rtol=0, atol=1e-4)


def test_guidance_that_ends_early() -> None:
    """A number with a window decides how many passes run; the picture's parameters say what was asked for."""
    whole, device = golden("sd1"), OtherDevice(network)
    value = whole["pipeline"]
    edges = {"begin": {"default": 0}, "end": {"default": 0.5}}
    value["numbers"] = edges | value["numbers"] | {"guidance_scale": {"default": 7.5, "window": ["begin", "end"]}}
    drawn = pipeline(whole, device)("x", negative_prompt="y", num_inference_steps=4, sampler="euler", guidance_scale=4)
    assert [batch for name, batch, *_ in device.runs if name == "unet"] == [2, 2, 1, 1]
    assert (drawn.parameters["guidance_scale"], drawn.parameters["negative_prompt"]) == (4, "y")


def test_roles_after_the_loop_and_roles_of_a_picture_that_was_not_given() -> None:
    whole, device = (
        golden("sd1"),
        OtherDevice(lambda name, given: {"y": -given["x"]} if name == "flip" else network(name, given)),
    )
    whole["components"] += ["flip"]
    value = whole["pipeline"]
    value["latents"] |= {"scaling": 0.5, "shift": 0.25}
    flip = {"run": "flip", "every": "picture", "feed": {"x": {"value": "latents"}}, "keep": {"y": "flipped"}}
    unread = {"run": "flip", "every": "picture", "feed": {"x": {"value": "image_latents"}}, "keep": {"y": "unread"}}
    value["after"] = [flip, unread, *value["after"]]
    value["after"][-1]["feed"]["latent_sample"] = {"value": "flipped"}
    reads = {
        "feed": {"input_ids": {"tokens": "tokenizer"}, "image": {"picture": "image"}},
        "keep": {"last_hidden_state": "seen"},
    }
    value["before"].append({"run": "text_encoder", "every": "text"} | reads)
    drawn = pipeline(whole, device)("x", num_inference_steps=2)
    assert [name for name, *_ in device.runs] == ["text_encoder"] * 2 + ["unet"] * 3 + ["flip", "vae_decoder"]
    np.testing.assert_allclose(device.of("vae_decoder")[0]["latent_sample"], -(drawn.latents / 0.5 + 0.25), rtol=1e-5)


def test_weights_of_a_component_are_kept_until_its_last_run() -> None:
    """A decoder that also works on something before the loop; and an encoder whose latents are shifted and scaled."""
    whole, device = golden("sd1"), OtherDevice(network)
    value = whole["pipeline"]
    value["latents"] |= {"scaling": 0.5, "shift": 0.25}
    seen = {
        "run": "vae_decoder",
        "every": "picture",
        "feed": {"latent_sample": {"value": "image_latents"}},
        "keep": {"sample": "seen"},
    }
    value["before"].insert(3, seen)
    value["before"][2]["take"] = "mean"
    request = Request(prompt="x", num_inference_steps=2, sampler="ddim", image=PIXELS, strength=0.5)
    assert pipeline(whole, device).draw(request, Way(unload=True)).parameters["strength"] == 0.5
    assert device.released == ["text_encoder", "vae_encoder", "unet", "vae_decoder"]
    np.testing.assert_allclose(
        device.of("vae_decoder")[0]["latent_sample"], 0.5 * (2 * 200 / 255 - 1 - 0.25), rtol=1e-5
    )
    assert len(device.of("unet")) == 1


def changed(name: str, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    whole = golden(name)
    change(whole["pipeline"])
    return whole


def test_a_text_that_nobody_can_give_is_refused() -> None:
    whole = changed("sd1", lambda value: value["texts"].update(song={"optional": True}))
    refusal = "^pipeline: its pipeline asks for a text song, which this version does not do. Fix: install a newer"
    with pytest.raises(BundleError, match=refusal):
        pipeline(whole, OtherDevice(network))


@pytest.mark.parametrize(
    ("whole", "options", "expected"),
    [
        (picture_guided(), {}, "^image: this model draws nothing without a picture"),
        (
            changed("sd1", lambda value: value["texts"].update(negative_prompt={})),
            {},
            "^negative_prompt: this model draws nothing without",
        ),
        (golden("lcm"), {"image": PIXELS}, "^image: this model begins from no picture"),
        (golden("lcm"), {"strength": 0.5}, r"^strength: this model has no such number \(it has guidance_scale\)"),
        (golden("sdxl_refiner"), {"numbers": {"handover": 1.5}}, "^handover: out of range .got 1.5, expected 0 to 1"),
        (
            changed("lcm", lambda value: value["denoise"][0].update({"until": 0.5})),
            {},
            "^pipeline: no part of the pipeline runs at 0.5",
        ),
        (
            changed("lcm", lambda value: value["before"].pop()),
            {},
            "^latents: this model goes on from latents, and none were given",
        ),
    ],
)
def test_requests_that_a_pipeline_cannot_serve_are_refused(
    whole: dict[str, Any], options: dict[str, Any], expected: str
) -> None:
    device = OtherDevice(network)
    with pytest.raises(UsageError, match=expected):
        pipeline(whole, device)("x", num_inference_steps=4, sampler="euler", **options)
    assert not device.of("vae_decoder")


def test_a_number_that_the_graph_takes() -> None:
    """LCM: one pass, and guidance as an input."""
    device = OtherDevice(network)
    pipeline(golden("lcm"), device)("x", num_inference_steps=2, sampler="euler", guidance_scale=3)
    assert [(batch, arrays["guidance"].tolist()) for name, batch, arrays, _ in device.runs if name == "unet"] == [
        (1, [[3.0]])
    ] * 2
