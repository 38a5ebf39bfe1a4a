"""A full-size model without any file, for benchmarks and tests:
made-up weights under which every activation stays near 1.

Each tensor comes from its own generator, seeded with (seed, component, name), so any tensor can be made alone and
again. Matrices and kernels are uniform with variance GAIN^2 / fan_in, as in LeCun's "Efficient BackProp": a normalized
input gives outputs of that gain, no matter the width. Norms have weights around 1 and small biases; all differ, so that
no two tensors can be mistaken for one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.converters.architectures.builder import Shape
from ondevice.converters.component import Checkpoint, Component, lazy
from ondevice.converters.families import Family, check_joints, family_of
from ondevice.errors import UsageError

# The last layer of a residual branch: small, so that the sum of many branches stays near the size of one.
_OF_TRANSFORMERS = ("to_add_out", "ff_context.net.2", "SelfAttention.o", "DenseReluDense.wo")
_BRANCH_ENDS = (
    "conv2",
    "to_out.0",
    "ff.net.2",
    "ff_in.net.2",
    "proj_out",
    "out_proj",
    "fc2",
    "conv.4",
    *_OF_TRANSFORMERS,
)
_BRANCH_GAIN = 0.4
# what scales, shifts and gates: mostly well below 1
_MODULATIONS, _MODULATION_GAIN = ("norm1.linear", "norm1_context.linear", "norm_out.linear"), 0.3
# which a layer norm follows; other embeddings (add_embedding, ...) are layers
_TABLES = ("token_embedding", "position_embedding", "shared", "relative_attention_bias")
_PICTURE_GAIN = 0.5  # the decoder's last layer: most pixels then lie inside [-1, 1]


def _values(seed: int, component: str, name: str, shape: Shape) -> np.ndarray:
    """float32 values of one tensor."""
    digest = hashlib.sha256(f"{component}/{name}".encode()).digest()
    words = np.frombuffer(digest, "<u4").astype(np.uint64).tolist()
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))
    values = rng.random(shape, dtype=np.float32)
    center, spread = _center_and_spread(name, shape)
    values -= np.float32(0.5)
    values *= np.float32(2 * spread)
    values += np.float32(center)
    return values


def _center_and_spread(name: str, shape: Shape) -> tuple[float, float]:
    """Uniform values lie in center +- spread."""
    layer, _, leaf = name.rpartition(".")
    if leaf == "mix_factor":  # a blender's sigmoid of it
        return 0.0, 1.0
    if leaf == "class_embedding" or layer.endswith(_TABLES):
        return 0.0, 0.5
    if leaf == "bias":
        return 0.0, 0.1
    if len(shape) == 1:
        return 1.0, 0.2
    gain = _BRANCH_GAIN if layer.endswith(_BRANCH_ENDS) else _PICTURE_GAIN if layer == "decoder.conv_out" else 1.0
    gain = _MODULATION_GAIN if layer.endswith(_MODULATIONS) else gain
    return 0.0, gain * math.sqrt(3 / math.prod(shape[1:]))


def _one(seed: int, component: str, name: str, shape: Shape) -> ir.LazyTensor:
    return lazy(lambda: _values(seed, component, name, shape), ir.DataType.FLOAT, shape, name)


def random_checkpoint_from_configs(
    *, seed: int, family: Family | str = "sd14", **configs: Mapping[str, Any]
) -> Checkpoint:
    """A checkpoint of any shape that is structured as the family, with made-up float32 weights;
    scheduler and tokenizers are the family's.

    `configs`: one per part of the family, such as unet={...}.

    Raises CheckpointError for a config that is not supported, UsageError for a seed that is negative or over 64 bits.
    """
    if not 0 <= seed < 1 << 64:
        raise UsageError(
            f"the seed is out of range (got {seed}, expected 0 to 2^64 - 1).",
            where="--random-weights",
            fix="use a seed such as 0",
        )
    chosen = family_of(family)
    source = f"random weights, seed {seed}"
    normal = {part: chosen.normalize(part, configs[part], f"{source}: {part}") for part in chosen.parts}
    check_joints(chosen, normal, source)
    components = {}
    for part, config in normal.items():
        components[part] = random_component(chosen, part, config, seed)
    tokenizers = {name: chosen.tokenizer(name) for name in chosen.tokenizers}
    return Checkpoint(components, chosen.scheduler(), tokenizers, chosen.name, source)


def random_component(family: Family, part: str, config: dict[str, Any], seed: int) -> Component:
    """A part of a family with made-up float32 weights; `config` is a normalized one."""
    shapes = family.parts[part].architecture.weights(config)
    return Component(config, {name: _one(seed, part, name, shape) for name, shape in shapes.items()})


def random_checkpoint(family: Family | str, seed: int) -> Checkpoint:
    """A checkpoint of the family's full size with made-up float32 weights,
    the same ones for the same seed. Needs no file."""
    chosen = family_of(family)
    return random_checkpoint_from_configs(
        seed=seed, family=chosen, **{part: chosen.config(part) for part in chosen.parts}
    )
