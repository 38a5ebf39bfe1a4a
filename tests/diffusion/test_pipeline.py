"""The loop with made-up networks: equal to one written out by hand, and every argument that is refused."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from diffusion.fake_networks import HostSession, Letters, plans_at, spec_of
from diffusion.sampler_helpers import SD15

from ondevice.bundle.pipeline import LATENTS, Feed, InitialNoise, Role, Sample
from ondevice.diffusion import film_words
from ondevice.diffusion.control import OPTIONS
from ondevice.diffusion.guidance import combined
from ondevice.diffusion.image import drawn
from ondevice.diffusion.memory_budget import Way
from ondevice.diffusion.noise import Noise
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Options, Request
from ondevice.diffusion.samplers import SAMPLERS, WITHOUT_BETAS
from ondevice.diffusion.series import fixed_steps
from ondevice.errors import NumericError, UsageError


class MadeUpSession(HostSession):
    """Networks that are short formulas. Remembers what it was asked."""

    def __init__(self, broken_at: int | None = None) -> None:
        self.calls: list[tuple[str, dict[str, int]]] = []
        self.broken_at = broken_at

    def release(self, component: str) -> None:
        self.calls.append((f"release {component}", {}))

    def run(self, component: str, inputs: dict[str, np.ndarray], **sizes: int) -> dict[str, np.ndarray]:
        self.calls.append((component, sizes))
        if component == "text_encoder":
            ids = inputs["input_ids"]
            assert ids.dtype == np.int32 and ids.shape == (sizes["batch"], 77)
            return {"last_hidden_state": np.repeat(ids[:, :, None].astype(np.float32) / 100, 3, axis=2)}
        if component == "unet":
            x, t, states = inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"]
            assert x.shape == (sizes["batch"], 4, sizes["height"], sizes["width"]) and x.dtype == np.float32
            assert t.shape == (1,) and t.dtype == np.float32 and len(states) == len(x)
            if len([c for c, _ in self.calls if c == "unet"]) == self.broken_at:
                return {"out_sample": np.full_like(x, np.nan)}
            return {
                "out_sample": np.tanh(x + states.mean(axis=(1, 2))[:, None, None, None])
                * np.float32(np.cos(t[0] / 100))
            }
        if component == "vae_encoder":
            small = inputs["sample"][:, :1, ::8, ::8]
            return {
                "latent_parameters": np.concatenate(
                    [np.repeat(small, 4, 1), np.full((1, 4, *small.shape[2:]), -40, np.float32)], 1
                )
            }
        assert inputs["latent_sample"].shape == (1, 4, sizes["height"], sizes["width"])
        return {"sample": np.repeat(np.repeat(inputs["latent_sample"][:, :3], 8, 2), 8, 3)}


letters = Letters(77)


def painter(session: MadeUpSession | None = None, scaling: float = 0.18215, **options: Any) -> Pipeline:
    about: dict[str, Any] = {"plans": plans_at(2, 3), "size": (24, 16)}
    return Pipeline(
        spec_of(scaling=scaling), session or MadeUpSession(), {"tokenizer": letters}, SD15, **(about | options)
    )


def by_hand(prompt: str, negative: str, steps: int, guidance: float, seed: int) -> np.ndarray:
    """DDIM from the paper, guided: the final latents."""
    session = MadeUpSession()
    states = [
        session.run("text_encoder", {"input_ids": letters(t)[None]}, batch=1)["last_hidden_state"]
        for t in (negative, prompt)
    ]
    x = Noise(seed).randn((1, 4, 2, 3))
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    for t in [i * (1000 // steps) + 1 for i in reversed(range(steps))]:
        time = np.array([t], np.float32)
        none, some = (
            session.run(
                "unet", {"sample": x, "timestep": time, "encoder_hidden_states": s}, batch=1, height=2, width=3
            )["out_sample"]
            for s in states
        )
        e = none + guidance * (some - none)
        now, to = alphas[t], alphas[t - 1000 // steps] if t >= 1000 // steps else alphas[0]
        x = (to**0.5 * (x - (1 - now) ** 0.5 * e) / now**0.5 + (1 - to) ** 0.5 * e).astype(np.float32)
    return x


def test_equals_a_loop_written_out() -> None:
    session = MadeUpSession()
    picture = painter(session)(
        "a cat", negative_prompt="dog", num_inference_steps=5, sampler="ddim", guidance_scale=4.0, seed=9
    )
    want = by_hand("a cat", "dog", 5, 4.0, 9)
    np.testing.assert_allclose(picture.latents, want, rtol=0, atol=2e-5 * np.abs(want).max())
    assert np.array_equal(picture.start, Noise(9).randn((1, 4, 2, 3)))
    assert picture.pixels.shape == (16, 24, 3) and picture.pixels.dtype == np.uint8
    decoded = np.clip(picture.latents[0, :3] / np.float32(0.18215) / 2 + 0.5, 0, 1) * 255
    assert np.array_equal(picture.pixels[::8, ::8], decoded.transpose(1, 2, 0).round().astype(np.uint8))
    assert session.calls == [
        *[("text_encoder", {"batch": 1})] * 2,
        *[("unet", {"batch": 2, "height": 2, "width": 3})] * 5,
        ("vae_decoder", {"batch": 1, "height": 2, "width": 3}),
    ]
    assert picture.parameters == {
        "prompt": "a cat", "negative_prompt": "dog", "steps": 5, "sampler": "ddim",
        "guidance_scale": 4.0, "seed": 9, "width": 24, "height": 16,
    }  # fmt: skip


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in WITHOUT_BETAS])
def test_the_same_call_gives_the_same_picture_and_another_seed_another(sampler: str) -> None:
    first, again, other = (painter()("x", num_inference_steps=4, sampler=sampler, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.latents, again.latents)
    assert not np.array_equal(first.latents, other.latents)


def test_two_passes_equal_one() -> None:
    session = MadeUpSession()
    split = painter(session).draw(Request(prompt="x", negative_prompt="y", num_inference_steps=3), Way(split=True))
    assert [sizes["batch"] for name, sizes in session.calls if name == "unet"] == [1] * 8
    np.testing.assert_allclose(
        split.latents, painter()("x", negative_prompt="y", num_inference_steps=3).latents, rtol=0, atol=1e-6
    )


def test_components_are_released_after_their_last_use() -> None:
    session = MadeUpSession()
    request = Request(prompt="x", num_inference_steps=2, image=np.zeros((16, 24, 3), np.uint8), strength=1.0)
    painter(session).draw(request, Way(unload=True))
    order = [name for name, _ in session.calls]
    assert order.index("release text_encoder") > max(i for i, name in enumerate(order) if name == "text_encoder")
    assert order[-4:] == ["unet", "release unet", "vae_decoder", "release vae_decoder"]
    assert order.index("vae_encoder") < order.index("release vae_encoder") < order.index("unet")


@pytest.mark.parametrize("guidance", [1.0, 0.0])
def test_without_guidance_the_negative_prompt_is_not_read(guidance: float) -> None:
    session = MadeUpSession()
    picture = painter(session)("x", negative_prompt="y", num_inference_steps=2, guidance_scale=guidance)
    assert [sizes["batch"] for name, sizes in session.calls if name in ("unet", "text_encoder")] == [1] * 4
    assert picture.parameters["negative_prompt"] == ""
    assert np.array_equal(picture.latents, painter()("x", num_inference_steps=2, guidance_scale=guidance).latents)


def test_given_latents_are_used_and_the_stream_starts_after_none() -> None:
    latents = np.random.default_rng(0).normal(size=(1, 4, 2, 3)).astype(np.float32)
    picture = painter()("x", num_inference_steps=3, sampler="euler_a", latents=latents, seed=4)
    assert np.array_equal(picture.start, latents)
    # The first draw of the stream is then the first step's, not the start.
    shifted = painter()("x", num_inference_steps=3, sampler="euler_a", latents=Noise(4).randn((1, 4, 2, 3)), seed=4)
    assert not np.array_equal(shifted.latents, painter()("x", num_inference_steps=3, sampler="euler_a", seed=4).latents)


def test_progress_counts_passes_of_the_network() -> None:
    seen: list[tuple[int, int]] = []
    painter().draw(
        Request(prompt="x", num_inference_steps=3, sampler="heun"),
        on_step=lambda done, total, *_: seen.append((done, total)),
    )
    assert seen == [(i, 5) for i in range(1, 6)]


def test_from_an_image() -> None:
    pixels = np.full((19, 30, 3), 200, np.uint8)
    session = MadeUpSession()
    picture = painter(session)("x", num_inference_steps=10, sampler="ddim", image=pixels, strength=0.3, seed=2)
    assert picture.pixels.shape == (16, 24, 3)  # rounded down to multiples of 8
    assert session.calls.count(("unet", {"batch": 2, "height": 2, "width": 3})) == 3
    assert picture.parameters["strength"] == 0.3
    # log-variance -40 is cut to -30, so the encoder's draw is the mean but for a millionth; it still takes
    # from the stream.
    stream = Noise(2)
    stream.randn((1, 4, 2, 3))
    assert np.array_equal(picture.start, stream.randn((1, 4, 2, 3)))


@pytest.mark.parametrize("sampler", ["ddim", "euler_a"])
@pytest.mark.parametrize("mode", ["torch", "a1111"])
def test_of_a_series_each_picture_is_what_its_seed_gives_alone(sampler: str, mode: str) -> None:
    pixels = np.full((16, 24, 3), 99, np.uint8)
    given = {"num_inference_steps": 3, "sampler": sampler, "image": pixels, "seed_mode": mode}
    session = MadeUpSession()
    series = painter(session)("x", **given, seed=5, num_images_per_prompt=3)
    ran = [name for name, _ in session.calls]
    assert [ran.count(name) for name in ("text_encoder", "vae_encoder", "vae_decoder")] == [2, 1, 3]
    for number, picture in enumerate((series, *series.others)):
        alone = painter()("x", **given, seed=5 + number)
        assert picture.parameters == alone.parameters
        for name in ("pixels", "latents", "start"):
            assert np.array_equal(getattr(picture, name), getattr(alone, name)), name
    assert len(series.images) == 3 and len({image.tobytes() for image in series.images}) == 3


def test_what_differs_in_more_than_noise_and_latents_shares_nothing() -> None:
    session = MadeUpSession()
    first, second = (Request(prompt=prompt, num_inference_steps=1, sampler="ddim") for prompt in ("x", "y"))
    third = replace(second, latents=np.ones((1, 4, 2, 3), np.float32))
    drawn = list(painter(session).draw_series([first, second, replace(second, seed=1), third]))
    assert [name for name, _ in session.calls].count("text_encoder") == 2 * 2
    assert not np.array_equal(drawn[0].latents, drawn[1].latents)
    assert np.array_equal(drawn[3].latents, painter().draw(third).latents)


def test_what_a_draw_goes_into_is_made_for_each_picture() -> None:
    def role(**feed: Feed) -> Role:
        return Role("any", "picture", feed, {"out": "_".join(feed)})

    steps = [
        role(encoded=Feed("picture", "image")),
        role(noisy=Feed("picture", "image", noise=0.02)),
        role(of_noisy=Feed("value", "noisy")),
        Sample("encoded", True, True, "drawn"),
        role(of_drawn=Feed("value", "drawn")),
        Sample("encoded", False, True, "mean"),
        role(of_mean=Feed("value", "mean"), numbers=Feed("numbers", numbers=(1.0,))),
        InitialNoise(),
        role(of_noise=Feed("value", LATENTS)),
    ]
    assert fixed_steps(steps) == {0, 6}


def test_as_webui_an_image_is_encoded_without_a_draw() -> None:
    pixels = np.full((16, 24, 3), 200, np.uint8)
    given = {"num_inference_steps": 2, "sampler": "ddim", "image": pixels, "seed": 2}
    first = Noise(2, "cuda").randn((1, 4, 2, 3))
    assert np.array_equal(painter()("x", **given, seed_mode="a1111").start, first)
    assert not np.array_equal(painter()("x", **given, seed_mode="cuda").start, first)


def test_what_the_noise_was_is_kept_with_the_picture() -> None:
    varied = {"seed_mode": "cuda", "variation_seed": 3, "variation_strength": 0.5, "noise_seed_delta": 31337}
    ways = [{"num_inference_steps": 2, "sampler": "euler_a", "seed": 7} | more for more in ({}, varied)]
    plain, other = (painter()("x", **way).parameters for way in ways)
    assert plain.items().isdisjoint(varied.items()) and other == plain | varied
    changed = painter()("x", **ways[1] | {"noise_seed_delta": 0})
    assert not np.array_equal(changed.latents, painter()("x", **ways[1]).latents)


def test_a_result_that_is_not_finite_names_the_step() -> None:
    with pytest.raises(NumericError, match=r"step 3 of 5 .timestep 501.: 24 of 24 values are NaN") as caught:
        painter(MadeUpSession(broken_at=3))("x", num_inference_steps=4)
    assert caught.value.exit_code == 13


@pytest.mark.parametrize(
    ("component", "output", "where"),
    [
        ("text_encoder", "last_hidden_state", "text_encoder's last_hidden_state: 231 of 231 values"),
        ("vae_encoder", "latent_parameters", "vae_encoder's latent_parameters: 48 of 48 values"),
        ("vae_decoder", "sample", "the decoder's output: 1152 of 1152 values"),
    ],
)
def test_what_any_network_makes_must_be_finite(component: str, output: str, where: str) -> None:
    class Broken(MadeUpSession):
        def run(self, name: str, inputs: dict[str, np.ndarray], **sizes: int) -> dict[str, np.ndarray]:
            outputs = super().run(name, inputs, **sizes)
            return {output: np.full_like(outputs[output], np.inf)} if name == component else outputs

    with pytest.raises(NumericError, match=f"^{where} are NaN or infinite"):
        painter(Broken())("x", num_inference_steps=2, image=np.zeros((16, 24, 3), np.uint8), strength=1.0)


@pytest.mark.parametrize(("log_variance", "deviation"), [(2.0, np.e), (25.0, np.exp(10.0)), (-35.0, np.exp(-15.0))])
def test_latents_of_an_image_are_drawn(log_variance: float, deviation: float) -> None:
    """Mean 0.5 and a log-variance that is cut to -30..20."""
    moments = np.repeat(np.array([0.5, log_variance], np.float32), 4)[None, :, None, None] * np.ones(
        (1, 8, 2, 3), np.float32
    )
    np.testing.assert_allclose(
        drawn(moments, Noise(3)) - 0.5, deviation * Noise(3).randn((1, 4, 2, 3)), rtol=1e-5, atol=1e-7
    )
    assert np.array_equal(drawn(moments, None), moments[:, :4])


@pytest.mark.parametrize("scaling", [0.25, 0.5])
def test_latents_of_an_image_are_scaled(scaling: float) -> None:
    """The encoder's mean is its picture; little of it is drawn anew, and the decoder is given it back."""
    pixels = np.full((16, 24, 3), 200, np.uint8)
    result = painter(scaling=scaling)(
        "x", num_inference_steps=1000, image=pixels, strength=0.001, sampler="ddim", guidance_scale=1
    )
    np.testing.assert_allclose(result.latents, scaling * (2 * 200 / 255 - 1), atol=0.2)
    assert abs(result.pixels.mean() - 200) < 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 20}, "width: not a size .* multiple of 8.* use 16 or 24"),
        ({"height": 0}, "height: not a size .* use 8"),
        ({"height": -8}, "height: not a size .* use 8"),
        ({"width": 3}, "width: not a size .* use 8"),
        ({"guidance_scale": float("nan")}, "guidance_scale: not a number"),
        (
            {"latents": np.zeros((1, 4, 3, 2), np.float32)},
            r"latents: wrong array .*\[1, 4, 3, 2\], expected float32\[1, 4, 2, 3\]",
        ),
        ({"latents": np.zeros((1, 4, 2, 3), np.int32)}, "latents: wrong array"),
        ({"latents": np.full((1, 4, 2, 3), np.inf, np.float32)}, "latents: some values are not finite"),
        ({"latents": np.zeros((1, 4, 2, 3)), "image": np.zeros((8, 8, 3), np.uint8)}, "both given"),
        ({"image": np.zeros((8, 8), np.uint8)}, "image: not pixels"),
        ({"image": np.zeros((8, 8, 3))}, "image: not pixels"),
        ({"image": np.zeros((8, 8, 4), np.uint8)}, "image: not pixels"),
        ({"seed": -(2**70)}, "not a seed"),
        ({"seed": 2**64 - 1, "noise_seed_delta": 1}, "noise_seed_delta: not a seed"),
        ({"variation_seed": 2**64, "variation_strength": 0.5}, "variation_seed: not a seed"),
        ({"variation_seed": 1}, "variation_seed: these two go together"),
        ({"variation_strength": 0.5}, "variation_seed: these two go together"),
        ({"variation_seed": 1, "variation_strength": 1.5}, r"variation_strength: out of range \(got 1.5"),
        (
            {"variation_seed": 1, "variation_strength": 0.5, "latents": np.zeros((1, 4, 2, 3))},
            "variation_seed: latents were given",
        ),
        ({"seed_mode": "gpu"}, "seed_mode: not a way to take seeds .got 'gpu', expected torch, cuda, a1111"),
        ({"num_inference_steps": 0}, "steps out of range"),
        ({"sampler": "nope"}, "no such sampler"),
        ({"sampler_options": {"eta": 0.5}}, "no such option"),
        ({"numbers": {"crop_top": 4}}, "crop_top: this model has no such number"),
        ({"numbers": {"guidance_rescale": 2}}, "guidance_rescale: out of range"),
        ({"strength": 2.0}, "strength: out of range"),
        ({"strength": -0.1}, "strength: out of range"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments: dict[str, Any], message: str) -> None:
    session = MadeUpSession()
    with pytest.raises(UsageError, match=message):
        painter(session)("x", **arguments)
    assert not [name for name, _ in session.calls if name == "unet"]


