"""Component configs: the checkpoint's config.json with diffusers' defaults filled in, every value checked.

A key that changes the architecture in a way our graphs do not build is refused by name; a key that only steers training or the
reference implementation (dropout, upcast_attention, ...) passes through. Defaults are those of diffusers 0.42
(UNet2DConditionModel, AutoencoderKL) and transformers 5 (CLIPTextConfig); configs written by older versions leave many keys out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ondevice.errors import CheckpointError

COMPONENTS = ("text_encoder", "unet", "vae")
_WIDEST = 1 << 20
_DEEPEST = 256


@dataclass(frozen=True)
class Key:
    """One config key: its default, a test, and the test in words. `default=REQUIRED` means that the key must be there."""

    default: Any
    test: Callable[[Any], bool]
    words: str


REQUIRED = object()
_ITS_CONFIG = "use the config.json that came with the weights"


def _is_int(value: Any, top: int) -> bool:
    return type(value) is int and 1 <= value <= top


def _count(default: Any, top: int = _WIDEST) -> Key:
    return Key(default, lambda v: _is_int(v, top), f"a whole number from 1 to {top}")


def _counts(default: Any) -> Key:
    return Key(
        default,
        lambda v: isinstance(v, list) and 1 <= len(v) <= 16 and all(_is_int(x, _WIDEST) for x in v),
        f"a list of 1 to 16 whole numbers from 1 to {_WIDEST}",
    )


def _count_or_counts(default: Any) -> Key:
    one, many = _count(default), _counts(default)
    return Key(default, lambda v: one.test(v) or many.test(v), f"{one.words}, or {many.words}")


def _only(*values: Any) -> Key:
    # `type` too, because 1 == True in Python and a config that says 1 for true is damaged.
    return Key(values[0], lambda v: any(v == x and type(v) is type(x) for x in values), " or ".join(map(repr, values)))


def _number(default: Any) -> Key:
    return Key(default, lambda v: type(v) in (int, float) and 0 < v < 1e6, "a number above 0 and below 1e6")


def _each(default: Any, *values: str) -> Key:
    return Key(
        default,
        lambda v: (
            isinstance(v, list)
            and 1 <= len(v) <= 16
            and all(x in values for x in v if isinstance(x, str))
            and all(isinstance(x, str) for x in v)
        ),
        "a list of 1 to 16 out of " + ", ".join(values),
    )


_TEXT_ENCODER = {
    "vocab_size": _count(49408),
    "hidden_size": _count(REQUIRED),
    "intermediate_size": _count(REQUIRED),
    "num_hidden_layers": _count(REQUIRED, _DEEPEST),
    "num_attention_heads": _count(REQUIRED),
    "max_position_embeddings": _count(77),
    "hidden_act": _only("quick_gelu", "gelu"),
    "layer_norm_eps": _number(1e-5),
}

_UNET = {
    "in_channels": _count(4),
    "out_channels": _count(4),
    "block_out_channels": _counts([320, 640, 1280, 1280]),
    "down_block_types": _each(["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "CrossAttnDownBlock2D", "DownBlock2D"),
    "mid_block_type": _only("UNetMidBlock2DCrossAttn"),
    "up_block_types": _each(["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": _count(2, 32),
    "cross_attention_dim": _count(1280),
    "attention_head_dim": _count_or_counts(8),
    "num_attention_heads": _only(None),
    "transformer_layers_per_block": _only(1),
    "use_linear_projection": _only(False, True),
    "norm_num_groups": _count(32),
    "norm_eps": _number(1e-5),
    "act_fn": _only("silu", "swish"),
    "flip_sin_to_cos": _only(True, False),
    "freq_shift": _only(0, 1),
    "center_input_sample": _only(False),
    "only_cross_attention": _only(False),
    "dual_cross_attention": _only(False),
    "downsample_padding": _only(1),
    "mid_block_scale_factor": _only(1, 1.0),
    "mid_block_only_cross_attention": _only(None, False),
    "encoder_hid_dim": _only(None),
    "encoder_hid_dim_type": _only(None),
    "class_embed_type": _only(None),
    "num_class_embeds": _only(None),
    "projection_class_embeddings_input_dim": _only(None),
    "addition_embed_type": _only(None),
    "resnet_time_scale_shift": _only("default"),
    "resnet_skip_time_act": _only(False),
    "resnet_out_scale_factor": _only(1.0, 1),
    "time_embedding_type": _only("positional"),
    "time_embedding_dim": _only(None),
    "time_embedding_act_fn": _only(None),
    "timestep_post_act": _only(None),
    "time_cond_proj_dim": _only(None),
    "conv_in_kernel": _only(3),
    "conv_out_kernel": _only(3),
    "attention_type": _only("default"),
    "cross_attention_norm": _only(None),
}

_VAE = {
    "in_channels": _count(3),
    "out_channels": _count(3),
    "latent_channels": _count(4),
    "block_out_channels": _counts([64]),
    "down_block_types": _each(["DownEncoderBlock2D"], "DownEncoderBlock2D"),
    "up_block_types": _each(["UpDecoderBlock2D"], "UpDecoderBlock2D"),
    "layers_per_block": _count(1, 32),
    "norm_num_groups": _count(32),
    "act_fn": _only("silu", "swish"),
    "scaling_factor": _number(0.18215),
    "shift_factor": _only(None),
    "latents_mean": _only(None),
    "latents_std": _only(None),
    "use_quant_conv": _only(True),
    "use_post_quant_conv": _only(True),
    "mid_block_add_attention": _only(True),
}

KEYS: dict[str, dict[str, Key]] = {"text_encoder": _TEXT_ENCODER, "unet": _UNET, "vae": _VAE}
_CLASSES = {"text_encoder": None, "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}


def normalize(component: str, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`raw` (a parsed config.json) with defaults filled in. Keys we do not know are kept, as diffusers does.

    Raises CheckpointError naming the key, its value and what is supported.
    """
    expected_class = _CLASSES[component]
    if expected_class and raw.get("_class_name", expected_class) != expected_class:
        raise _refused("_class_name", raw["_class_name"], repr(expected_class), where)
    config = dict(raw)
    for name, key in KEYS[component].items():
        if name not in config:
            if key.default is REQUIRED:
                raise CheckpointError(f"config key {name!r} is missing.", where=where, fix=_ITS_CONFIG)
            config[name] = list(key.default) if isinstance(key.default, list) else key.default
        if not key.test(config[name]):
            raise _refused(name, config[name], key.words, where)
    _CROSS_CHECKS[component](config, where)
    return config


