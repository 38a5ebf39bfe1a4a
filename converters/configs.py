"""Component configs: the checkpoint's config.json with diffusers' defaults filled in, every value checked.

A key that changes the architecture in a way our graphs do not build is refused by name; a key that only steers training or the
reference implementation (dropout, upcast_attention, ...) passes through. Defaults are those of diffusers 0.42
(UNet2DConditionModel, AutoencoderKL) and transformers 5 (CLIPTextConfig); configs written by older versions leave many keys out.
A value that diffusers treats as another one (a list of equal entries as the entry, 1 as 1.0) is brought to one spelling; one that
diffusers itself fails on (4.0 channels) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ondevice.converters.read.kinds import kind_of_unet
from ondevice.errors import CheckpointError

COMPONENTS = ("text_encoder", "unet", "vae")
_WIDEST = 1 << 20
_DEEPEST = 256
_LONGEST = 1024  # tokens of a text; the causal mask is a constant of the graph, of their square
_LATENTS = 64  # channels of latents, and pixels a latent, that a bundle can say
_VAE_LEVELS = 7


def _as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Key:
    """One config key: its default, a test, and the test in words. `default=REQUIRED` means that the key must be there.

    `plain` gives a value the spelling that is tested and kept; diffusers must treat both alike.
    """

    default: Any
    test: Callable[[Any], bool]
    words: str
    plain: Callable[[Any], Any] = _as_it_is
    fix: str = "use a Stable Diffusion 1.x model"


REQUIRED = object()
_ITS_CONFIG = "use the config.json that came with the weights"


def _is_int(value: Any, top: int) -> bool:
    return type(value) is int and 1 <= value <= top


def _count(default: Any, top: int = _WIDEST) -> Key:
    return Key(default, lambda v: _is_int(v, top), f"a whole number from 1 to {top}")


def _counts(default: Any, most: int = 16) -> Key:
    return Key(
        default,
        lambda v: isinstance(v, list) and 1 <= len(v) <= most and all(_is_int(x, _WIDEST) for x in v),
        f"a list of 1 to {most} whole numbers from 1 to {_WIDEST}",
    )


def _one_of_equals(value: Any) -> Any:
    """The entry of a list, one a level, whose entries are all the same."""
    same = isinstance(value, list) and value and all(type(x) is type(value[0]) and x == value[0] for x in value)
    return value[0] if same else value


def _per_level(key: Key) -> Key:
    """A key that diffusers also takes as a list of one entry a level; here the levels must agree."""
    return Key(key.default, key.test, f"{key.words}, the same at every level", _one_of_equals)


def _count_or_counts(default: Any) -> Key:
    one, many = _count(default), _counts(default)
    return Key(default, lambda v: one.test(v) or many.test(v), f"{one.words}, or {many.words}")


def _only(*values: Any) -> Key:
    # `type` too, because 1 == True in Python and a config that says 1 for true is damaged.
    return Key(values[0], lambda v: any(v == x and type(v) is type(x) for x in values), " or ".join(map(repr, values)))


def _switch(default: bool, *values: bool) -> Key:
    """true or false; diffusers takes null for false."""
    key = _only(default, *values)
    return Key(key.default, key.test, key.words, lambda v: False if v is None else v)


def _number(default: Any, low: float = 0.0) -> Key:
    """A float, which some write as a whole number where it is one."""

    def plain(value: Any) -> Any:
        return float(value) if type(value) is int and abs(value) < 1e6 else value

    return Key(default, lambda v: type(v) is float and low < v < 1e6, f"a number above {low:g} and below 1e6", plain)


def _activation(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


_ACT_FN = Key("silu", lambda v: v in ("silu", "swish"), "'silu' or 'swish'", _activation)


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


def _block_types(default: list[str], *values: str) -> Key:
    """Types of a UNet's blocks, which diffusers takes under the names of its first versions, too (UNetResDownBlock2D)."""

    def plain(value: Any) -> Any:
        return [x.removeprefix("UNetRes") if isinstance(x, str) else x for x in value] if isinstance(value, list) else value

    key = _each(default, *values)
    return Key(key.default, key.test, key.words, plain)


_TEXT_ENCODER = {
    "vocab_size": _count(49408),
    "hidden_size": _count(REQUIRED),
    "intermediate_size": _count(REQUIRED),
    "num_hidden_layers": _count(REQUIRED, _DEEPEST),
    "num_attention_heads": _count(REQUIRED),
    "max_position_embeddings": _count(77, _LONGEST),
    "hidden_act": _only("quick_gelu", "gelu"),
    "layer_norm_eps": _number(1e-5),
}


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, list) and len(value) == 2 else [value]
    return value is None or all(_is_int(side, _WIDEST) for side in sides)


