"""A family whose roles have the ports that other tools look for, those of diffusers' and transformers' models as
optimum exports them: what a model is in other formats than bundles.

In our own graphs what depends on no step is computed once, and what lies beside a sample comes by ports of its own. A
published UNet takes all of it in each step. What a picture needs between published graphs are roles of a few ops
without weights, so that the whole of it is drawn by whatever runs the graphs: `context` (two text encoders' states side
by side), `join` (a sample and what is beside it), `guidance_waves` (what LCM's UNet is told) and for each ControlNet a
role that scales what it gives (`controlnet_scaled`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ondevice.converters.architectures.clip_text import CLIP_TEXT, CLIP_TEXT_POOLED, last_layer
from ondevice.converters.architectures.clip_text_published import CLIP_TEXT_POOLED_PUBLISHED, CLIP_TEXT_PUBLISHED
from ondevice.converters.architectures.controlnet import CONTROLNET, CONTROLNET_SUMS
from ondevice.converters.architectures.controlnet_published import CONTROLNET_PUBLISHED, CONTROLNET_SUMS_PUBLISHED
from ondevice.converters.architectures.unet import CONTROLLED, UNET
from ondevice.converters.architectures.unet_published import CONTROLLED_PUBLISHED, UNET_PUBLISHED
from ondevice.converters.architectures.unet_residuals import PUBLISHED, RESIDUAL
from ondevice.converters.families.family import Configs, Family, Role

_NETWORKS = {
    CLIP_TEXT: CLIP_TEXT_PUBLISHED,
    CLIP_TEXT_POOLED: CLIP_TEXT_POOLED_PUBLISHED,
    UNET: UNET_PUBLISHED,
    CONTROLLED: CONTROLLED_PUBLISHED,
    CONTROLNET: CONTROLNET_PUBLISHED,
    CONTROLNET_SUMS: CONTROLNET_SUMS_PUBLISHED,
}
_TEXTS = {"last_state": "states", "penultimate": "states", "penultimate_and_pooled": "states_and_projection"}
_ADDED = ("condition", "sizes")  # graphs that embed a pooled text and a picture's sizes
_BESIDE = ("mask", "masked_latents", "image_latents")  # ports of what is beside a sample
Step = dict[str, Any]


def as_published(family: Family, configs: Configs) -> Family:
    """`family` with published graphs, roles and a pipeline of them that draws the same; `configs` of its parts."""
    parts = {
        name: replace(part, architecture=_NETWORKS.get(part.architecture, part.architecture))
        for name, part in family.parts.items()
    }
    own = family.pipeline(family, configs)
    pipeline = own | {
        "before": [new for step in own["before"] for new in _before(step, family, configs)],
        "denoise": [
            loop | {"roles": [new for step in loop["roles"] for new in _in_loop(step, own, family)]}
            for loop in own["denoise"]
        ],
    }
    run = {step["run"] for step in _runs(pipeline)}
    roles = {name: role for name, role in _roles(family, configs) if name in run}
    return replace(family, parts=parts, roles=roles, pipeline=lambda family, configs: pipeline)


def _runs(pipeline: Mapping[str, Any]) -> Iterator[Step]:
    """The steps of a pipeline that run a role."""
    yield from (step for step in pipeline["before"] if "run" in step)
    yield from (step for loop in pipeline["denoise"] for step in loop["roles"])
    yield from pipeline["after"]


def _roles(family: Family, configs: Configs) -> Iterator[tuple[str, Role]]:
    """The published roles in the order of the family's own, more than it may need."""
    ids = 0  # numbers that say a picture's sizes
    for name, role in family.roles.items():
        sizes = role.joined(configs)
        if role.graph in _TEXTS:
            yield name, replace(role, graph=_TEXTS[role.graph])
        elif role.graph in _ADDED and role.part != "unet":  # a ControlNet embeds sizes in each step, too
            continue
        elif role.graph in _ADDED:
            ids = sizes.pop("ids")
            yield "context", replace(role, graph="context", joined=_always(sizes))
        elif role.graph == "guidance":
            yield "guidance_waves", role
        elif role.graph == "noise":
            yield "join", Role(role.part, "join")
            yield name, replace(role, joined=_always(sizes | {"ids": ids}))
        elif role.graph == "control":
            yield name, replace(role, joined=_always(sizes | {"ids": ids}))
            yield f"{name}_scaled", Role(role.part, "scaled")
        else:
            yield name, role


def _always(sizes: dict[str, int]) -> Callable[[Configs], dict[str, int]]:
    return lambda configs: sizes


def _before(step: Step, family: Family, configs: Configs) -> Iterator[Step]:
    """What comes before the loop in place of one step of the family's own."""
    graph = family.roles[step["run"]].graph if "run" in step else ""
    if graph in _TEXTS:
        state = f"hidden_states_{last_layer(configs[family.roles[step['run']].part])}"
        ports = {"hidden": state, "pooled": "text_embeds"}
        yield step | {"keep": {ports.get(port, port): value for port, value in step["keep"].items()}}
    elif graph == "condition":
        feed = {port: step["feed"][port] for port in ("hidden", "hidden_2")}
        yield step | {"run": "context", "feed": feed, "keep": {"context": step["keep"]["context"]}}
    elif graph == "guidance":
        yield step | {"run": "guidance_waves", "keep": {"timestep_cond": step["keep"]["guidance"]}}
    elif graph not in _ADDED:
        yield step


def _in_loop(step: Step, pipeline: Mapping[str, Any], family: Family) -> Iterator[Step]:
    """What a call runs in place of one role of the family's own."""
    graph = family.roles[step["run"]].graph
    if graph not in ("noise", "control"):
        yield step
        return
    feed = {port: source for port, source in step["feed"].items() if port not in _BESIDE}
    if beside := {port: source for port, source in step["feed"].items() if port in _BESIDE}:
        yield {"run": "join", "feed": {"sample": feed["sample"], **beside}, "keep": {"joined": "joined"}}
        feed["sample"] = {"value": "joined"}
    if added := feed.pop("added", None):
        made = next(each for each in _runs(pipeline) if added["value"] in each["keep"].values())
        feed |= {"text_embeds": made["feed"]["pooled"], "time_ids": made["feed"]["time_ids"]}
    if guidance := feed.pop("guidance", None):
        feed["timestep_cond"] = guidance
    if graph == "control":
        yield from _scaled(step, feed)
        return
    residuals = {port: feed.pop(port) for port in list(feed) if port.startswith(RESIDUAL)}
    feed |= {port.replace(RESIDUAL, PUBLISHED): source for port, source in residuals.items()}
    yield step | {"feed": feed}


def _scaled(step: Step, feed: dict[str, Any]) -> Iterator[Step]:
    """A ControlNet, and what scales its residuals and adds them to those of others; `feed`: of both."""
    others = {port: feed.pop(port) for port in list(feed) if port == "scales" or port.startswith("sum_")}
    feed["controlnet_cond"] = feed.pop("control")
    ports = {port: port.replace(RESIDUAL, PUBLISHED) for port in step["keep"]}
    raw = {port: f"{step['run']}_{port}" for port in ports.values()}
    yield step | {"feed": feed, "keep": raw}
    given = {port: {"value": value} for port, value in raw.items()}
    yield {"run": f"{step['run']}_scaled", "feed": given | others, "keep": step["keep"]}
