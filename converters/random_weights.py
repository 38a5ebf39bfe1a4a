"""A full-size model without any file, for benchmarks and tests: made-up weights under which every activation stays near 1.

Each tensor comes from its own generator, seeded with (seed, component, name), so any tensor can be made alone and again. Matrices and
kernels are uniform with variance GAIN^2 / fan_in, as in LeCun's "Efficient BackProp": a normalized input gives outputs of that
gain, no matter the width. Norms have weights around 1 and small biases; all differ, so that no two tensors can be mistaken for one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from ondevice.converters.component import Checkpoint, Component, check_joints, lazy
from ondevice.converters.configs import normalize
from ondevice.converters.expected import Shape, expected_weights
from ondevice.converters.families import Family, family_of
from ondevice.errors import UsageError

# The last layer of a residual branch: small, so that the sum of many branches stays near the size of one.
_BRANCH_ENDS = ("conv2", "to_out.0", "ff.net.2", "proj_out", "out_proj", "fc2")
_BRANCH_GAIN = 0.4
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
    if "embedding" in name and leaf == "weight" and "time_embedding" not in name:
        return 0.0, 0.5  # the text encoder's tables, which a layer norm follows
    if leaf == "bias":
        return 0.0, 0.1
    if len(shape) == 1:
        return 1.0, 0.2
    gain = _BRANCH_GAIN if layer.endswith(_BRANCH_ENDS) else _PICTURE_GAIN if layer == "decoder.conv_out" else 1.0
    return 0.0, gain * math.sqrt(3 / math.prod(shape[1:]))


def _weights(seed: int, component: str, config: dict[str, Any]) -> dict[str, ir.LazyTensor]:
    return {name: _one(seed, component, name, shape) for name, shape in expected_weights(component, config).items()}


def _one(seed: int, component: str, name: str, shape: Shape) -> ir.LazyTensor:
    return lazy(lambda: _values(seed, component, name, shape), ir.DataType.FLOAT, shape, name)


def random_checkpoint_from_configs(
    *,
    text_encoder: Mapping[str, Any],
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    seed: int,
    family: Family | str = "sd14",
) -> Checkpoint:
    """A checkpoint of any SD 1.x-structured shape with made-up float32 weights; scheduler and tokenizer are the family's.

    Raises CheckpointError for a config that is not supported, UsageError for a seed that is negative or over 64 bits.
    """
    if not 0 <= seed < 1 << 64:
        raise UsageError(
            f"the seed is out of range (got {seed}, expected 0 to 2^64 - 1).", where="--random-weights", fix="use a seed such as 0"
        )
    chosen = family_of(family)
    source = f"random weights, seed {seed}"
    raw = {"text_encoder": text_encoder, "unet": unet, "vae": vae}
    configs = {name: normalize(name, config, f"{source}: {name}") for name, config in raw.items()}
    components = {name: Component(config, _weights(seed, name, config)) for name, config in configs.items()}
    check_joints(components, source)
    return Checkpoint(components, chosen.scheduler(), chosen.tokenizer(), chosen.name, source)


def random_checkpoint(family: Family | str, seed: int) -> Checkpoint:
    """A checkpoint of the family's full size with made-up float32 weights, the same ones for the same seed. Needs no file."""
    chosen = family_of(family)
    text_encoder, unet, vae = (chosen.config(name) for name in ("text_encoder", "unet", "vae"))
    return random_checkpoint_from_configs(text_encoder=text_encoder, unet=unet, vae=vae, seed=seed, family=chosen)
