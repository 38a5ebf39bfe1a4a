"""What a UNet draws, by the numbers of its config or the shapes of its weights: what a refusal says of a model."""

from __future__ import annotations

from collections.abc import Mapping

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.builder import Shape

_BY_INPUTS = {9: "inpainting", 8: "InstructPix2Pix", 5: "depth-to-image", 7: "upscaling"}
_BY_TEXT_WIDTH = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    1280: "Stable Diffusion XL Refiner",
    2048: "Stable Diffusion XL",
}
LCM = "LCM"


def generation(text_width: object) -> str | None:
    """The Stable Diffusion whose UNet looks at text of so many channels; None where none does."""
    return _BY_TEXT_WIDTH.get(text_width) if type(text_width) is int else None


def kind_of(in_channels: object, text_width: object, distilled: bool = False) -> str | None:
    """What a UNet of these `in_channels` and `cross_attention_dim` draws;
    None where its numbers are of none that is known.

    Both may be anything that a config or a file of weights says. `distilled`: it is told the guidance.
    """
    drawn = LCM if distilled else _BY_INPUTS.get(in_channels) if type(in_channels) is int else None
    of = generation(text_width)
    return " ".join(word for word in (of or "Stable Diffusion", drawn) if word) if drawn else of


def kind_of_config(config: Config) -> str | None:
    """The same from a config, which may hold anything."""
    told = config.get("time_cond_proj_dim") is not None
    return kind_of(config.get("in_channels", 4), config.get("cross_attention_dim"), told)


def kind_of_shapes(shapes: Mapping[str, Shape]) -> str | None:
    """The same from the shapes of weights, in diffusers' names or the original layout's."""
    widths = {shape[-1] for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight") and shape}
    first: Shape = next((shapes[name] for name in ("conv_in.weight", "input_blocks.0.0.weight") if name in shapes), ())
    told = any(name.endswith(".cond_proj.weight") for name in shapes)
    return kind_of(first[1] if len(first) == 4 else 4, widths.pop() if len(widths) == 1 else None, told)