def _refused(name: str, value: Any, words: str, where: str) -> CheckpointError:
    shown = repr(value)
    shown = shown if len(shown) <= 120 else shown[:117] + "..."
    return CheckpointError(
        f"config key {name!r} is not supported (got {shown}, expected {words}).", where=where, fix="use a Stable Diffusion 1.x model"
    )


def _divides(part: str, small: int, whole: str, big: int, where: str) -> None:
    if big % small:
        raise CheckpointError(f"{whole} {big} is not a multiple of {part} {small}.", where=where, fix=_ITS_CONFIG)


def _check_text_encoder(config: dict[str, Any], where: str) -> None:
    _divides("num_attention_heads", config["num_attention_heads"], "hidden_size", config["hidden_size"], where)


def _same_length(config: dict[str, Any], where: str, *names: str) -> None:
    levels = len(config["block_out_channels"])
    for name in names:
        if len(config[name]) != levels:
            raise CheckpointError(
                f"config key {name!r} has {len(config[name])} entries and block_out_channels has {levels}.",
                where=where,
                fix=_ITS_CONFIG,
            )


def _check_unet(config: dict[str, Any], where: str) -> None:
    heads = config["attention_head_dim"]
    _same_length(config, where, "down_block_types", "up_block_types", *(["attention_head_dim"] if isinstance(heads, list) else []))
    if config["block_out_channels"][0] // 2 <= config["freq_shift"]:  # half of the first width is the number of time frequencies
        raise CheckpointError("block_out_channels begins too narrow for the time embedding.", where=where, fix=_ITS_CONFIG)
    for level, channels in enumerate(config["block_out_channels"]):
        _divides("norm_num_groups", config["norm_num_groups"], "block_out_channels", channels, where)
        # attention_head_dim is the number of heads: a misnomer that diffusers keeps for old checkpoints.
        _divides("attention_head_dim", heads[level] if isinstance(heads, list) else heads, "block_out_channels", channels, where)


def _check_vae(config: dict[str, Any], where: str) -> None:
    _same_length(config, where, "down_block_types", "up_block_types")
    for channels in config["block_out_channels"]:
        _divides("norm_num_groups", config["norm_num_groups"], "block_out_channels", channels, where)


_CROSS_CHECKS = {"text_encoder": _check_text_encoder, "unet": _check_unet, "vae": _check_vae}
