"""What a UNet adds to all its blocks: the timestep, in SDXL the pooled text and the picture's sizes, and in LCM the
guidance, embedded."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.layers import gemm, linear, silu


def time_width(config: Config) -> int:
    """Channels of the time embedding that blocks are given."""
    width: int = config["time_embedding_dim"] or 4 * config["block_out_channels"][0]
    return width


def time_embedding(b: GraphBuilder, config: Config, timestep: ir.Value, beside: ir.Value | None = None) -> ir.Value:
    """[1] -> [1, time width]: sines and cosines of geometric frequencies, then two linear layers.
    What `guidance_embedding` gave, `beside` them, is added before these: [n, first width] -> [n, time width]."""
    width, out = config["block_out_channels"][0], time_width(config)
    angles = b.op("time_proj", "Unsqueeze", [timestep, b.ints(1)], (1, 1))
    y = waves(b, config, "time_proj", angles, width)
    y = y if beside is None else b.binary("time_embedding.cond_proj", "Add", y, beside)
    y = gemm(b, "time_embedding.linear_1", y, out)
    return gemm(b, "time_embedding.linear_2", silu(b, "time_embedding", y), out)


def guidance_embedding(b: GraphBuilder, config: Config, guidance: ir.Value) -> ir.Value:
    """[n, 1] -> [n, first width]: sines, then cosines, of 1000 (guidance - 1) at geometric frequencies, and a linear
    layer. Unlike the timestep's the last frequency is 1e-4 itself.

    Reference: "Latent Consistency Models" (arXiv 2310.04378), section 4.2; diffusers' LatentConsistencyModelPipeline,
    get_guidance_scale_embedding.
    """
    scope, width = "time_embedding.cond_proj", config["time_cond_proj_dim"]
    half, (count_of, _) = width // 2, shape_of(guidance)
    exponent = -(np.float32(math.log(10000)) / np.float32(half - 1)) * np.arange(half, dtype=np.float32)
    frequencies = np.exp(exponent.astype(np.float64)).astype(np.float32)
    scaled = b.binary(scope, "Mul", b.binary(scope, "Sub", guidance, b.full(1.0)), b.full(1000.0))
    angles = b.binary(scope, "Mul", scaled, b.constant(f"{scope}.frequencies", frequencies[np.newaxis]))
    parts = [b.unary(scope, "Sin", angles), b.unary(scope, "Cos", angles)]
    if width % 2:
        parts.append(b.full(0.0, count_of, 1))
    return linear(b, scope, b.concat(scope, 1, *parts), config["block_out_channels"][0], bias=False)


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