_UNET = {
    "sample_size": Key(
        None, _is_size, "null, a whole number from 1, or two: [height, width]", fix="write 64 there, as Stable Diffusion 1.x has it"
    ),
    "in_channels": _count(4),
    "out_channels": _count(4),
    "block_out_channels": _counts([320, 640, 1280, 1280]),
    "down_block_types": _block_types(["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "CrossAttnDownBlock2D", "DownBlock2D"),
    "mid_block_type": _only("UNetMidBlock2DCrossAttn"),
    "up_block_types": _block_types(["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": _per_level(_count(2, 32)),
    "cross_attention_dim": _per_level(_count(1280)),
    "attention_head_dim": _count_or_counts(8),
    "num_attention_heads": _only(None),
    "transformer_layers_per_block": _per_level(_only(1)),
    "use_linear_projection": _switch(False, True),
    "norm_num_groups": _count(32),
    "norm_eps": _number(1e-5),
    "act_fn": _ACT_FN,
    "flip_sin_to_cos": _only(True, False),
    "freq_shift": Key(0, lambda v: type(v) is int and v in (0, 1), "0 or 1", lambda v: int(v) if type(v) is float and v in (0, 1) else v),
    "center_input_sample": _switch(False),
    "only_cross_attention": _per_level(_only(False)),
    "dual_cross_attention": _switch(False),
    "downsample_padding": _only(1),
    "mid_block_scale_factor": _only(1, 1.0),
    "encoder_hid_dim": _only(None),
    "encoder_hid_dim_type": _only(None),
    "class_embed_type": _only(None),
    "num_class_embeds": _only(None),
    "projection_class_embeddings_input_dim": _only(None),
    "addition_embed_type": _only(None),
    "resnet_time_scale_shift": _only("default"),
    "time_embedding_type": _only("positional"),
    "time_embedding_dim": Key(None, lambda v: v is None or _is_int(v, _WIDEST), "null, or 4 times the first of block_out_channels"),
    "time_embedding_act_fn": _only(None),
    "timestep_post_act": _only(None),
    "time_cond_proj_dim": _only(None),
    "conv_in_kernel": _only(3),
    "conv_out_kernel": _only(3),
    "attention_type": _only("default"),
}

_VAE = {
    "in_channels": _count(3),
    "out_channels": _count(3),
    "latent_channels": _count(4, _LATENTS),
    "block_out_channels": _counts([64], _VAE_LEVELS),
    "down_block_types": _each(["DownEncoderBlock2D"], "DownEncoderBlock2D"),
    "up_block_types": _each(["UpDecoderBlock2D"], "UpDecoderBlock2D"),
    "layers_per_block": _count(1, 32),
    "norm_num_groups": _count(32),
    "act_fn": _ACT_FN,
    "scaling_factor": _number(0.18215, 1e-9),
    "shift_factor": _only(None, 0, 0.0),
    "latents_mean": _only(None),
    "latents_std": _only(None),
    "use_quant_conv": _only(True),
    "use_post_quant_conv": _only(True),
    "mid_block_add_attention": _only(True),
}

KEYS: dict[str, dict[str, Key]] = {"text_encoder": _TEXT_ENCODER, "unet": _UNET, "vae": _VAE}
_CLASSES = {"text_encoder": None, "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
# transformers writes a whole CLIP's config without what is the default of its text part.
_NESTED = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}


def normalize(component: str, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`raw` (a parsed config.json) with defaults filled in. Keys we do not know are kept, as diffusers does.

    A whole CLIP's config counts as that of its text part.

    Raises CheckpointError naming the key, its value and what is supported, and what the model is where that is known.
    """
    expected_class = _CLASSES[component]
    if expected_class and raw.get("_class_name", expected_class) not in (expected_class, f"Flax{expected_class}"):
        raise _refused("_class_name", raw["_class_name"], _only(expected_class), where)
    unset = raw.get("_use_default_values")  # diffusers' list of keys that it wrote and nobody chose
    config = {key: value for key, value in raw.items() if not (isinstance(unset, list) and key in unset)}
    if component == "text_encoder":
        config = _text_part(config)
    for name, key in KEYS[component].items():
        if name not in config:
            if key.default is REQUIRED:
                raise CheckpointError(f"config key {name!r} is missing.", where=where, fix=_ITS_CONFIG)
            config[name] = list(key.default) if isinstance(key.default, list) else key.default
        value = key.plain(config[name])
        if not key.test(value):
            raise _refused(name, config[name], key, where, kind_of_unet(raw) if component == "unet" else None)
        config[name] = value
    _CROSS_CHECKS[component](config, where)
    return config


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The text encoder's own keys where `config` is a whole CLIP's; else `config`."""
    for name in ("text_config", "text_config_dict"):  # the second where the first is null, as early versions of transformers wrote it
        if isinstance(config.get(name), dict):
            return _NESTED | config[name]
    return config


def _refused(name: str, value: Any, key: Key, where: str, kind: str | None = None) -> CheckpointError:
    if type(value) is float and value.is_integer() and key.test(int(value)):  # diffusers fails on these, too, and deep inside torch
        fix, kind = f"write {int(value)} there", None
    else:
        fix = key.fix
    shown = repr(value)
    shown = shown if len(shown) <= 120 else shown[:117] + "..."
    what = f"config key {name!r} is not supported (got {shown}, expected {key.words})" + (f": this is {kind}." if kind else ".")
    return CheckpointError(what, where=where, fix=fix)


def _divides(part: str, small: int, whole: str, big: int, where: str) -> None:
    if big % small:
        raise CheckpointError(f"{whole} {big} is not a multiple of {part} {small}.", where=where, fix=_ITS_CONFIG)


def _check_text_encoder(config: dict[str, Any], where: str) -> None:
    _divides("num_attention_heads", config["num_attention_heads"], "hidden_size", config["hidden_size"], where)


def _is_before(version: object, minor: int) -> bool:
    """Whether a version of diffusers is older than 0.`minor`."""
    parts = re.match(r"0\.(\d{1,6})(?!\d)", version) if isinstance(version, str) else None
    return parts is not None and int(parts[1]) < minor


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
    heads, size, time = config["attention_head_dim"], config.get("sample_size"), config["time_embedding_dim"]
    if type(size) is int and size < 64 and _is_before(config.get("_diffusers_version"), 9):
        config["sample_size"] = 64  # as diffusers' pipeline does: version 0.8 and older saved their default of 32 with models of 64
    if time not in (None, 4 * config["block_out_channels"][0]):
        raise _refused("time_embedding_dim", time, _UNET["time_embedding_dim"], where)
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
