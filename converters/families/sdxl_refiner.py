"""Stable Diffusion XL's refiner: the second of the base's text encoders, a UNet that is also told how beautiful the
picture is to be, and the autoencoder. It draws the end of a run that the base began, or goes on from a picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ondevice.converters.architectures import clip_text
from ondevice.converters.families import sdxl
from ondevice.converters.families.family import (
    SAMPLE,
    Configs,
    Family,
    Joint,
    Part,
    Role,
    drawn_joints,
    guidance_joint,
    input_joint,
)
from ondevice.converters.families.pipelines import maskable, text_to_image, told_sizes

PARTS = {
    "text_encoder_2": Part(clip_text.CLIP_TEXT_POOLED, "conditioner.embedders.0.model.", clip_text.OPENCLIP),
    "unet": sdxl.PARTS["unet"],
    "vae": sdxl.PARTS["vae"],
}
TIME_IDS = 5  # original height and width, top and left of the crop, aesthetic score
STRENGTH = 0.3  # as in diffusers


def _tokens(configs: Configs) -> dict[str, int]:
    return {"tokens": configs["text_encoder_2"]["max_position_embeddings"]}


ROLES = {
    "text_encoder_2": sdxl.ROLES["text_encoder_2"],
    "condition": Role("unet", "sizes", lambda configs: {"ids": TIME_IDS}, precise=True),
    "unet": Role("unet", "noise", _tokens),
    "vae_decoder": sdxl.ROLES["vae_decoder"],
    "vae_encoder": sdxl.ROLES["vae_encoder"],
}


def joints(configs: Configs) -> Iterator[Joint]:
    """The text encoder's states and the pooled text are what the UNet looks at, its latents are the VAE's,
    and pictures are RGB."""
    text, net = configs["text_encoder_2"], configs["unet"]
    width, context = text["hidden_size"], net["cross_attention_dim"]
    added = text["projection_dim"] + TIME_IDS * (net["addition_time_embed_dim"] or 0)
    yield Joint("unet's addition_embed_type", net["addition_embed_type"], "that of Stable Diffusion XL", "text_time")
    yield input_joint(configs, SAMPLE)
    yield guidance_joint(configs)
    yield Joint("unet's cross_attention_dim", context, "the text_encoder_2's hidden_size", width)
    yield Joint(
        "unet's projection_class_embeddings_input_dim",
        net["projection_class_embeddings_input_dim"],
        "the text_encoder_2's projection_dim and five times addition_time_embed_dim",
        added,
    )
    yield from drawn_joints(configs)


def pipeline(family: Family, configs: Configs) -> dict[str, Any]:
    """A run that begins from a picture, or goes on from the base's latents. A negative prompt that was not given is the
    empty text; the aesthetic score differs between the texts.

    Reference: diffusers' StableDiffusionXLImg2ImgPipeline, _get_add_time_ids.
    """
    base = maskable(told_sizes(text_to_image(family, configs)), STRENGTH)
    sizes = {"original_height": "height", "original_width": "width", "crop_top": 0, "crop_left": 0}
    scores = {"prompt": "aesthetic_score", "negative_prompt": "negative_aesthetic_score"}
    numbers = sizes | {scores["prompt"]: 6.0, scores["negative_prompt"]: 2.5}
    encoders = [
        {
            "run": "text_encoder_2",
            "every": "text",
            "feed": {"input_ids": {"tokens": "tokenizer_2"}},
            "keep": {"hidden": "context", "pooled": "pooled"},
        },
        {
            "run": "condition",
            "every": "text",
            "feed": {"pooled": {"value": "pooled"}, "time_ids": {"numbers": [*sizes, scores]}},
            "keep": {"added": "added"},
        },
    ]
    return base | {
        "numbers": base["numbers"]
        | {"strength": {"default": STRENGTH, "low": 0.0, "high": 1.0}}
        | {name: {"default": default} for name, default in numbers.items()},
        "pictures": base["pictures"] | {"image": {"prepare": "fit"}},
        "before": [*encoders, *base["before"][1:]],
    }


FAMILIES = (
    sdxl.sdxl(
        "sdxl-refiner",
        "stabilityai/stable-diffusion-xl-refiner-1.0",
        title="Stable Diffusion XL Refiner",
        parts=PARTS,
        roles=ROLES,
        tokenizers={"tokenizer_2": "text_encoder_2"},
        joints=joints,
        pipelines=("StableDiffusionXLImg2ImgPipeline",),
        pipeline=pipeline,
    ),
)
