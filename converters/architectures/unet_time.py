"""What a UNet adds to all its blocks: the timestep, in SDXL the pooled text and the picture's sizes, and in LCM the
guidance, embedded."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.architecture import Config
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.layers import gemm, linear, silu

_GUIDANCE = "time_embedding.cond_proj"


def time_width(config: Config) -> int:
    """Channels of the time embedding that blocks are given."""
    width: int = config["time_embedding_dim"] or 4 * config["block_out_channels"][0]
    return width


def time_embedding(b: GraphBuilder, config: Config, timestep: ir.Value, beside: ir.Value | None = None) -> ir.Value:
    """[1] -> [1, time width]: sines and cosines of geometric frequencies, then two linear layers.
    What `embedded_guidance` gave, `beside` them, is added before these: [n, first width] -> [n, time width]."""
    width, out = config["block_out_channels"][0], time_width(config)
    angles = b.op("time_proj", "Unsqueeze", [timestep, b.ints(1)], (1, 1))
    y = waves(b, config, "time_proj", angles, width)
    y = y if beside is None else b.binary("time_embedding.cond_proj", "Add", y, beside)
    y = gemm(b, "time_embedding.linear_1", y, out)
    return gemm(b, "time_embedding.linear_2", silu(b, "time_embedding", y), out)


def guidance_waves(b: GraphBuilder, config: Config, guidance: ir.Value) -> ir.Value:
    """[n, 1] -> [n, time_cond_proj_dim]: sines, then cosines, of 1000 (guidance - 1) at geometric frequencies. Unlike
    the timestep's the last frequency is 1e-4 itself.

    Reference: "Latent Consistency Models" (arXiv 2310.04378), section 4.2; diffusers' LatentConsistencyModelPipeline,
    get_guidance_scale_embedding.
    """
    width, (count_of, _) = config["time_cond_proj_dim"], shape_of(guidance)
    half = width // 2
    exponent = -(np.float32(math.log(10000)) / np.float32(half - 1)) * np.arange(half, dtype=np.float32)
    frequencies = np.exp(exponent.astype(np.float64)).astype(np.float32)
    scaled = b.binary(_GUIDANCE, "Mul", b.binary(_GUIDANCE, "Sub", guidance, b.full(1.0)), b.full(1000.0))
    angles = b.binary(_GUIDANCE, "Mul", scaled, b.constant(f"{_GUIDANCE}.frequencies", frequencies[np.newaxis]))
    parts = [b.unary(_GUIDANCE, "Sin", angles), b.unary(_GUIDANCE, "Cos", angles)]
    if width % 2:
        parts.append(b.full(0.0, count_of, 1))
    return b.concat(_GUIDANCE, 1, *parts)


def embedded_guidance(b: GraphBuilder, config: Config, guidance: ir.Value) -> ir.Value:
    """What `guidance_waves` gave, [n, time_cond_proj_dim], through a linear layer: [n, first width]."""
    return linear(b, _GUIDANCE, guidance, config["block_out_channels"][0], bias=False)


def embedded_sizes(b: GraphBuilder, config: Config, pooled: ir.Value, time_ids: ir.Value) -> ir.Value:
    """A pooled text [n, p] and a picture's sizes [n, ids] -> [n, time width], which is added to the time embedding."""
    each, time, (count_of, ids) = config["addition_time_embed_dim"], time_width(config), shape_of(time_ids)
    sizes = b.reshape("add_time_proj", time_ids, count_of * ids, 1)
    sizes = b.reshape("add_time_proj", waves(b, config, "add_time_proj", sizes, each), count_of, ids * each)
    y = gemm(b, "add_embedding.linear_1", b.concat("add_embedding", 1, pooled, sizes), time)
    return gemm(b, "add_embedding.linear_2", silu(b, "add_embedding", y), time)


def pooled_width(config: Config, ids: int) -> int:
    """Channels of the pooled text beside so many numbers that say a picture's sizes."""
    return int(config["projection_class_embeddings_input_dim"] - ids * config["addition_time_embed_dim"])


def waves(b: GraphBuilder, config: Config, scope: str, numbers: ir.Value, width: int) -> ir.Value:
    """[n, 1] -> [n, width]: sines and cosines of geometric frequencies."""
    count_of, _ = shape_of(numbers)
    values = frequencies(width // 2, config["freq_shift"])[np.newaxis]
    angles = b.binary(scope, "Mul", numbers, b.constant(f"{scope}.frequencies", values))
    parts = [b.unary(scope, "Sin", angles), b.unary(scope, "Cos", angles)]
    if config["flip_sin_to_cos"]:
        parts.reverse()
    if width % 2:
        parts.append(b.full(0.0, count_of, 1))
    return b.concat(scope, 1, *parts)


def frequencies(count: int, shift: int = 0) -> np.ndarray:
    """float32 [count], from 1 down to about 1e-4."""
    # The exponent in float32, as diffusers' get_timestep_embedding has it; its exp rounded once, as torch's is (NumPy's
    # float32 exp is a bit off for a third of them). One bit of a frequency turns the angle of timestep 981 by 6e-5.
    exponent = np.float32(-math.log(10000)) * np.arange(count, dtype=np.float32) / np.float32(count - shift)
    return np.exp(exponent.astype(np.float64)).astype(np.float32)
