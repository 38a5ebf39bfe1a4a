"""Stable Diffusion 1.x: CLIP's text encoder, a UNet that looks at its last hidden state, and the autoencoder,
for guidance in pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ondevice.base.paths import MODELS
from ondevice.converters.architectures import autoencoder_kl, clip_text, unet
from ondevice.converters.architectures.unet_kinds import generation, kind_of
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
from ondevice.converters.families.pipelines import text_to_image

PARTS = {
    "text_encoder": Part(clip_text.CLIP_TEXT, "cond_stage_model.transformer.", clip_text.OPENAI),
    "unet": Part(unet.UNET, "model.diffusion_model.", unet.LDM),
    "vae": Part(autoencoder_kl.AUTOENCODER_KL, "first_stage_model.", autoencoder_kl.LDM),
}


ROLES = {
    "text_encoder": Role("text_encoder", "last_state", precise=True),
    "unet": Role("unet", "noise", text_length),
    "vae_decoder": Role("vae", "decoder"),
    "vae_encoder": Role("vae", "encoder", optional=True),
}


def joints(configs: Configs, takes: Takes = SAMPLE) -> Iterator[Joint]:
    """The text encoder's states are what the UNet looks at, its latents are the VAE's, and pictures are RGB."""
    yield guidance_joint(configs)
    yield from shared_joints(configs, takes)


def shared_joints(configs: Configs, takes: Takes = SAMPLE) -> Iterator[Joint]:
    """The same of a UNet that may be told the guidance."""
    text, net = configs["text_encoder"], configs["unet"]
    width, context = text["hidden_size"], net["cross_attention_dim"]
    model = kind if (kind := kind_of(net["in_channels"], context)) != generation(context) else None
    whose = [
        f"the {part} is that of {of}"
        for part, of in (("text_encoder", generation(width)), ("unet", generation(context)))
        if of
    ]
    yield input_joint(configs, takes, model and f"this is {model}")
    yield Joint("unet's cross_attention_dim", context, "the text_encoder's hidden_size", width, " and ".join(whose))
    yield Joint("unet's addition_embed_type", net["addition_embed_type"], "that of a model with one text encoder", None)
    yield from drawn_joints(configs)


def sd1(name: str, hub_id: str | None, **changes: Any) -> Family:
    """A family of this kind, whose configs are in its folder of models/; `changes` are to other fields of `Family`."""
    about: dict[str, Any] = {
        "title": "Stable Diffusion 1.x",
        "folder": MODELS / name,
        "parts": PARTS,
        "roles": ROLES,
        "tokenizers": {"tokenizer": "text_encoder"},
        "joints": joints,
        "pipelines": ("StableDiffusionPipeline",),
        "pipeline": text_to_image,
        "preview": PREVIEW,
    }
    return Family(name=name, hub_id=hub_id, **about | changes)


# Red, green and blue of the four channels and one, fitted to pictures of the autoencoder that Stable Diffusion 1.x and
# 2.x share. Reference: ComfyUI's latent formats.
PREVIEW = (
    (0.3512, 0.3250, -0.2829, -0.2120, 0.0),
    (0.2297, 0.4974, 0.1762, -0.2616, 0.0),
    (0.3227, 0.2350, 0.2721, -0.7177, 0.0),
)
DEMO = MODELS / "demo"
FAMILIES = (
    sd1("demo", None, guidance_scale=3.0, preview=()),  # no sum of its channels is a picture
    sd1("sd14", "CompVis/stable-diffusion-v1-4"),
    sd1("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
)
