"""The denoising network (diffusers' UNet2DConditionModel): its graphs, over the blocks of unet_blocks.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Apart, Architecture, Config, Graph, Layout, Stored
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.layers import group_norm, silu
from ondevice.converters.architectures.unet_blocks import Blocks
from ondevice.converters.architectures.unet_config import (
    KEYS,
    adds_text_and_sizes,
    channels_beside,
    check,
    takes_guidance,
)
from ondevice.converters.architectures.unet_keys_values import STATES, Looks, keys_values, of_ports, of_states, states
from ondevice.converters.architectures.unet_kinds import kind_of_config, kind_of_shapes
from ondevice.converters.architectures.unet_levels import levels
from ondevice.converters.architectures.unet_names import original_name
from ondevice.converters.architectures.unet_residuals import added
from ondevice.converters.architectures.unet_time import (
    embedded_guidance,
    embedded_sizes,
    guidance_waves,
    pooled_width,
    time_embedding,
)

Add = Callable[[GraphBuilder, int, ir.Value], ir.Value]


def noise(
    b: GraphBuilder,
    config: Config,
    *,
    batch: int,
    height: int,
    width: int,
    tokens: int,
    controlled: bool = False,
    given: bool = False,
) -> ir.Model:
    """sample float32 [batch, c, height, width], timestep float32 [1], encoder_hidden_states [batch, tokens, d] ->
    out_sample, shaped as sample. One timestep serves the whole batch, as in guidance.

    Where the config has more channels than those of a sample, there are also mask [batch, 1, height, width] and
    masked_latents, shaped as sample (inpainting), or image_latents, shaped as sample (InstructPix2Pix). Where it has
    text_time there is added [batch, time width], which `condition` or `sizes` makes; where it has a
    time_cond_proj_dim, guidance [batch, first width], which `guidance` makes. With `controlled` there are residual_0,
    residual_1, ..., what ControlNets give (controlnet.py). With `given` there are keys_values_0, keys_values_1, ...
    in the place of encoder_hidden_states (unet_keys_values.py).
    """
    beside = channels_beside(config)
    own = config["in_channels"] - sum(beside.values())
    parts = [b.input("sample", (batch, own, height, width))]
    timestep = b.input("timestep", (1,))
    text = of_ports(b, config, batch, tokens) if given else of_states(b, states(b, config, batch, tokens))
    parts += [b.input(name, (batch, channels, height, width)) for name, channels in beside.items()]
    first = config["block_out_channels"][0]
    time = time_embedding(b, config, timestep, b.input("guidance", (batch, first)) if takes_guidance(config) else None)
    if adds_text_and_sizes(config):
        time = b.binary("add_embedding", "Add", time, b.input("added", (batch, shape_of(time)[1])))
    return denoised(b, config, time, text, *parts, add=added if controlled else None)


def denoised(
    b: GraphBuilder, config: Config, time: ir.Value, text: Looks, *parts: ir.Value, add: Add | None = None
) -> ir.Model:
    """The blocks of a UNet that is given the time embedding, a text's keys and values, and a sample with what is beside
    it.

    `add(b, number, value)` gives skip connection `number` with what is added to it, and last the middle's result.
    """
    net = Blocks(b, config, silu(b, "time_embedding", time), text)
    x = b.concat("conv_in", 1, *parts) if len(parts) > 1 else parts[0]
    x = b.conv("conv_in", x, config["block_out_channels"][0])
    skips = [x]
    x = net.mid(net.down(x, skips))
    if add is not None:  # after the whole way down, which does not see it
        *skips, x = (add(b, number, value) for number, value in enumerate((*skips, x)))
    x = net.up(x, skips)
    x = group_norm(b, "conv_norm_out", x, config["norm_num_groups"], config["norm_eps"])
    return b.finish(out_sample=b.conv("conv_out", silu(b, "conv_norm_out", x), config["out_channels"]))


def condition(b: GraphBuilder, config: Config, *, batch: int, tokens: int, hidden: int, ids: int) -> ir.Model:
    """What two text encoders gave and the picture's sizes, as `noise` takes them; depends on no step.

    hidden float32 [batch, tokens, `hidden`], hidden_2 [batch, tokens, d - `hidden`], pooled [batch, p], time_ids
    float32 [batch, `ids`] (original height and width, top and left of the crop, height and width) -> context
    [batch, tokens, d], added [batch, time width].
    """
    first = b.input("hidden", (batch, tokens, hidden))
    second = b.input("hidden_2", (batch, tokens, config["cross_attention_dim"] - hidden))
    added = _added(b, config, batch, ids)
    return b.finish(context=b.concat("context", 2, first, second), added=added)


def sizes(b: GraphBuilder, config: Config, *, batch: int, ids: int) -> ir.Model:
    """`condition` of a UNet that looks at one text encoder's states as they are: pooled, time_ids -> added."""
    return b.finish(added=_added(b, config, batch, ids))


