"""The pipelines of families, as docs/pipeline.md writes them: plain data, made from a checkpoint's configs."""

from __future__ import annotations

from typing import Any

from ondevice.converters.families.family import Configs, Family

STRENGTH = 0.8  # of img2img, as in diffusers
STRENGTH_OF_SDXL = 0.9999  # of XL with a mask: the picture itself is still there, in what is hardly noise
_OF_BEGINNING = ("strength", "guidance_rescale")  # numbers without a meaning for an edited picture
Pipeline = dict[str, Any]


def latents_of(family: Family, configs: Configs, **more: str) -> dict[str, Any]:
    """`latents` of a family's autoencoder."""
    vae = configs["vae"]
    preview = [list(row) for row in family.preview if len(row) == vae["latent_channels"] + 1]
    return {
        "channels": vae["latent_channels"],
        "scale": family.scale(configs),
        "scaling": vae["scaling_factor"],
        "shift": vae.get("shift_factor") or 0.0,
        **more,
        **({"preview": preview} if preview else {}),
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
    """One text encoder, classifier-free guidance, a run that may begin from a picture, or draw a part of it anew:
    Stable Diffusion 1.x and 2.x."""
    return maskable(_text_to_image(family, configs))


def _text_to_image(family: Family, configs: Configs) -> Pipeline:
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


def maskable(pipeline: Pipeline, strength: float = 1.0) -> Pipeline:
    """A pipeline that may be given a mask, though its denoiser knows of none; `strength` is the default with one.

    Reference: diffusers' StableDiffusionInpaintPipeline with a UNet of 4 channels.
    """
    return pipeline | {
        "pictures": pipeline["pictures"] | {"mask": {"prepare": "mask", "optional": True}},
        "latents": pipeline["latents"] | {"mask": {"picture": "mask", "strength": strength}},
        "outside": {"picture": "image", "mask": "mask"},
    }


def _unmasked(pipeline: Pipeline, *less: str) -> Pipeline:
    """A pipeline whose denoiser is given what a mask would do, or more; `less` leaves the latents, too."""
    latents = {key: value for key, value in pipeline["latents"].items() if key not in ("mask", *less)}
    return {key: value for key, value in pipeline.items() if key != "outside"} | {"latents": latents}


def _fed(pipeline: Pipeline, **feeds: dict[str, Any]) -> list[dict[str, Any]]:
    """`denoise` of a pipeline with one stretch and one role in it, which gets these feeds, too."""
    (loop,) = pipeline["denoise"]
    (denoiser,) = loop["roles"]
    return [loop | {"roles": [denoiser | {"feed": denoiser["feed"] | feeds}]}]


def told_sizes(pipeline: Pipeline) -> Pipeline:
    """A pipeline whose denoiser is also given what a role made of the pooled text and the picture's sizes."""
    return pipeline | {"denoise": _fed(pipeline, added={"value": "added"})}


def told_guidance(pipeline: Pipeline) -> Pipeline:
    """A pipeline in one pass, whose denoiser is told the guidance.

    Reference: diffusers' LatentConsistencyModelPipeline.
    """
    (loop,) = _fed(pipeline, guidance={"value": "guidance"})
    guidance = {
        "run": "guidance",
        "every": "picture",
        "feed": {"guidance_scale": {"numbers": ["guidance_scale"]}},
        "keep": {"guidance": "guidance"},
    }
    numbers = {name: number for name, number in pipeline["numbers"].items() if name != "guidance_rescale"}
    alone = {"passes": [{"text": "prompt"}], "combine": {"first": 0, "add": []}}
    return pipeline | {
        "numbers": numbers,
        "texts": {"prompt": {}},
        "before": [guidance, *pipeline["before"]],
        "denoise": [{key: loop[key] for key in ("from", "until", "roles", "prediction")} | alone],
    }


def inpainted(pipeline: Pipeline, strength: float = 1.0) -> Pipeline:
    """A pipeline that draws anew what a mask covers: its denoiser is also given the mask, and the latents of the
    picture without what is under it. At a strength of 1 it begins from noise alone.

    Reference: diffusers' StableDiffusionInpaintPipeline, prepare_latents and then prepare_mask_latents.
    """
    below = {"below": ["strength", 1]}
    first = [step | below if step in encoded_image() else step for step in pipeline["before"]]
    encoded = [
        {
            "run": "vae_encoder",
            "every": "picture",
            "feed": {"sample": {"picture": "masked_image"}},
            "keep": {"latent_parameters": "masked_moments"},
        },
        {"sample": "masked_moments", "take": "draw", "scaled": True, "keep": "masked_latents"},
    ]
    return _unmasked(pipeline) | {
        "numbers": pipeline["numbers"] | {"strength": {"default": strength, "low": 0.0, "high": 1.0}},
        "pictures": {
            "image": {"prepare": "fit"},
            "mask": {"prepare": "mask"},
            "masked_image": {"prepare": "masked", "of": ["image", "mask"]},
        },
        "outside": {"picture": "image", "mask": "mask"},
        "before": [*first, *encoded],
        "denoise": _fed(pipeline, mask={"picture": "mask"}, masked_latents={"value": "masked_latents"}),
    }


def edited(pipeline: Pipeline) -> Pipeline:
    """A pipeline that changes a picture as a text says: its denoiser is also given the picture's latents, unscaled and
    by their mean, and there are two guidances.

    Reference: "InstructPix2Pix" (arXiv 2211.09800), section 3.2; diffusers' StableDiffusionInstructPix2PixPipeline.
    """
    _, sample = encoded_image()
    unscaled = [sample | {"take": "mean", "scaled": False} if step == sample else step for step in pipeline["before"]]
    (loop,) = _fed(pipeline, image_latents={"value": "image_latents"})
    numbers = {name: pipeline["numbers"][name] for name in pipeline["numbers"] if name not in _OF_BEGINNING}
    passes = [
        {"text": "negative_prompt", "zeros": ["image_latents"]},
        {"text": "negative_prompt"},
        {"text": "prompt"},
    ]
    guidance = {
        "passes": passes,
        "combine": {"first": 0, "add": [["guidance_scale", 2, 1], ["image_guidance_scale", 1, 0]]},
        "guided": {"number": "guidance_scale", "above": 1, "alone": 2},
    }
    return _unmasked(pipeline, "begin", "strength") | {
        "numbers": {"image_guidance_scale": {"default": 1.5, "low": 1.0}} | numbers,
        "pictures": {"image": {"prepare": "fit"}},
        "before": unscaled,
        "denoise": [{key: loop[key] for key in ("from", "until", "roles", "prediction")} | guidance],
    }