def test_options_are_the_fields_of_a_request() -> None:
    own = {
        "num_images_per_prompt",
        "generator",
        "callback_on_step_end",
        "control_image",
        "guess_mode",
        *OPTIONS.values(),
        *film_words.NUMBERS,
        "num_frames",
        "decode_chunk_size",
    }
    assert {*Options.__annotations__} - own == {f.name for f in fields(Request)} - {"prompt"}


@pytest.mark.parametrize("device, mode", [("cpu", "torch"), ("cuda", "cuda")])
def test_in_the_words_of_diffusers(device: str, mode: str) -> None:
    """A generator gives its seed; a callback sees each step and may change the latents; `images` are PIL's."""
    seen: list[tuple[int, float]] = []

    def callback(pipeline: Any, step: int, timestep: float, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, timestep))
        return {"latents": np.zeros_like(kwargs["latents"])} if step == 1 else {}

    generator = SimpleNamespace(initial_seed=lambda: 7, device=SimpleNamespace(type=device))
    changed = painter()("x", num_inference_steps=3, sampler="ddim", generator=generator, callback_on_step_end=callback)
    assert [step for step, _ in seen] == [0, 1, 2] and seen[0][1] == 667.0
    plain = painter()("x", num_inference_steps=3, sampler="ddim", seed=7, seed_mode=mode)
    assert np.array_equal(changed.start, plain.start) and not np.array_equal(changed.latents, plain.latents)
    assert plain.images[0].size == (24, 16) and np.array_equal(np.array(plain.images[0]), plain.pixels)
    with pytest.raises(UsageError, match=r"generator: of another type \(got int, expected a torch.Generator\)"):
        painter()("x", generator=3)


