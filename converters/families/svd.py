"""Stable Video Diffusion: CLIP's image encoder, a UNet whose layers also run over the frames, and an autoencoder whose
decoder does, too. A film begins with a picture, and there are no texts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from ondevice.base.paths import MODELS
from ondevice.converters.architectures import (
    autoencoder_kl,
    autoencoder_kl_temporal,
    clip_vision,
    unet_temporal,
    unet_temporal_names,
)
from ondevice.converters.families.family import (
    WITH_PICTURE,
    Configs,
    Family,
    Joint,
    Part,
    Role,
    drawn_joints,
    input_joint,
)
from ondevice.converters.families.pipelines import latents_of
from ondevice.converters.families.sd1 import DEMO, PREVIEW

PARTS = {
    "image_encoder": Part(
        clip_vision.CLIP_VISION, "conditioner.embedders.0.open_clip.model.visual.", clip_vision.OPENCLIP
    ),
    "unet": Part(unet_temporal.UNET_TEMPORAL, "model.diffusion_model.", unet_temporal_names.SGM),
    "vae": Part(autoencoder_kl_temporal.AUTOENCODER_KL_TEMPORAL, "first_stage_model.", autoencoder_kl_temporal.SGM),
}
ROLES = {
    "image_encoder": Role("image_encoder", "embeds"),
    "condition": Role("unet", "condition", precise=True),
    "unet": Role("unet", "noise"),
    "vae_decoder": Role("vae", "decoder"),
    "vae_encoder": Role("vae", "encoder"),
}
IDS = 3  # numbers that the UNet is told: frames per second, motion, noise on the picture
MOST_FRAMES = 64
GUIDANCE = (1.0, 3.0)  # of the first frame and of the last, as in diffusers


def joints(configs: Configs) -> Iterator[Joint]:
    """The UNet looks at the encoded picture, takes its latents beside the film's, and is told three numbers."""
    encoder, net = configs["image_encoder"], configs["unet"]
    width = encoder["projection_dim"]
    yield Joint("unet's cross_attention_dim", net["cross_attention_dim"], "the image_encoder's projection_dim", width)
    told, each = net["projection_class_embeddings_input_dim"], net["addition_time_embed_dim"]
    yield Joint("unet's projection_class_embeddings_input_dim", told, "that of three numbers", IDS * each)
    yield input_joint(configs, WITH_PICTURE)
    yield from drawn_joints(configs)


def pipeline(family: Family, configs: Configs, guidance: tuple[float, float] = GUIDANCE) -> dict[str, Any]:
    """A picture is looked at, and encoded with some noise; the film's latents have its latents beside each frame's, and
    guidance grows from the first frame to the last.

    Reference: diffusers' StableVideoDiffusionPipeline.
    """
    picture = [
        {
            "run": "image_encoder",
            "every": "picture",
            "feed": {"pixel_values": {"picture": "first_frame"}},
            "keep": {"image_embeds": "context"},
        },
        {
            "run": "vae_encoder",
            "every": "picture",
            "feed": {"sample": {"picture": "image", "noise": "noise_augmentation"}},
            "keep": {"latent_parameters": "image_moments"},
        },
        {"sample": "image_moments", "take": "mean", "keep": "image_latents"},
    ]
    condition = {
        "run": "condition",
        "every": "picture",
        "feed": {"time_ids": {"numbers": ["fps", "motion_bucket", "noise_augmentation"]}},
        "keep": {"added": "added"},
    }
    given = {
        "sample": "latents",
        "timestep": "timestep",
        "encoder_hidden_states": "context",
        "added": "added",
        "image_latents": "image_latents",
    }
    unet = {
        "run": "unet",
        "feed": {port: {"value": value} for port, value in given.items()},
        "keep": {"out_sample": "prediction"},
    }
    return {
        "gives": "frames",
        "numbers": {
            "frame_count": {"default": configs["unet"]["num_frames"], "low": 1, "high": MOST_FRAMES},
            "fps": {"default": 7, "low": 1, "high": 60},
            "motion_bucket": {"default": 127, "low": 0, "high": 255},
            "noise_augmentation": {"default": 0.02, "low": 0, "high": 10},
            "min_guidance_scale": {"default": guidance[0]},
            "max_guidance_scale": {"default": guidance[1]},
            "guidance": {"ramp": ["min_guidance_scale", "max_guidance_scale"]},
        },
        "texts": {},
        "pictures": {
            "image": {"prepare": "fit"},
            "first_frame": {"prepare": "clip_vision", "of": ["image"]},
        },
        "latents": latents_of(family, configs, frames="frame_count"),
        "before": [*picture, condition, {"noise": "latents"}],
        "denoise": [
            {
                "from": 0,
                "until": 1,
                "roles": [unet],
                "prediction": "prediction",
                "passes": [{"zeros": ["context", "image_latents"]}, {}],
                "combine": {"first": 0, "add": [["guidance", 1, 0]]},
                "guided": {"number": "max_guidance_scale", "above": 1, "alone": 1},
            }
        ],
        "after": [
            {
                "run": "vae_decoder",
                "every": "chunk",
                "feed": {"latent_sample": {"value": "latents"}},
                "keep": {"sample": "frames"},
            }
        ],
    }


def svd(name: str, hub_id: str | None, **changes: Any) -> Family:
    """A family of this kind, whose configs are in its folder of models/ or in svd's; `changes` are to other fields."""
    about: dict[str, Any] = {
        "title": "Stable Video Diffusion",
        "folder": MODELS / name,
        "parts": PARTS,
        "roles": ROLES,
        "tokenizers": {},
        "joints": joints,
        "pipelines": ("StableVideoDiffusionPipeline",),
        "pipeline": pipeline,
        "changes_scheduler": False,
        "steps": 25,
        "size": (1024, 576),
        "preview": PREVIEW,
        "clip_skip": False,
        "exports": False,
        "moved": autoencoder_kl_temporal.MOVED,
        "unused": ("conditioner.embedders.", "denoiser."),
    }
    return Family(name=name, hub_id=hub_id, **about | changes)


FAMILIES = (
    svd("svd", "stabilityai/stable-video-diffusion-img2vid"),
    svd("svd-xt", "stabilityai/stable-video-diffusion-img2vid-xt", base=MODELS / "svd"),
    svd(
        "demo-video",
        None,
        base=DEMO,
        parts=PARTS | {"vae": Part(autoencoder_kl.AUTOENCODER_KL, "first_stage_model.", autoencoder_kl.LDM)},
        steps=20,
        size=(96, 48),
        pipeline=partial(pipeline, guidance=(1.0, 1.5)),
        preview=(),
    ),
)
