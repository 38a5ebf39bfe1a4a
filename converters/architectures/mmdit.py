"""The denoiser of Stable Diffusion 3 and 3.5 (a MM-DiT, diffusers' SD3Transformer2DModel), in three graphs: what
depends on the texts alone (`condition`), what depends on the timestep and the pooled text alone (`modulation`, a third
of the weights), and the rest (`noise`).

Reference: "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (arXiv 2403.03206).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.architecture import Architecture, Config, Graph
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.architectures.layers import gemm, linear, silu
from ondevice.converters.architectures.mmdit_blocks import Blocks, modulated
from ondevice.converters.architectures.mmdit_config import CLASS, KEYS, check, inner, modulations
from ondevice.converters.architectures.unet_time import waves
from ondevice.errors import UsageError

MODULATION = "modulation_"
"""And a block's number, or LAST: ports of what modulates it."""
LAST = "out"
_WAVES = {"flip_sin_to_cos": True, "freq_shift": 0}
_TIME = 256  # sines and cosines of a timestep


def condition(b: GraphBuilder, config: Config, *, batch: int, **texts: int) -> ir.Model:
    """hidden float32 [batch, states, width], hidden_2 [batch, states, width_2], beside each other and padded with
    zeros, and below them hidden_3 [batch, states_3, joint_attention_dim], T5's -> context [batch, tokens, inner],
    embedded; pooled [batch, pooled] and pooled_2 [batch, the rest] -> added [batch, inner], embedded.

    Args:
        texts: `states`, `width`, `width_2`, `pooled` and `states_3`, as above; or, in the place of the last, `zeros`:
            how many rows of zeros stand below. One is enough (`noise`).
    """
    wide, states = config["joint_attention_dim"], texts["states"]
    parts = [
        b.input(name, (batch, states, texts[size])) for name, size in (("hidden", "width"), ("hidden_2", "width_2"))
    ]
    if rest := wide - texts["width"] - texts["width_2"]:
        parts.append(b.full(0.0, batch, states, rest))
    below = b.full(0.0, batch, texts["zeros"], wide) if "zeros" in texts else None
    below = b.input("hidden_3", (batch, texts["states_3"], wide)) if below is None else below
    rows = b.concat("context", 1, b.concat("context", 2, *parts), below)
    widths = texts["pooled"], config["pooled_projection_dim"] - texts["pooled"]
    text = (b.input(name, (batch, width)) for name, width in zip(("pooled", "pooled_2"), widths, strict=True))
    added = _embedded(b, config, "text_embedder", b.concat("pooled", 1, *text))
    return b.finish(context=linear(b, "context_embedder", rows, inner(config)), added=added)


def modulation(b: GraphBuilder, config: Config, *, batch: int) -> ir.Model:
    """timestep float32 [1], added [batch, inner] -> modulation_N [batch, k * inner] of each block, what modulates the
    picture's tokens and then what modulates the text's; modulation_out [batch, 2 * inner]."""
    timestep = b.input("timestep", (1,))
    added = b.input("added", (batch, inner(config)))
    angles = b.op("time_proj", "Unsqueeze", [timestep, b.ints(1)], (1, 1))
    time = _embedded(b, config, "timestep_embedder", waves(b, _WAVES, "time_proj", angles, _TIME))
    x = silu(b, "time_text_embed", b.binary("time_text_embed", "Add", added, time))
    found = {}
    for block in range(config["num_layers"]):
        scope = f"transformer_blocks.{block}"
        rows = dict(zip(("norm1", "norm1_context"), modulations(config, block), strict=True))
        layers = {f"{scope}.{norm}.linear": count * inner(config) for norm, count in rows.items()}
        # one product of both, whose weights stand beside each other once they are written
        weight = b.concat(scope, 1, *(b.transposed(f"{name}.weight", n, inner(config)) for name, n in layers.items()))
        bias = b.concat(scope, 0, *(b.weight(f"{name}.bias", n) for name, n in layers.items()))
        found[f"{MODULATION}{block}"] = b.binary(scope, "Add", b.matmul(scope, x, weight), bias)
    return b.finish(**found, **{f"{MODULATION}{LAST}": linear(b, "norm_out.linear", x, 2 * inner(config))})