def test_rescaled_guidance() -> None:
    """arXiv 2305.08891, equation 15 and 16, on one step from noise to the prediction itself."""
    outputs = [np.random.default_rng(i).normal(size=(1, 4, 2, 3)).astype(np.float32) for i in range(2)]
    loop = spec_of().denoise[0]
    parts = [[(1.0, output)] for output in outputs]
    plain = combined(loop, parts, {"guidance_scale": 3.0, "guidance_rescale": 0.0})
    np.testing.assert_allclose(plain, outputs[0] + 3 * (outputs[1] - outputs[0]), rtol=1e-6)
    rescaled = plain * outputs[1].std(ddof=1) / plain.std(ddof=1)
    got = combined(loop, parts, {"guidance_scale": 3.0, "guidance_rescale": 0.7})
    np.testing.assert_allclose(got, 0.7 * rescaled + 0.3 * plain, rtol=1e-5)
    assert combined(loop, parts[1:], {"guidance_scale": 1.0, "guidance_rescale": 0.7}) is outputs[1]
    half = [parts[0], [(0.5, outputs[1]), (0.5, outputs[1])]]  # two parts of one text
    for phi in (0.0, 0.7):
        numbers = {"guidance_scale": 3.0, "guidance_rescale": phi}
        np.testing.assert_allclose(combined(loop, half, numbers), combined(loop, parts, numbers), rtol=1e-5)
