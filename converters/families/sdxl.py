"""Stable Diffusion XL, its base and Turbo: two text encoders' states before their last layers, side by side, and the
second's pooled text with the picture's sizes added to the time embedding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ondevice.base.paths import MODELS
from ondevice.converters.architectures import autoencoder_kl, clip_text, unet
from ondevice.converters.families.family import (
    SAMPLE,
    Configs,
    Family,
    Joint,
    Part,
    Role,
    Takes,
    drawn_joints,
    guidance_joint,
    input_joint,
    text_length,
)
from ondevice.converters.families.pipelines import STRENGTH_OF_SDXL, maskable, text_to_image, told_sizes
from ondevice.converters.families.sd2 import TURBO

PARTS = {
    "text_encoder": Part(clip_text.CLIP_TEXT, "conditioner.embedders.0.transformer.", clip_text.OPENAI),
    "text_encoder_2": Part(clip_text.CLIP_TEXT_POOLED, "conditioner.embedders.1.model.", clip_text.OPENCLIP),
    "unet": Part(unet.UNET, "model.diffusion_model.", unet.LDM),
    "vae": Part(autoencoder_kl.AUTOENCODER_KL_HELD, "first_stage_model.", autoencoder_kl.LDM),
}
TIME_IDS = 6  # original height and width, top and left of the crop, height and width


def _condition(configs: Configs) -> dict[str, int]:
    return text_length(configs) | {"hidden": configs["text_encoder"]["hidden_size"], "ids": TIME_IDS}


ROLES = {
    "text_encoder": Role("text_encoder", "penultimate", precise=True),
    "text_encoder_2": Role("text_encoder_2", "penultimate_and_pooled", precise=True),
    "condition": Role("unet", "condition", _condition, precise=True),
    "unet": Role("unet", "noise", text_length),
    "vae_decoder": Role("vae", "decoder"),
    "vae_encoder": Role("vae", "encoder", optional=True),
}


def joints(configs: Configs, takes: Takes = SAMPLE, told: bool = False) -> Iterator[Joint]:
    """The text encoders' states and the pooled text are what the UNet looks at, its latents are the VAE's,
    and pictures are RGB; `told`: the UNet takes the guidance."""
    first, second, net = (configs[name] for name in ("text_encoder", "text_encoder_2", "unet"))
    added = net["addition_time_embed_dim"] or 0
    widths, pooled = first["hidden_size"] + second["hidden_size"], second["projection_dim"] + TIME_IDS * added
    lengths = first["max_position_embeddings"], second["max_position_embeddings"]
    yield Joint("unet's addition_embed_type", net["addition_embed_type"], "that of Stable Diffusion XL", "text_time")
    yield input_joint(configs, takes)
    yield guidance_joint(configs, told)
    yield Joint(
        "unet's cross_attention_dim", net["cross_attention_dim"], "the sum of the text encoders' hidden_size", widths
    )
    embedded = "the text_encoder_2's projection_dim and six times addition_time_embed_dim"
    yield Joint(
        "unet's projection_class_embeddings_input_dim", net["projection_class_embeddings_input_dim"], embedded, pooled
    )
    yield Joint("text_encoder_2's max_position_embeddings", lengths[1], "the text_encoder's", lengths[0])
    yield from drawn_joints(configs)


def pipeline(family: Family, configs: Configs) -> dict[str, Any]:
    """Two text encoders, a graph that joins their states and embeds sizes, and the loop of Stable Diffusion 1.x around
    a UNet that is also given what that graph made. A negative prompt that was not given is zeros
    (`force_zeros_for_empty_prompt`).

    Reference: diffusers' StableDiffusionXLPipeline, encode_prompt and _get_add_time_ids.
    """
    sizes = {"original_height": "height", "original_width": "width", "crop_top": 0, "crop_left": 0}
    sizes |= {"target_height": "height", "target_width": "width"}
    base = maskable(text_to_image(family, configs), STRENGTH_OF_SDXL)
    encoders = [
        {
            "run": "text_encoder",
            "every": "text",
            "feed": {"input_ids": {"tokens": "tokenizer", "absent": "zeros"}},
            "keep": {"hidden": "hidden"},
        },
        {
            "run": "text_encoder_2",
            "every": "text",
            "feed": {"input_ids": {"tokens": "tokenizer_2", "absent": "zeros"}},
            "keep": {"hidden": "hidden_2", "pooled": "pooled"},
        },
        {
            "run": "condition",
            "every": "text",
            "feed": {name: {"value": name} for name in ("hidden", "hidden_2", "pooled")}
            | {"time_ids": {"numbers": list(sizes)}},
            "keep": {"context": "context", "added": "added"},
        },
    ]
    return told_sizes(base) | {
        "numbers": base["numbers"] | {name: {"default": default} for name, default in sizes.items()},
        "before": [*encoders, *base["before"][1:]],
    }


# Red, green and blue of the four channels and one. Reference: ComfyUI's latent formats.
PREVIEW = (
    (0.3651, -0.2533, 0.1076, -0.3165, 0.1084),
    (0.4232, -0.0042, 0.1111, -0.2492, -0.0175),
    (0.4341, 0.1068, -0.0362, -0.2188, -0.0011),
)


def sdxl(name: str, hub_id: str, **changes: Any) -> Family:
    """A family of this kind, whose configs are in its folder of models/; `changes` are to other fields of `Family`."""
    about: dict[str, Any] = {
        "title": "Stable Diffusion XL",
        "folder": MODELS / name,
        "parts": PARTS,
        "roles": ROLES,
        "tokenizers": {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"},
        "joints": joints,
        "pipelines": ("StableDiffusionXLPipeline",),
        "pipeline": pipeline,
        "changes_scheduler": False,
        "guidance_scale": 5.0,
        "steps": 30,
        "preview": PREVIEW,
    }
    return Family(name=name, hub_id=hub_id, **about | changes)


FAMILIES = (
    sdxl("sdxl", "stabilityai/stable-diffusion-xl-base-1.0"),
    sdxl("sdxl-turbo", "stabilityai/sdxl-turbo", **TURBO),
)
