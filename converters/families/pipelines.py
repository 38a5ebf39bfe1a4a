"""The pipelines of families, as docs/pipeline.md writes them: plain data, made from a checkpoint's configs."""

from __future__ import annotations

from typing import Any

from ondevice.converters.families.family import Configs, Family

STRENGTH = 0.8  # of img2img, as in diffusers


def latents_of(family: Family, configs: Configs, **more: str) -> dict[str, Any]:
    """`latents` of a family's autoencoder."""
    vae = configs["vae"]
    return {
        "channels": vae["latent_channels"],
        "scale": family.scale(configs),
        "scaling": vae["scaling_factor"],
        "shift": vae.get("shift_factor") or 0.0,
        **more,
        **({"preview": [list(row) for row in family.preview]} if family.preview else {}),
    }


def encoded_image() -> list[dict[str, Any]]:
    """The first roles of a family whose runs may begin from a picture."""
    return [
        {
            "run": "vae_encoder",
            "every": "picture",
            "feed": {"sample": {"picture": "image"}},
            "keep": {"latent_parameters": "image_moments"},
        },
        {"sample": "image_moments", "take": "draw", "scaled": True, "keep": "image_latents"},
    ]


def text_to_image(family: Family, configs: Configs) -> dict[str, Any]:
    """One text encoder, classifier-free guidance, a run that may begin from a picture: Stable Diffusion 1.x and 2.x."""
    return {
        "gives": "picture",
        "numbers": {
            "guidance_scale": {"default": family.guidance_scale},
            "guidance_rescale": {"default": 0.0, "low": 0.0, "high": 1.0},
            "strength": {"default": STRENGTH, "low": 0.0, "high": 1.0},
        },
        "texts": {"prompt": {}, "negative_prompt": {"optional": True}},
        "pictures": {"image": {"prepare": "fit", "optional": True}},
        "latents": latents_of(family, configs, begin="image_latents", strength="strength"),
        "before": [
            {
                "run": "text_encoder",
                "every": "text",
                "feed": {"input_ids": {"tokens": "tokenizer"}},
                "keep": {"last_hidden_state": "context"},
            },
            *encoded_image(),
            {"noise": "latents"},
        ],
        "denoise": [
            {
                "from": 0,
                "until": 1,
                "roles": [
                    {
                        "run": "unet",
                        "feed": {
                            "sample": {"value": "latents"},
                            "timestep": {"value": "timestep"},
                            "encoder_hidden_states": {"value": "context"},
                        },
                        "keep": {"out_sample": "prediction"},
                    }
                ],
                "prediction": "prediction",
                "passes": [{"text": "negative_prompt"}, {"text": "prompt"}],
                "combine": {"first": 0, "add": [["guidance_scale", 1, 0]]},
                "guided": {"number": "guidance_scale", "above": 1, "alone": 1},
                "rescale": "guidance_rescale",
            }
        ],
        "after": [
            {
                "run": "vae_decoder",
                "every": "picture",
                "feed": {"latent_sample": {"value": "latents"}},
                "keep": {"sample": "picture"},
            }
        ],
    }
