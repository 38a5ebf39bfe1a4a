"""What a call is given of another type is refused by name, and not by whatever would trip over it."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.diffusion.request import Request, request_of
from ondevice.errors import UsageError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"prompt": ["a", "b"]}, "prompt: of another type (got list, expected a str). Fix: give one text; "
         "`num_images_per_prompt` draws several of it."),
        ({"negative_prompt": 3}, "negative_prompt: of another type (got int, expected a str)."),
        ({"num_inference_steps": "4"}, "num_inference_steps: of another type (got '4', expected a number)."),
        ({"guidance_scale": [1]}, "guidance_scale: of another type (got list, expected a number)."),
        ({"seed": "x"}, "seed: of another type (got 'x', expected a number)."),
        ({"width": "64"}, "width: of another type (got '64', expected a number)."),
        ({"image": "cat.png"}, "image: of another type (got 'cat.png', expected an array). Fix: open it, say by PIL."),
        ({"pictures": {"pose": 1}}, "pose: of another type (got int, expected an array)."),
        ({"latents": [1.0]}, "latents: of another type (got list, expected an array)."),
    ],
)  # fmt: skip
def test_other_types(words: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        request_of(words)
    assert str(caught.value).startswith(said)


def test_numbers_of_numpy_are_numbers() -> None:
    request = Request(num_inference_steps=np.int64(4), guidance_scale=np.float32(2.5), seed=np.uint64(1 << 63))
    assert (request.num_inference_steps, request.guidance_scale, request.seed) == (4, 2.5, 1 << 63)
    assert {type(request.num_inference_steps), type(request.seed), type(request.guidance_scale)} == {int, float}


def test_words_that_are_none() -> None:
    with pytest.raises(TypeError, match=r"argument 'num_inference_step' \(is 'num_inference_steps' meant\?\)$"):
        request_of({"num_inference_step": 3})
    with pytest.raises(TypeError, match=r"argument 'zzz'$"):
        request_of({"zzz": 3})
