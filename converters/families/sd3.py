"""Stable Diffusion 3 and 3.5: three text encoders, one of which (T5) may be left out, a MM-DiT, an autoencoder of 16
channels, and the straight paths of flow matching."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ondevice.base.paths import MODELS
from ondevice.converters.architectures import autoencoder_kl, clip_text, mmdit, mmdit_names, t5
from ondevice.converters.architectures.mmdit_config import MOST_BLOCKS
from ondevice.converters.families.family import Configs, Family, Joint, Part, Role
from ondevice.converters.families.pipelines import encoded_image, latents_of, maskable

_TEXTS = "text_encoders."
_T5 = "text_encoder_3"
PARTS = {
    "text_encoder": Part(clip_text.CLIP_TEXT_POOLED, f"{_TEXTS}clip_l.transformer.", clip_text.OPENAI_UNPROJECTED),
    "text_encoder_2": Part(clip_text.CLIP_TEXT_POOLED, f"{_TEXTS}clip_g.transformer.", clip_text.OPENAI),
    _T5: Part(t5.T5, f"{_TEXTS}t5xxl.transformer.", t5.PLAIN),
    "transformer": Part(mmdit.MMDIT, "model.diffusion_model.", mmdit_names.SAI),
    "vae": Part(autoencoder_kl.AUTOENCODER_KL, "first_stage_model.", autoencoder_kl.LDM),
}
TOKENIZERS = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2", "tokenizer_3": _T5}
ZEROS = 256
"""Rows of zeros that stand for T5's states where there is no T5, as many as it would have given. Equal rows stay equal,
so the graphs have one that counts as so many."""
STRENGTH = 0.6  # of img2img, as in diffusers


def _texts(configs: Configs) -> dict[str, int]:
    """Sizes of what the text encoders give."""
    first, second = configs["text_encoder"], configs["text_encoder_2"]
    last = {"states_3": configs[_T5][t5.TOKENS]} if _T5 in configs else {"zeros": 1}
    sizes = {"width": first["hidden_size"], "width_2": second["hidden_size"], "pooled": first["projection_dim"]}
    return {"states": first["max_position_embeddings"], **sizes, **last}


def _context(configs: Configs) -> dict[str, int]:
    """How many tokens a text has for the MM-DiT, and how many rows of zeros the last of them stands for."""
    sizes = _texts(configs)
    more = {} if _T5 in configs else {"zeros": ZEROS}
    return {"context": sizes["states"] + sizes.get("states_3", 1), **more}


_MODULATIONS = tuple(f"{mmdit.MODULATION}{name}" for name in (*range(MOST_BLOCKS), mmdit.LAST))
ROLES = {
    "text_encoder": Role("text_encoder", "penultimate_and_pooled", precise=True),
    "text_encoder_2": Role("text_encoder_2", "penultimate_and_pooled", precise=True),
    _T5: Role(_T5, "states"),
    "condition": Role("transformer", "condition", _texts, precise=True),
    "modulation": Role("transformer", "modulation", between=_MODULATIONS),
    "transformer": Role("transformer", "noise", _context, between=_MODULATIONS),
    "vae_decoder": Role("vae", "decoder"),
    "vae_encoder": Role("vae", "encoder", optional=True),
}


def joints(configs: Configs) -> Iterator[Joint]:
    """The text encoders' states and pooled texts are what the MM-DiT looks at, its latents are the VAE's, and pictures
    are RGB."""
    first, second, net, vae = (configs[part] for part in ("text_encoder", "text_encoder_2", "transformer", "vae"))
    length, channels = first["max_position_embeddings"], vae["latent_channels"]
    yield Joint(
        "text_encoder_2's max_position_embeddings", second["max_position_embeddings"], "the text_encoder's", length
    )
    widths, wide = first["hidden_size"] + second["hidden_size"], net["joint_attention_dim"]
    if _T5 in configs:
        yield Joint("transformer's joint_attention_dim", wide, "the text_encoder_3's d_model", configs[_T5]["d_model"])
    name = "transformer's joint_attention_dim, of which the text encoders' hidden_size together fill"
    yield Joint(name, min(widths, wide), "at least their sum", widths)
    pooled = first["projection_dim"] + second["projection_dim"]
    what = "the sum of the text encoders' projection_dim"
    yield Joint("transformer's pooled_projection_dim", net["pooled_projection_dim"], what, pooled)
    for side in ("in_channels", "out_channels"):
        yield Joint(f"transformer's {side}", net[side], "the vae's latent_channels", channels)
        yield Joint(f"vae's {side}", vae[side], "that of RGB pictures", 3)


def pipeline(family: Family, configs: Configs) -> dict[str, Any]:
    """Text encoders, a graph that joins what they give, and a loop of two roles: what modulates the blocks, and these.
    A negative prompt that was not given is the empty text.

    Reference: diffusers' StableDiffusion3Pipeline and StableDiffusion3Img2ImgPipeline.
    """
    encoders = [
        {
            "run": part,
            "every": "text",
            "feed": {"input_ids": {"tokens": tokenizer}},
            "keep": {"last_hidden_state": "hidden_3"} if part == _T5 else _kept(tokenizer.removeprefix("tokenizer")),
        }
        for tokenizer, part in family.tokenizers.items()
    ]
    given = [value for role in encoders for value in role["keep"].values()]
    condition = {
        "run": "condition",
        "every": "text",
        "feed": {value: {"value": value} for value in given},
        "keep": {"context": "context", "added": "added"},
    }
    rows = [f"{mmdit.MODULATION}{name}" for name in (*range(configs["transformer"]["num_layers"]), mmdit.LAST)]
    modulation = {
        "run": "modulation",
        "feed": {"timestep": {"value": "timestep"}, "added": {"value": "added"}},
        "keep": {row: row for row in rows},
    }
    sample = {"sample": {"value": "latents"}, "encoder_hidden_states": {"value": "context"}}
    feed = sample | {row: {"value": row} for row in rows}
    return maskable(
        {
            "gives": "picture",
            "numbers": {
                "guidance_scale": {"default": family.guidance_scale},
                "strength": {"default": STRENGTH, "low": 0.0, "high": 1.0},
            },
            "texts": {"prompt": {}, "negative_prompt": {"optional": True}},
            "pictures": {"image": {"prepare": "fit", "optional": True}},
            "latents": latents_of(family, configs, begin="image_latents", strength="strength", rounds="up"),
            "before": [*encoders, condition, *encoded_image(), {"noise": "latents"}],
            "denoise": [
                {
                    "from": 0,
                    "until": 1,
                    "roles": [modulation, {"run": "transformer", "feed": feed, "keep": {"out_sample": "prediction"}}],
                    "prediction": "prediction",
                    "passes": [{"text": "negative_prompt"}, {"text": "prompt"}],
                    "combine": {"first": 0, "add": [["guidance_scale", 1, 0]]},
                    "guided": {"number": "guidance_scale", "above": 1, "alone": 1},
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
        },
        STRENGTH,
    )


def skipping(family: Family, blocks: tuple[int, ...]) -> Family:
    """The same with a third pass in some calls, whose picture does without these blocks: the prediction moves away from
    that one's, too. A block whose modulation is zeros changes nothing, its gates included.

    Reference: diffusers' StableDiffusion3Pipeline with `skip_guidance_layers`, and its numbers.
    """
    start, stop, scale = (f"skip_layer_guidance_{word}" for word in ("start", "stop", "scale"))

    def with_third_pass(family: Family, configs: Configs) -> dict[str, Any]:
        whole = pipeline(family, configs)
        (loop,) = whole["denoise"]
        zeros = [f"guided_{mmdit.MODULATION}{block}" for block in blocks]
        third = {
            "passes": [*loop["passes"], {"text": "prompt", "zeros": zeros}],
            "combine": {"first": 0, "add": [*loop["combine"]["add"], [scale, 1, 2]]},
        }
        numbers = {start: {"default": 0.01}, stop: {"default": 0.2}, scale: {"default": 2.8}}
        stretches = [
            _with_values(loop, "first_") | {"until": start},
            _with_values(loop, "guided_") | third | {"from": start, "until": stop},
            loop | {"from": stop},
        ]
        return whole | {"numbers": whole["numbers"] | numbers, "denoise": stretches}

    base = family.base or family.folder
    return replace(family, name=f"{family.name}-skip-layers", base=base, pipeline=with_third_pass)


def _with_values(loop: dict[str, Any], head: str) -> dict[str, Any]:
    """A stretch of the schedule whose values have names of their own, which begin with `head`."""
    modulation, transformer = loop["roles"]
    keep = {port: f"{head}{value}" for port, value in modulation["keep"].items()}
    feed = transformer["feed"] | {port: {"value": value} for port, value in keep.items()}
    prediction = f"{head}{loop['prediction']}"
    roles = [modulation | {"keep": keep}, transformer | {"feed": feed, "keep": {"out_sample": prediction}}]
    return loop | {"roles": roles, "prediction": prediction}


def _kept(number: str) -> dict[str, str]:
    """What the CLIP of that number ("" or "_2") gives."""
    return {"hidden": f"hidden{number}", "pooled": f"pooled{number}"}


def without_t5(family: Family) -> Family:
    """The same without its largest text encoder: 4.8 of 8 billion weights less."""
    return replace(
        family,
        name=f"{family.name}-without-t5",
        parts={name: part for name, part in family.parts.items() if name != _T5},
        roles={name: role for name, role in family.roles.items() if name != _T5},
        tokenizers={name: part for name, part in family.tokenizers.items() if part != _T5},
        base=family.base or family.folder,
        unused=(PARTS[_T5].prefix,),
    )


# Red, green and blue of each of the 16 channels, and of one. Reference: ComfyUI's latent formats.
_COLOURS = (
    (-0.0922, -0.0175, 0.0749),
    (0.0311, 0.0633, 0.0954),
    (0.1994, 0.0927, 0.0458),
    (0.0856, 0.0339, 0.0902),
    (0.0587, 0.0272, -0.0496),
    (-0.0006, 0.1104, 0.0309),
    (0.0978, 0.0306, 0.0427),
    (-0.0042, 0.1038, 0.1358),
    (-0.0194, 0.0020, 0.0669),
    (-0.0488, 0.0130, -0.0268),
    (0.0922, 0.0988, 0.0951),
    (-0.0278, 0.0524, -0.0542),
    (0.0332, 0.0456, 0.0895),
    (-0.0069, -0.0030, -0.0810),
    (-0.0596, -0.0465, -0.0293),
    (-0.1448, -0.1463, -0.1189),
    (0.2394, 0.2135, 0.1925),
)
PREVIEW = tuple(zip(*_COLOURS, strict=True))


def sd3(name: str, hub_id: str | None, **changes: Any) -> Family:
    """A family of this kind, whose configs are in its folder of models/ or in sd3's; `changes` are to other fields."""
    about: dict[str, Any] = {
        "title": "Stable Diffusion 3",
        "folder": MODELS / name,
        "parts": PARTS,
        "roles": ROLES,
        "tokenizers": TOKENIZERS,
        "joints": joints,
        "pipelines": ("StableDiffusion3Pipeline",),
        "pipeline": pipeline,
        "changes_scheduler": False,
        "guidance_scale": 7.0,
        "steps": 28,
        "preview": PREVIEW,
        "clip_skip": False,
        "exports": False,
    }
    return Family(name=name, hub_id=hub_id, **about | changes)


_BASE = {"base": MODELS / "sd3"}
_MEDIUM = sd3("sd35-medium", "stabilityai/stable-diffusion-3.5-medium", guidance_scale=4.5, steps=40, **_BASE)
_WHOLE = (
    sd3("sd3", "stabilityai/stable-diffusion-3-medium-diffusers"),
    _MEDIUM,
    skipping(_MEDIUM, (7, 8, 9)),
    sd3("sd35-large", "stabilityai/stable-diffusion-3.5-large", guidance_scale=3.5, **_BASE),
    sd3("sd35-large-turbo", "stabilityai/stable-diffusion-3.5-large-turbo", guidance_scale=0.0, steps=4, **_BASE),
)
# Ours, whose numbers are in the package; its autoencoder is the demo's, of which no sum of channels is a picture.
_DEMO = without_t5(sd3("demo-sd3", None, guidance_scale=2.0, steps=20, preview=(), base=MODELS / "demo"))
FAMILIES = (*_WHOLE, *map(without_t5, _WHOLE), replace(_DEMO, name="demo-sd3"))
