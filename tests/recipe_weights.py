"""Weights of the reference vectors in tests/data/families, as a function of their names alone.

seed = the first 8 bytes of sha256("salt/name"); splitmix64 from it gives one number per element, of which 24
bits are kept.
"""

import hashlib
import json
import math

import numpy as np
import onnx_ir as ir
from checkpoint_files import DATA

from ondevice.converters.component import Checkpoint, Component
from ondevice.converters.families import FAMILIES

SDXL = {
    "text_encoder": "sdxl_text_encoder",
    "text_encoder_2": "sdxl_text_encoder_2",
    "unet": "sdxl_unet",
    "vae": "sdxl_vae",
}
PARTS = {  # family -> part: the case that has its config and salt
    "sd21": {"text_encoder": "sd2_text_encoder", "unet": "sd2_unet", "vae": "sd2_vae"},
    "sdxl": SDXL,
    "sdxl-turbo": SDXL,
    "sdxl-refiner": {"text_encoder_2": "sdxl_text_encoder_2", "unet": "sdxl_refiner_unet", "vae": "sdxl_vae"},
    "sd3": {
        "text_encoder": "sd3_text_encoder",
        "text_encoder_2": "sd3_text_encoder_2",
        "text_encoder_3": "t5_encoder",
        "transformer": "sd3_transformer",
        "vae": "sd3_vae",
    },
    "lcm": {"text_encoder": "sd2_text_encoder", "unet": "lcm_unet", "vae": "sd2_vae"},
}
PARTS["svd"] = {"image_encoder": "svd_image_encoder", "unet": "svd_unet", "vae": "svd_vae"}
PARTS["sd3-without-t5"] = {part: name for part, name in PARTS["sd3"].items() if part != "text_encoder_3"}
PARTS["sd35-medium"] = PARTS["sd3"] | {"transformer": "sd35_transformer"}
CHANGES = {("sd35-medium", "text_encoder_3"): {"max_position_embeddings": 77}}
"""What a family's case has of its own."""
_TABLES = ("token_embedding", "position_embedding", "shared", "relative_attention_bias")
_BRANCH_ENDS = ("conv2", "to_out.0", "ff.net.2", "proj_out", "out_proj", "fc2", "to_add_out", "ff_context.net.2")
_BRANCH_ENDS += ("SelfAttention.o", "wo")
_MODULATIONS = ("norm1.linear", "norm1_context.linear", "norm_out.linear")


def uniform(salt, name, shape):
    """float32 in [-0.5, 0.5)."""
    seed = int.from_bytes(hashlib.sha256(f"{salt}/{name}".encode()).digest()[:8], "little")
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24) - np.float32(0.5)).reshape(shape)


def weight(salt, name, shape):
    """float32 values of one tensor."""
    layer, _, leaf = name.rpartition(".")
    gain = 0.5 if layer.endswith(_BRANCH_ENDS) else 1.0
    center, spread = 0.0, gain * 2 * math.sqrt(3.0 / math.prod(shape[1:]))
    if leaf == "mix_factor":  # so that no two blenders are alike
        center, spread = 0.3, 2.0
    elif leaf == "class_embedding" or layer.endswith(_TABLES):
        spread = 1.0
    elif leaf == "bias":
        spread = 0.2
    elif len(shape) == 1:
        center, spread = 1.0, 0.4
    elif layer.endswith(_MODULATIONS):
        spread = 1.0 / math.sqrt(shape[1])
    return np.float32(center) + np.float32(spread) * uniform(salt, name, shape)


def case(name):
    """(config, salt, arrays "in.*" and "out.*") of a case."""
    family = name.partition("_")[0]
    about = json.loads((DATA / "families" / f"{family}.json").read_text())[name]
    with np.load(DATA / "families" / f"{name}.npz") as held:
        return about["config"], about["salt"], dict(held)


def weights(architecture, config, salt):
    """Every weight of a normalized config, by its on-disk name."""
    return {
        name: ir.tensor(weight(salt, name, shape), name=name) for name, shape in architecture.weights(config).items()
    }


def checkpoint(family, scheduler):
    """The family's tiny model with the recipe's weights."""
    components = {}
    for part, name in PARTS[family.name].items():
        raw, salt, _ = case(name)
        raw |= CHANGES.get((family.name, part), {})
        config = family.normalize(part, raw, "test")
        components[part] = Component(config, weights(family.parts[part].architecture, config, salt))
    tokenized = FAMILIES["sd21"] if family.name == "lcm" else family  # as in the reference, whose text is 2.x's
    tokenizers = {name: tokenized.tokenizer(name) for name in family.tokenizers}
    return Checkpoint(components, scheduler, tokenizers, family.name, "test")