def noise(
    b: GraphBuilder, config: Config, *, batch: int, height: int, width: int, context: int, zeros: int = 0
) -> ir.Model:
    """sample float32 [batch, c, height, width], encoder_hidden_states [batch, context, inner] of `condition`, and all
    of `modulation` -> out_sample [batch, c, height, width], where the sample moves.

    Args:
        zeros: how many rows of zeros the last row of the text stands for; 0: it stands for itself. Equal keys and
            values stay equal in all blocks, so one with the logarithm of their number added to its score is as good.
    """
    patch, wide = config["patch_size"], inner(config)
    rows, columns = height // patch, width // patch
    x = b.input("sample", (batch, config["in_channels"], height, width))
    e = b.input("encoder_hidden_states", (batch, context, wide))
    x = b.conv("pos_embed.proj", x, wide, patch, stride=patch, pads=(0, 0, 0, 0))
    x = b.transpose("pos_embed", b.reshape("pos_embed", x, 0, wide, rows * columns), 0, 2, 1)
    x = b.binary("pos_embed", "Add", x, b.constant(f"pos_embed.{rows}x{columns}", positions(config, rows, columns)))
    blocks = Blocks(b, config, _several(b, rows * columns + context, zeros))
    for block in range(config["num_layers"]):
        of_x, of_e = modulations(config, block)
        found = _rows(b, config, str(block), batch, of_x + of_e)
        x, e = blocks(block, x, e, found[:of_x], found[of_x:])
    scale, shift = _rows(b, config, LAST, batch, 2)
    out = config["out_channels"]
    y = linear(b, "proj_out", modulated(b, "norm_out", x, shift, scale), patch * patch * out)
    # a token is [patch row, patch column, channel]; in two steps, as kernels walk over four dimensions
    y = b.transpose("unpatchify", b.reshape("unpatchify", y, batch * rows, columns, patch, patch * out), 0, 2, 1, 3)
    y = b.transpose("unpatchify", b.reshape("unpatchify", y, batch, height * width, out), 0, 2, 1)
    return b.finish(out_sample=b.reshape("unpatchify", y, batch, out, height, width))


def positions(config: Config, rows: int, columns: int) -> np.ndarray:
    """float32 [1, rows * columns, inner]: sines and cosines of a patch's column, then of its row, cut from the middle
    of the largest picture's, whose patches are as far apart as those of pictures that the model was trained with.

    Reference: diffusers' PatchEmbed, cropped_pos_embed, and get_2d_sincos_pos_embed; to the bit.

    Raises:
        UsageError: the picture is larger than the largest.
    """
    size, quarter = config["pos_embed_max_size"], inner(config) // 4
    base = config["sample_size"] // config["patch_size"]
    if max(rows, columns) > size:
        what = f"it has {columns}x{rows} patches (expected at most {size} a side, pos_embed_max_size)."
        raise UsageError(what, where="--size", fix="use a smaller size")
    places = np.arange(size, dtype=np.float32) / np.float32(size / base)
    angles = np.outer(places.astype(np.float64), 1 / 10000 ** (np.arange(quarter, dtype=np.float64) / quarter))
    codes = np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)
    of_rows, of_columns = (codes[(size - count) // 2 :][:count] for count in (rows, columns))
    table = np.concatenate([np.tile(of_columns, (rows, 1)), np.repeat(of_rows, columns, 0)], 1)
    return table[np.newaxis]


def _several(b: GraphBuilder, keys: int, zeros: int) -> ir.Value | None:
    """[1, 1, 1, keys]: what the scores get so that the last key counts as so many."""
    if not zeros:
        return None
    mask = np.zeros((1, 1, 1, keys), np.float32)
    mask[..., -1] = math.log(zeros)
    return b.constant(f"several_keys.{keys}.{zeros}", mask)


def _rows(b: GraphBuilder, config: Config, name: str, batch: int, count: int) -> list[ir.Value]:
    """What a port has, each [batch, 1, inner]."""
    scope, width = f"{MODULATION}{name}", inner(config)
    given = b.reshape(scope, b.input(scope, (batch, count * width)), batch, 1, count * width)
    return list(b.op(scope, "Split", [given], *[(batch, 1, width)] * count, axis=-1, num_outputs=count))


def _embedded(b: GraphBuilder, config: Config, name: str, x: ir.Value) -> ir.Value:
    """Two linear layers and what is between them."""
    scope = f"time_text_embed.{name}"
    y = gemm(b, f"{scope}.linear_1", x, inner(config))
    return gemm(b, f"{scope}.linear_2", silu(b, scope, y), inner(config))


def unshared(config: Config, ranks: int) -> str | None:
    """Why so many ranks cannot share its blocks; None where they can."""
    heads = config["num_attention_heads"]
    return f"attention has {heads} heads, which {ranks} cannot share." if heads % ranks else None


_TEXTS = ("batch", "states", "width", "width_2", "pooled", "states_3")
MMDIT = Architecture(
    name="mmdit",
    word="MM-DiT",
    keys=KEYS,
    graphs={
        "condition": Graph(condition, sizes=_TEXTS),
        "modulation": Graph(modulation, sizes=("batch",)),
        "noise": Graph(noise, sizes=("batch", "height", "width", "context"), unshared=unshared),
    },
    check=check,
    classes=(CLASS,),
    pieces=lambda config: int(config["patch_size"]),
)
