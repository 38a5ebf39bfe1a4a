"""Weights, chunks and parts of texts in a whole picture, with made-up networks."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from diffusion.fake_networks import Letters, OtherDevice, spec_of
from diffusion.sampler_helpers import SD15
from diffusion.test_pipeline_shapes import PIXELS, PLACE, golden, network, per_pass, picture_guided, pipeline

from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.samplers import make_table, run_table
from ondevice.errors import UsageError

LENGTH = 7
OPTIONS: dict[str, Any] = {"num_inference_steps": 2, "seed": 3}


def of_chunks(device: OtherDevice, chunks: int, batches: tuple[int, ...] = (1, 2)) -> Pipeline:
    """Stable Diffusion 1.x around `network`, with plans for texts of up to so many chunks."""
    lengths = [{"tokens": LENGTH * count} for count in range(1, chunks + 1)] if chunks > 1 else [{}]
    unet = [{"batch": batch} | PLACE | length for length in lengths for batch in batches]
    others = {name: [{"batch": 1} | PLACE] for name in ("vae_encoder", "vae_decoder")}
    plans = {"text_encoder": [{"batch": 1}], "unet": unet, **others}
    return Pipeline(spec_of(), device, {"tokenizer": Letters(LENGTH)}, SD15, plans=plans, size=(24, 16))


def states_of(text: str) -> np.ndarray:
    return network("text_encoder", {"input_ids": Letters(LENGTH)(text)[np.newaxis]})["last_hidden_state"]


def test_a_long_text_is_encoded_in_chunks_and_run_by_plans_of_its_length() -> None:
    device = OtherDevice(network)
    options = OPTIONS | {"negative_prompt": "no", "long": "chunk"}
    drawn = of_chunks(device, 3)("abcdefgh", **options)
    assert [arrays["input_ids"].shape for arrays in device.of("text_encoder")] == [(1, LENGTH)] * 3
    negative, positive = device.of("unet")[:2]  # of two lengths, so one after another
    assert np.array_equal(negative["encoder_hidden_states"], states_of("no"))
    joined = np.concatenate([states_of("abcde"), states_of("fgh")], axis=1)
    assert np.array_equal(positive["encoder_hidden_states"], joined)
    assert drawn.parameters["long"] == "chunk" and "emphasis" not in drawn.parameters
    both = OtherDevice(network)
    of_chunks(both, 3)("abcdefgh", **options | {"negative_prompt": "ijklmnop"})
    assert {arrays["encoder_hidden_states"].shape for arrays in both.of("unet")} == {(2, 2 * LENGTH, 1)}


def test_a_text_of_one_chunk_is_as_it_was() -> None:
    plain, other = OtherDevice(network), OtherDevice(network)
    want = of_chunks(plain, 1)("a (b)", **OPTIONS)
    got = of_chunks(other, 3)("a (b)", **OPTIONS | {"long": "chunk"})
    assert np.array_equal(got.latents, want.latents) and got.parameters == want.parameters
    assert plain.reads == other.reads, "nothing is copied that need not be"
    unread = of_chunks(OtherDevice(network), 1)("a b", **OPTIONS, emphasis="mean", long="fit")
    assert unread.parameters == of_chunks(OtherDevice(network), 1)("a b", **OPTIONS).parameters


def test_what_does_not_fit_is_left_out_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    device = OtherDevice(network)
    with caplog.at_level(logging.WARNING):
        of_chunks(device, 2)("abcdefghijklm", **OPTIONS, long="fit")
    assert 'has 13 tokens; the model reads 10. Left out: "klm"; a bundle of `convert --chunks 3` reads' in caplog.text
    assert device.of("unet")[1]["encoder_hidden_states"].shape[1] == 2 * LENGTH
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        of_chunks(device, 2)("abcdefghij" + "k" * 200 + "l" * 200, **OPTIONS, long="fit")
    assert f'Left out: "{"k" * 150} ... {"l" * 150}";' in caplog.text
    with pytest.raises(UsageError) as caught:
        of_chunks(device, 2)("abcdefghijklm", **OPTIONS, long="chunk")
    assert str(caught.value) == (
        "prompt: it takes 3 chunks of tokens, and the bundle has plans for 2. Fix: convert with `--chunks 3`, or use "
        "--long truncate."
    )
    caplog.clear()
    one = OtherDevice(network)
    of_chunks(one, 1)("ab BREAK c", **OPTIONS, long="fit", emphasis="mean")  # in one chunk BREAK is a space
    assert np.array_equal(one.of("unet")[0]["encoder_hidden_states"][1:], states_of("abc")) and not caplog.text


@pytest.mark.parametrize("way", ["mean", "compel"])
def test_weights_act_on_states(way: str) -> None:
    device = OtherDevice(network)
    drawn = of_chunks(device, 1)("a(b:3)", **OPTIONS, emphasis=way)
    states, empty = states_of("ab"), states_of("")
    weights = np.array([1, 1, 3, 1, 1, 1, 1], np.float32)[:, np.newaxis]
    mean = weights * states * (states.mean() / (weights * states).mean())
    want = {"mean": mean, "compel": empty + weights * (states - empty)}[way]
    np.testing.assert_allclose(device.of("unet")[0]["encoder_hidden_states"][1:], want, rtol=1e-6)
    assert drawn.parameters["emphasis"] == way
    assert "emphasis" not in of_chunks(device, 1)("a(b:3)", **OPTIONS).parameters


@pytest.mark.parametrize("batches", [(1, 2), (1, 4)])
def test_parts_are_passes_and_are_added_by_their_weights(batches: tuple[int, ...]) -> None:
    device = OtherDevice(network)
    options = OPTIONS | {"emphasis": "mean", "sampler": "euler", "guidance_scale": 2.0}
    drawn = of_chunks(device, 1, batches)("ab:0.5 AND cd AND ef:-1", **options)
    assert len(device.of("text_encoder")) == 4 and drawn.parameters["emphasis"] == "mean"
    assert {len(arrays["sample"]) for arrays in device.of("unet")} == {4 if 4 in batches else 1}

    def predict(x: np.ndarray, _: float) -> np.ndarray:
        base, *others = (np.tanh(x + per_pass(states_of(text))) for text in ("", "ab", " cd ", " ef"))
        return base + 2 * sum(weight * (other - base) for weight, other in zip((0.5, 1, -1), others, strict=True))

    table = make_table("euler", 2, SD15)
    want = run_table(table, predict, table.start(drawn.start, None), lambda _: drawn.start, lambda *_: None)
    np.testing.assert_allclose(drawn.latents, want, rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match="AND joins texts by guidance"):
        of_chunks(device, 1)("a AND b", **OPTIONS, emphasis="mean", guidance_scale=1.0)


def test_a_text_that_is_not_compared_has_one_part() -> None:
    """The negative prompt; and a distilled model's prompt, which is the only pass."""
    device = OtherDevice(network)
    of_chunks(device, 1)("x", **OPTIONS, negative_prompt="aANDb AND", emphasis="mean")
    assert len(device.of("text_encoder")) == 2
    other = OtherDevice(network)
    pipeline(golden("lcm"), other)("a AND b", **OPTIONS, emphasis="mean")
    assert len(other.of("text_encoder")) == 1
    whole, twice = picture_guided(), OtherDevice(network)
    whole["pipeline"]["denoise"][0]["passes"][1]["text"] = "prompt"  # with which the last pass is compared, too
    pipeline(whole, twice)("a AND b", **OPTIONS, image=PIXELS, emphasis="mean")
    assert len(twice.of("text_encoder")) == 2


