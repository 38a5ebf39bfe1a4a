"""Tiny checkpoints of every family: configs of its own for a family, and its single file in the original layout."""

from dataclasses import replace

import numpy as np
from checkpoint_files import SCHEDULER, TINY_TEXT, TINY_UNET, TINY_VAE, arrays_of, write_json, write_safetensors

from ondevice.converters.families import FAMILIES

TINY = {
    "sd21": {
        "text_encoder": TINY_TEXT | {"hidden_act": "gelu"},
        "unet": TINY_UNET | {"use_linear_projection": True, "attention_head_dim": [3, 4]},
        "vae": TINY_VAE,
    },
    "sdxl": {
        "text_encoder": TINY_TEXT,
        "text_encoder_2": TINY_TEXT
        | {"hidden_size": 24, "num_hidden_layers": 3, "hidden_act": "gelu", "projection_dim": 10, "eos_token_id": 2},
        "unet": TINY_UNET
        | {
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2],
            "use_linear_projection": True,
            "cross_attention_dim": 44,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 6,
            "projection_class_embeddings_input_dim": 46,
        },
        "vae": TINY_VAE | {"force_upcast": True, "scaling_factor": 0.13025},
    },
}
XL = TINY["sdxl"]
TINY |= {
    "lcm": {"text_encoder": TINY_TEXT, "unet": TINY_UNET | {"time_cond_proj_dim": 10}, "vae": TINY_VAE},
    "sd15-inpaint": {"text_encoder": TINY_TEXT, "unet": TINY_UNET | {"in_channels": 9}, "vae": TINY_VAE},
    "sd2-inpaint": TINY["sd21"] | {"unet": TINY["sd21"]["unet"] | {"in_channels": 9}},
    "sdxl-inpaint": XL | {"unet": XL["unet"] | {"in_channels": 9}},
    "instruct-pix2pix": {"text_encoder": TINY_TEXT, "unet": TINY_UNET | {"in_channels": 8}, "vae": TINY_VAE},
    "sdxl-instruct-pix2pix": XL | {"unet": XL["unet"] | {"in_channels": 8}},
    "sdxl-refiner": {
        "text_encoder_2": XL["text_encoder_2"],
        "unet": XL["unet"] | {"cross_attention_dim": 24, "projection_class_embeddings_input_dim": 40},
        "vae": XL["vae"],
    },
}
"""Configs of the smallest model of each family that has all its layers."""
TINY["sd3"] = {
    "text_encoder": TINY_TEXT | {"projection_dim": 20, "eos_token_id": 2},
    "text_encoder_2": XL["text_encoder_2"],
    "text_encoder_3": {"d_model": 48, "d_kv": 8, "d_ff": 40, "num_heads": 3, "num_layers": 2, "vocab_size": 32100}
    | {"feed_forward_proj": "gated-gelu", "max_position_embeddings": 32},
    "transformer": {"sample_size": 8, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2}
    | {"in_channels": 4, "out_channels": 4, "joint_attention_dim": 48, "caption_projection_dim": 16}
    | {"pooled_projection_dim": 30, "pos_embed_max_size": 6, "dual_attention_layers": [0], "qk_norm": "rms_norm"},
    "vae": TINY_VAE
    | {"use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 1.5305, "shift_factor": 0.0609},
}
TINY["sd3-without-t5"] = {part: config for part, config in TINY["sd3"].items() if part != "text_encoder_3"}
TINY_VIDEO = {
    "image_encoder": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"patch_size": 32, "image_size": 224, "hidden_act": "gelu", "projection_dim": 24},
    "unet": {"_class_name": "UNetSpatioTemporalConditionModel", "sample_size": [8, 12], "num_frames": 3}
    | {"block_out_channels": [32, 64], "layers_per_block": 1, "num_attention_heads": [2, 4], "cross_attention_dim": 24}
    | {"down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"]}
    | {"up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"]}
    | {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24},
    "vae": {"_class_name": "AutoencoderKLTemporalDecoder", "block_out_channels": [32, 64], "layers_per_block": 2}
    | {"down_block_types": ["DownEncoderBlock2D"] * 2, "force_upcast": True},
}
"""Configs of the smallest model of films that has all its layers: three frames of 8x12 latents."""

SMALL = {
    "sdxs": {
        "text_encoder": TINY_TEXT | {"max_position_embeddings": 248},
        "unet": TINY_UNET | {"mid_block_type": None, "layers_per_block": [2, 1], "only_cross_attention": [True, False]},
        "vae": TINY_VAE,
    },
    "ssd-1b": TINY["sdxl"]
    | {
        "unet": TINY["sdxl"]["unet"]
        | {
            "mid_block_type": "UNetMidBlock2D",
            "layers_per_block": 2,
            "transformer_layers_per_block": [1, [2, 1]],
            "reverse_transformer_layers_per_block": [[1, 2, 1], 1],
        }
    },
}
"""The same of UNets with other blocks: none in the middle, or one that does not attend; numbers per level and block;
and a text encoder of longer texts."""


def convert_as(title):
    """What is said to do with a model of a kind that other families are of."""
    names = [name for name, family in FAMILIES.items() if family.title == title and family.base is None]
    return f"Fix: convert it as the model that it is: ondevice convert {' or '.join(names)}."


def tiny_of(family, folder, configs):
    """`family` with the tiny `configs`, for single files."""
    for part, config in configs.items():
        write_json(folder / part / "config.json", config)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    for tokenizer in family.tokenizers:
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            write_json(folder / tokenizer / name, {})
    return replace(family, folder=folder)


def write_tree(root, checkpoint, family, configs):
    """The checkpoint as a diffusers folder."""
    tiny_of(family, root, configs)
    write_json(root / "model_index.json", {"_class_name": family.pipelines[0]})
    for name, files in checkpoint.tokenizers.items():
        for file, data in files.items():
            (root / name / file).write_bytes(data)
    for part, component in checkpoint.components.items():
        stem = family.parts[part].architecture.stems[0]
        arrays = {name: tensor.numpy() for name, tensor in component.weights.items()}
        write_safetensors(root / part / f"{stem}.safetensors", arrays)


def original(checkpoint, family):
    """All weights as the single file has them: parts of rows stacked again."""
    stacks = {}
    for part, component in checkpoint.components.items():
        for name, place in family.parts[part].original_names(component.config).items():
            array = component.weights[name].numpy()
            array = np.concatenate(np.split(array, 2)[::-1]) if place.swapped else array
            stacks.setdefault(place.name, {})[place.part] = array.T if place.transposed else array
    return {name: np.concatenate([rows[i] for i in range(len(rows))]) for name, rows in stacks.items()}


def same(found, expected):
    for part in expected.components:
        theirs = arrays_of(found, part)
        assert list(theirs) == list(expected.components[part].weights)
        for name, array in arrays_of(expected, part).items():
            np.testing.assert_array_equal(theirs[name], array, err_msg=name)
