"""What a ControlNet gives a UNet, residual by residual: ports with channels last, as both work inside, so that neither
turns them."""

from __future__ import annotations

import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.builder import GraphBuilder, Shape, shape_of
from ondevice.converters.architectures.unet_levels import levels

RESIDUAL = "residual_"  # and its number, of a port
SUM = "sum_"  # the same of what a ControlNet adds its own to
PUBLISHED = "additional_residual_"  # the same of graphs for other tools, as Apple's converter has it


def is_residual(name: str) -> bool:
    """Whether it is such a port's name."""
    return name.startswith((RESIDUAL, SUM))


def port(value: ir.Value) -> Shape:
    """[n, h, w, c], of what is [n, c, h, w]."""
    n, c, *rest = shape_of(value)
    return n, *rest, c


def channels_last(b: GraphBuilder, scope: str, value: ir.Value) -> ir.Value:
    """[n, c, h, w] as a port has it."""
    return b.transpose(scope, value, 0, 2, 3, 1)


def channels_first(b: GraphBuilder, scope: str, value: ir.Value) -> ir.Value:
    """A port's value as [n, c, h, w]."""
    return b.transpose(scope, value, 0, 3, 1, 2)


def added(b: GraphBuilder, number: int, value: ir.Value) -> ir.Value:
    """`value` [n, c, h, w] and the residual of that number, which is an input of the graph."""
    scope = f"residual.{number}"
    return b.binary(scope, "Add", value, channels_first(b, scope, b.input(f"{RESIDUAL}{number}", port(value))))


def added_as_published(b: GraphBuilder, number: int, value: ir.Value) -> ir.Value:
    """The same with a port of channels first."""
    return b.binary(f"residual.{number}", "Add", value, b.input(f"{PUBLISHED}{number}", shape_of(value)))


def shapes(config: Config, batch: int, height: int, width: int) -> list[Shape]:
    """[n, c, h, w] of each residual, in order: conv_in's, those of each level and its downsampler, the middle's."""
    down = levels(config).down
    found: list[Shape] = [(batch, config["block_out_channels"][0], height, width)]
    for number, level in enumerate(down):
        found += [(batch, level.width, height, width)] * len(level.depths)
        if number < len(down) - 1:
            height, width = -(-height // 2), -(-width // 2)
            found.append((batch, level.width, height, width))
    return [*found, (batch, down[-1].width, height, width)]
