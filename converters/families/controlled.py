"""Any family with ControlNets: each a part of its own, run before the UNet in every call where its picture is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ondevice.converters.architectures import controlnet, unet
from ondevice.converters.architectures.controlnet_config import beside, picture_scale
from ondevice.converters.architectures.unet_kinds import generation
from ondevice.converters.architectures.unet_levels import levels, listed
from ondevice.converters.architectures.unet_residuals import RESIDUAL, SUM
from ondevice.converters.families.family import Configs, Family, Joint, Part, Role
from ondevice.errors import CheckpointError

NETS = ("controlnet", "controlnet_2", "controlnet_3", "controlnet_4")
"""Parts, and components of a bundle."""
_ADDS = ("condition", "sizes")  # graphs of a UNet that embed a pooled text and a picture's sizes
Pipeline = dict[str, Any]


def nets_of(components: Iterable[str]) -> tuple[str, ...]:
    """The ControlNets among a checkpoint's components."""
    there = set(components)
    return tuple(net for net in NETS if net in there)


def controlled(family: Family, nets: tuple[str, ...]) -> Family:
    """`family` with these nets, the first of NETS; itself without any."""
    if not nets:
        return family
    sums = dict.fromkeys(nets[:-1], controlnet.CONTROLNET_SUMS) | {nets[-1]: controlnet.CONTROLNET}
    parts = {net: Part(sums[net], "control_model.", controlnet.LDM) for net in nets}
    roles = dict(family.roles)
    own = roles.pop("unet")
    sizes = next((role.joined for role in roles.values() if role.part == "unet" and role.graph in _ADDS), None)
    for net in nets:
        if sizes is not None:
            roles[f"{net}_sizes"] = Role(net, "sizes", lambda configs, of=sizes: {"ids": of(configs)["ids"]}, True)
        roles[net] = Role(net, "control", own.joined)
    made = family.pipeline
    return replace(
        family,
        parts=family.parts | {"unet": replace(family.parts["unet"], architecture=unet.CONTROLLED)} | parts,
        roles=roles | {"unet": own},
        joints=lambda configs: (*family.joints(configs), *(j for net in nets for j in joints(family, configs, net))),
        pipeline=lambda family, configs: with_nets(made(family, configs), family, configs, nets),
    )


def joints(family: Family, configs: Configs, net: str) -> Iterator[Joint]:
    """What a net gives is what the UNet adds, and both look at the same text."""
    own, its = configs[net], configs["unet"]
    same = ("cross_attention_dim", "block_out_channels", "addition_embed_type", "projection_class_embeddings_input_dim")
    yield from (Joint(f"{net}'s {key}", own[key], "the unet's", its[key]) for key in same)
    layers = [own["layers_per_block"]] * len(own["block_out_channels"])
    yield Joint(f"{net}'s layers_per_block", layers, "the unet's", listed(its, "layers_per_block"))
    channels = configs["vae"]["latent_channels"]
    yield Joint(f"{net}'s in_channels", own["in_channels"], "the vae's latent_channels", channels)
    pixels = "number of pixels per latent, by its conditioning_embedding_out_channels,"
    yield Joint(f"{net}'s {pixels}", picture_scale(own), "the vae's", family.scale(configs))


def check_net(family: Family, configs: Configs, net: str, where: str) -> None:
    """Refuse a net that does not fit the UNet. Raises CheckpointError that says which model it is for."""
    for joint in joints(family, configs, net):
        if joint.got != joint.expected:
            kind = controlnet.CONTROLNET.kind(configs[net])
            own = generation(configs["unet"]["cross_attention_dim"]) or family.title
            says = f"this is {kind}, not of {own}" if kind and not kind.endswith(f" of {own}") else "it does not fit"
            what = f"{says}: the {joint.name} is not {joint.other} (got {joint.got}, expected {joint.expected})."
            raise CheckpointError(what, where=where, fix=f"use a ControlNet that was trained for {own}")