def guidance(b: GraphBuilder, config: Config, *, batch: int) -> ir.Model:
    """guidance_scale float32 [batch, 1] -> guidance [batch, first width], as `noise` takes it; depends on no step."""
    waves = guidance_waves(b, config, b.input("guidance_scale", (batch, 1)))
    return b.finish(guidance=embedded_guidance(b, config, waves))


def _added(b: GraphBuilder, config: Config, batch: int, ids: int) -> ir.Value:
    """The inputs pooled and time_ids, embedded: [batch, time width]."""
    pooled = b.input("pooled", (batch, pooled_width(config, ids)))
    return embedded_sizes(b, config, pooled, b.input("time_ids", (batch, ids)))


def unshared(config: Config, ranks: int) -> str | None:
    """Why so many ranks cannot share its attentions and what is between the convolutions of its resnets; None where
    they can."""
    if config["norm_num_groups"] % ranks:
        return f"its norms have {config['norm_num_groups']} groups, which {ranks} cannot share."
    down, mid, up = levels(config)
    for level in (*down, *([] if mid is None else [mid]), *up):
        if any(level.depths) and level.heads % ranks:
            return f"attention of {level.width} channels has {level.heads} heads, which {ranks} cannot share."
    return None


def canonical(name: str) -> str:
    head, dot, leaf = name.rpartition(".to_out.")
    return f"{head}.to_out.0.{leaf}" if dot and leaf in ("weight", "bias") else name


LDM = Layout(lambda name, config: Stored(original_name(name, config)))
_SIZES = ("batch", "height", "width", "tokens")


def _noise(controlled: bool) -> dict[str, Graph]:
    """`noise` as it is published, and in two: what depends on the text alone, and the rest."""
    build, apart = partial(noise, controlled=controlled), Apart("keys_values", "step", (STATES,))
    whole = Graph(build, _SIZES, apart=apart, unshared=unshared)
    step = Graph(partial(build, given=True), _SIZES, unshared=unshared)
    return {"noise": whole, "keys_values": Graph(keys_values, ("batch", "tokens")), "step": step}


UNET = Architecture(
    name="unet",
    word="UNet",
    keys=KEYS,
    graphs={
        **_noise(controlled=False),
        "condition": Graph(condition, sizes=("batch", "tokens", "hidden", "ids"), fits=adds_text_and_sizes),
        "sizes": Graph(sizes, sizes=("batch", "ids"), fits=adds_text_and_sizes),
        "guidance": Graph(guidance, sizes=("batch",), fits=takes_guidance),
    },
    check=check,
    classes=("UNet2DConditionModel", "FlaxUNet2DConditionModel"),
    canonical=canonical,
    kind=kind_of_config,
    kind_of_shapes=kind_of_shapes,
    first="conv_in.weight",
)
CONTROLLED = replace(UNET, graphs=UNET.graphs | _noise(controlled=True))
"""A UNet that is given what ControlNets make."""
