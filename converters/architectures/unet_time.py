"""What a UNet adds to all its blocks: the timestep, and in SDXL the pooled text and the picture's sizes, embedded."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.layers import gemm, silu


def time_width(config: Config) -> int:
    """Channels of the time embedding that blocks are given."""
    width: int = config["time_embedding_dim"] or 4 * config["block_out_channels"][0]
    return width


def time_embedding(b: GraphBuilder, config: Config, timestep: ir.Value) -> ir.Value:
    """[1] -> [1, time width]: sines and cosines of geometric frequencies, then two linear layers."""
    width, out = config["block_out_channels"][0], time_width(config)
    angles = b.op("time_proj", "Unsqueeze", [timestep, b.ints(1)], (1, 1))
    y = gemm(b, "time_embedding.linear_1", waves(b, config, "time_proj", angles, width), out)
    return gemm(b, "time_embedding.linear_2", silu(b, "time_embedding", y), out)


def waves(b: GraphBuilder, config: Config, scope: str, numbers: ir.Value, width: int) -> ir.Value:
    """[n, 1] -> [n, width]: sines and cosines of geometric frequencies."""
    half, (count_of, _) = width // 2, shape_of(numbers)
    # The exponent in float32, as diffusers' get_timestep_embedding has it; its exp rounded once, as torch's is (NumPy's
    # float32 exp is a bit off for a third of them). One bit of a frequency turns the angle of timestep 981 by 6e-5.
    exponent = (
        np.float32(-math.log(10000)) * np.arange(half, dtype=np.float32) / np.float32(half - config["freq_shift"])
    )
    frequencies = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angles = b.binary(scope, "Mul", numbers, b.constant(f"{scope}.frequencies", frequencies[np.newaxis]))
    parts = [b.unary(scope, "Sin", angles), b.unary(scope, "Cos", angles)]
    if config["flip_sin_to_cos"]:
        parts.reverse()
    if width % 2:
        parts.append(b.full(0.0, count_of, 1))
    return b.concat(scope, 1, *parts)