def test_zeros_stand_for_one_chunk_of_a_text_that_is_not_given() -> None:
    device, whole = OtherDevice(network), golden("sdxl_refiner")
    spec = pipeline(whole, device)._spec
    lengths = [{"tokens": LENGTH}, {"tokens": 2 * LENGTH}]
    sized = {name: {} if "condition" in name else PLACE for name in whole["components"]}
    plans: dict[str, Any] = {
        name: [{"batch": 1} | at | length for length in ([{}] if "text" in name or "vae" in name else lengths)]
        for name, at in sized.items()
    }
    plans |= {name: [{"batch": 1}] for name in plans if name.startswith("text_encoder")}
    tokenizers = {name: Letters(LENGTH) for name in whole["tokenizers"]}
    shapes = {"hidden_states": (1, LENGTH, 1), "text_embeds": (1, 1), "last_hidden_state": (1, LENGTH, 1)}
    about: dict[str, Any] = {
        "plans": plans,
        "size": (24, 16),
        "zeros": lambda _, sizes, port: np.zeros(shapes[port], np.float32),
    }
    drawer = Pipeline(spec, device, tokenizers, SD15, **about)
    drawer("abcdefgh", **OPTIONS, long="chunk", emphasis="mean")
    absent, given = device.of("condition")
    assert absent["states"].shape == (1, LENGTH, 1) and given["states"].shape == (1, 2 * LENGTH, 1)
    assert not absent["states"].any() and np.array_equal(given["pooled"], states_of("abcde").mean(1))


@pytest.mark.parametrize(("field", "value"), [("emphasis", "max"), ("long", "cut")])
def test_unknown_ways_are_refused(field: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"{field}: unknown"):
        of_chunks(OtherDevice(network), 1)("x", **{field: value})
