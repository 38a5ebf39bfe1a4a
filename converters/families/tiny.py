"""Tiny autoencoders in a family's model: in the place of its own, or beside it as a decoder that is fast.

Which it is follows from a checkpoint's networks: `as_opened` gives the family of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ondevice.converters.architectures.autoencoder_tiny import (
    AUTOENCODER_TINY,
    CLASS,
    FAST_DECODER,
    LAYOUT,
    SCALING,
    SHIFT,
)
from ondevice.converters.families.family import Config, Configs, Family, Joint, Part, Role
from ondevice.errors import UsageError

FLAG = "--taesd"
TAESD = "taesd"
"""The part of a tiny autoencoder beside another."""
FAST = "taesd_decoder"
# by a part that a family of these latents has; the first that is there
_HUB = {"transformer": "madebyollin/taesd3", "text_encoder_2": "madebyollin/taesdxl"}


def is_tiny(config: Mapping[str, Any]) -> bool:
    """Whether a config of an autoencoder, normalized or not, is of a tiny one."""
    return config.get("_class_name") == CLASS


def published_for(family: Family) -> str:
    """The hub id of the tiny autoencoder for a family's latents."""
    return next((published for part, published in _HUB.items() if part in family.parts), "madebyollin/taesd")


def usual_for(family: Family) -> str:
    """The tiny autoencoder that is taken where none is named: the one inside the package, for a family whose weights
    are, or the published one."""
    inside = family.place(family.folder, TAESD)
    return str(inside) if family.hub_id is None and inside.is_dir() else published_for(family)


def with_tiny_vae(family: Family) -> Family:
    """The family with a tiny autoencoder in the place of its own. Latents of a picture are then drawn from nothing."""

    def pipeline(this: Family, configs: Configs) -> dict[str, Any]:
        made = family.pipeline(this, configs)
        return made | {"before": [step | {"take": "mean"} if "sample" in step else step for step in made["before"]]}

    vae = replace(family.parts["vae"], architecture=AUTOENCODER_TINY, layout=LAYOUT)
    return replace(family, parts={**family.parts, "vae": vae}, pipeline=pipeline)


def with_fast_decoder(family: Family) -> Family:
    """The family with a tiny autoencoder's decoder beside its own."""

    def pipeline(this: Family, configs: Configs) -> dict[str, Any]:
        role = {
            "run": FAST,
            "every": "picture",
            "feed": {"latent_sample": {"value": "latents"}},
            "keep": {"sample": "picture"},
        }
        return family.pipeline(this, configs) | {"fast": [role]}

    def joints(configs: Configs) -> list[Joint]:
        return [*family.joints(configs), *_joints(family, configs)]

    return replace(
        family,
        parts={**family.parts, TAESD: Part(FAST_DECODER, "", LAYOUT)},
        roles={**family.roles, FAST: Role(TAESD, "fast_decoder")},
        pipeline=pipeline,
        joints=joints,
    )


def _joints(family: Family, configs: Configs) -> list[Joint]:
    tiny, vae = configs[TAESD], configs["vae"]
    scale = family.scale(configs)
    return [
        Joint("tiny autoencoder's latent_channels", tiny["latent_channels"], "the vae's", vae["latent_channels"]),
        Joint("tiny autoencoder's pixels per latent", FAST_DECODER.scale(tiny), "the vae's", scale),
        Joint("tiny autoencoder's out_channels", tiny["out_channels"], "that of RGB pictures", 3),
    ]


def as_opened(family: Family, configs: Configs) -> Family:
    """The family of networks with these configs.

    Raises:
        UsageError: a decoder that is fast stands beside an autoencoder that is tiny itself, or is of films.
    """
    opened = with_tiny_vae(family) if is_tiny(configs["vae"]) else family
    if TAESD not in configs:
        return opened
    if opened is not family:
        what = "the model's own autoencoder is a tiny one, whose decoder is as fast."
        raise UsageError(what, where=FLAG, fix=f"leave {FLAG} out")
    if "frames" in family.parts["vae"].architecture.graphs["decoder"].sizes:
        raise UsageError("films have no fast decoder.", where=FLAG, fix=f"leave {FLAG} out")
    return with_fast_decoder(opened)


def fast_config(tiny: Config, vae: Config) -> dict[str, Any]:
    """The config of a tiny autoencoder beside another, whose decoder's latents it is given."""
    return {**tiny, SCALING: vae["scaling_factor"], SHIFT: float(vae.get("shift_factor") or 0.0)}