def full_config(family: Family, unet_config: Mapping[str, Any], configs: Configs) -> dict[str, Any]:
    """The raw config of a net of a UNet's size, for made-up weights: as the published ones, but that the condition is
    as many times larger than latents as the family's pictures are."""
    widths, halvings = [16, 32, 96, 256], family.scale(configs).bit_length() - 1
    most = [*widths, *[widths[-1]] * halvings][: halvings + 1]
    return beside(unet_config) | {"conditioning_embedding_out_channels": most}


def with_nets(pipeline: Pipeline, family: Family, configs: Configs, nets: tuple[str, ...]) -> Pipeline:
    """A pipeline that may be given a picture for each net.

    The last net runs first: each adds what it makes, times its scale, to what those after it made, and the UNet is
    given what the first one keeps. So fewer pictures than nets are for the first nets.

    Reference: diffusers' StableDiffusionControlNetPipeline and MultiControlNetModel; in guess mode the negative prompt
    has a scale of 0, and the residuals scales of their own.
    """
    count = sum(len(level.depths) + 1 for level in levels(configs["unet"]).down) + 1  # conv_in and downsamplers count
    texts = list(pipeline["texts"])
    numbers, pictures, before = dict(pipeline["numbers"]), dict(pipeline["pictures"]), list(pipeline["before"])
    roles: list[dict[str, Any]] = []
    for number, net in enumerate(nets):
        end = f"_{number + 1}" if number else ""
        start, stop, scale, negative, guess = (
            f"control_{word}{end}" for word in ("start", "end", "scale", "negative_scale", "guess")
        )
        part = {"low": 0.0, "high": 1.0}
        numbers |= {start: {"default": 0.0} | part, stop: {"default": 1.0} | part}
        numbers |= {scale: {"default": 1.0, "window": [start, stop]}}
        own = {"prompt": scale, "negative_prompt": negative}
        if "negative_prompt" in texts:
            numbers |= {negative: {"default": scale, "window": [start, stop]}}
        numbers |= {guess: {"default": 0.0} | part}
        pictures[f"control{end}"] = {"prepare": "unit", "optional": True}
        feed = _same_as_unet(pipeline) | {
            "control": {"picture": f"control{end}"},
            "scales": {"numbers": [{text: own[text] for text in texts}, guess]},
        }
        if "added" in feed:
            added = f"control_added{end}"
            before.append(_sizes(pipeline, family, net, added))
            feed["added"] = {"value": added}
        if net != nets[-1]:
            feed |= _residuals(SUM, _kept(number + 1), count)
        keep = {f"{RESIDUAL}{at}": f"{_kept(number)}{at}" for at in range(count)}
        roles.insert(0, {"run": net, "feed": feed, "keep": keep})
    given = _residuals(RESIDUAL, _kept(0), count)
    loops = []
    for loop in pipeline["denoise"]:
        *others, last = loop["roles"]
        loops.append(loop | {"roles": [*others, *roles, last | {"feed": last["feed"] | given}]})
    return pipeline | {"numbers": numbers, "pictures": pictures, "before": before, "denoise": loops}


def _kept(number: int) -> str:
    return f"control_{number + 1}_{RESIDUAL}" if number else RESIDUAL


def _residuals(port: str, value: str, count: int) -> dict[str, Any]:
    return {f"{port}{at}": {"value": f"{value}{at}", "absent": "zeros"} for at in range(count)}


def _same_as_unet(pipeline: Pipeline) -> dict[str, Any]:
    """What a net is given as the UNet is; of what is beside a sample, and of a guidance that is told, it is given
    nothing."""
    feed = pipeline["denoise"][0]["roles"][-1]["feed"]
    return {port: feed[port] for port in ("sample", "timestep", "encoder_hidden_states", "added") if port in feed}


def _sizes(pipeline: Pipeline, family: Family, net: str, added: str) -> dict[str, Any]:
    """The role that embeds a pooled text and the picture's sizes, with the net's own weights."""
    own = next(step for step in pipeline["before"] if "run" in step and family.roles[step["run"]].graph in _ADDS)
    feed = {port: own["feed"][port] for port in ("pooled", "time_ids")}
    return {"run": f"{net}_sizes", "every": "text", "feed": feed, "keep": {"added": added}}
