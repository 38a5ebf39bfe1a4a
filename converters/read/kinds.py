"""What weights are that are no whole checkpoint of the family that is asked for, by their names,
so that a refusal says it.

A name in the original layout that belongs to the family matches no row of the table but the family's own; no configs or
data are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ondevice.converters.architectures.builder import Shape
from ondevice.converters.families import Family, advice

_ANOTHER = ""  # the fix where only another file helps
_NOT = ", not {family}"
_UNQUANTIZED = "use the fp16 or fp32 file of the same model"
_ITS_BASE = "give the checkpoint that it goes with; it is not used here"
_FUSE = "give the checkpoint that it was trained for, and this file beside it with --lora"
_ADD_TOKEN = "give the checkpoint that it was trained for, and this file beside it with --embedding"
_WITH_NET = "give the checkpoint that it goes with, and this one beside it with --controlnet"
_WITH_UNET = "give the checkpoint or folder that it goes with, and this one beside it with --unet"
_WITH_VAE = "give the checkpoint or folder that it goes with, and this one beside it with --vae"
_WITH_TINY = "give the checkpoint that it goes with, and this one beside it with --taesd or --vae"
_WITH_TEXT = "give the checkpoint or folder that it goes with, and this one beside it with --text-encoder"
_LOOKED_AT = 300  # characters of a name

# (what it is, after "this is "; what its names begin with, as a regular expression; what can be done)
_ROWS = (
    (
        "quantized by bitsandbytes",
        r".*\.(absmax|nested_absmax|quant_map|nested_quant_map|SCB|weight_format)$|.*\.quant_state\.bitsandbytes",
        _UNQUANTIZED,
    ),
    (
        "a file of fp8 weights with scales beside them",
        r"scaled_fp8$|.*\.(scale_weight|scale_input|weight_scale|input_scale|weight_scale_inv)$",
        _UNQUANTIZED,
    ),
    (
        "quantized",
        r".*\.(qweight|qzeros|g_idx|comfy_quant|weight_packed|weight\._data|weight\._scale)$|.*\._packed_params",
        _UNQUANTIZED,
    ),
    (
        "a LoRA (or its kin), not a whole checkpoint",
        r"(lora|lycoris|oft|boft)_(unet|te\d?|text_encoder|transformer)_|base_model\.model\.|.*lora_linear_layer\."
        r"|.*[._](lora_(down|up|mid|[AB]|magnitude_vector|embedding_[AB])|hada_[wt]\d(_[ab])?|lokr_[wt]\d(_[ab])?"
        r"|dora_scale|oft_(blocks|diag))(\.|$)"
        r"|.*[._]lora\.(down|up)\.",
        _FUSE,
    ),
    (
        "a textual inversion embedding, not a whole checkpoint",
        r"emb_params$|string_to_param(\.|$)|<[^>]+>$|clip_[lg]$",
        _ADD_TOKEN,
    ),
    (
        "a hypernetwork, not a whole checkpoint",
        r"(\w+\.)?(320|640|768|1024|1280)\.[01]\.(linear|layer_?norm|\d)",
        _ITS_BASE,
    ),
    ("an IP-Adapter, not a whole checkpoint", r"ip_adapter\.|image_proj(_model)?\.", _ITS_BASE),
    ("a Control-LoRA, which is no whole ControlNet", r"lora_controlnet$", _ITS_BASE),
    ("a ControlNet-LLLite", r"lllite_", _ITS_BASE),
    (
        "a ControlNet-XS",
        r".*\.(ctrl_to_base|base_to_ctrl)\.|up_connections\.|(control_model\.)?(enc|dec)_zero_convs_(in|out)\.",
        _ITS_BASE,
    ),
    (
        "a ControlNet Union",
        r"task_embedding$|(transformer_layes|spatial_ch_projs|control_add_embedding)\.",
        _ITS_BASE,
    ),
    (
        "a ControlNet of a diffusion transformer",
        r"controlnet_(blocks|single_blocks|x_embedder)\.|pos_embed_input\.",
        _ITS_BASE,
    ),
    (
        "a motion module (AnimateDiff), not a whole checkpoint",
        r".*\b(motion_modules?|temporal_transformer)\.",
        _ITS_BASE,
    ),
    (
        "a ControlNet",
        r"control_model\.|controlnet_(cond_embedding|down_blocks|mid_block)\.|input_hint_block\.|zero_convs\.",
        _WITH_NET,
    ),
    (
        "a T2I adapter, not a whole checkpoint",
        r"adapter\.(body|conv_in|unshuffle)|body\.\d+\.(in_conv|block1|block2|down_opt)\b",
        _ITS_BASE,
    ),
    (
        f"Stable Video Diffusion{_NOT}",
        r".*\.(time_stack|time_mixer|temporal_res_block|temporal_transformer_blocks)\.",
        _ANOTHER,
    ),
    (f"a depth-to-image model{_NOT}", r"depth_model\.", _ANOTHER),
    (f"an upscaling model{_NOT}", r"low_scale_model\.", _ANOTHER),
    (f"Stable Diffusion unCLIP{_NOT}", r"noise_augmentor\.|embedder\.model\.visual\.", _ANOTHER),
    (f"Stable Diffusion XL Refiner{_NOT}", r"conditioner\.embedders\.0\.model\.", _ANOTHER),
    (
        f"Stable Diffusion XL{_NOT}",
        r"conditioner\.embedders\.|(model\.diffusion_model\.)?label_emb\.|(unet\.)?add_embedding\.|text_encoder_2\.",
        _ANOTHER,
    ),
    (
        "an image variations model, which has no text encoder",
        r"cond_stage_model\.((model\.)?visual|mapper|vision_model|model\.vision_model)\.",
        _ANOTHER,
    ),
    (f"Stable Diffusion 2.x{_NOT}", r"cond_stage_model\.model\.", _ANOTHER),
    (
        f"Stable Diffusion 3{_NOT}",
        r"(model\.diffusion_model\.)?joint_blocks\.|text_encoders\.|text_encoder_3\.",
        _ANOTHER,
    ),
    (
        f"Flux or its kin{_NOT}",
        r"(model\.diffusion_model\.)?(double_blocks|single_blocks|single_transformer_blocks)\.",
        _ANOTHER,
    ),
    (
        f"the latent diffusion of before Stable Diffusion (a BERT){_NOT}",
        r"cond_stage_model\.transformer\.(token_emb|attn_layers|pos_emb)\.",
        _ANOTHER,
    ),
    (
        "an upscaler (ESRGAN or its kin), not a checkpoint",
        r"(params_ema\.|params\.)?(model\.\d+\.(sub\.\d|RDB\d|weight$)|RRDB_trunk\.|trunk_conv\.|conv_first\."
        r"|conv_body\.|body\.\d+\.(rdb\d|weight$|bias$)"
        r"|layers\.\d+\.residual_group\.|upconv\d\.)",
        _ANOTHER,
    ),
    ("a safety checker, not a checkpoint", r"concept_embeds|special_care_embeds", "leave it out: it is not used here"),
    ("a T5 text encoder, not a checkpoint", r"(encoder\.)?block\.\d+\.layer\.\d|shared\.weight$", _ANOTHER),
    (
        f"a diffusion transformer{_NOT}",
        r"(model\.diffusion_model\.)?(blocks|transformer_blocks|joint_transformer_layers)\.\d+\."
        r"|(model\.diffusion_model\.)?[xyt]_embedder\.",
        _ANOTHER,
    ),
    (
        "a CLIP text encoder alone",
        r"text_model\.|embeddings\.(token|position)_embedding\.|encoder\.layers\.\d+\.(self_attn|mlp|layer_norm)",
        _WITH_TEXT,
    ),
    (
        "CLIP's image encoder, not a checkpoint",
        r"vision_model\.|visual_projection\.",
        "leave it out: it is not used here",
    ),
    (
        "a CLIP model in OpenAI's names, not a checkpoint",
        r"visual\.|transformer\.resblocks\.|token_embedding\.|positional_embedding$",
        _ANOTHER,
    ),
    ("a VQ autoencoder, not a checkpoint", r"quantize\.embedding\.", _ANOTHER),
    (
        "a tiny autoencoder (TAESD), not a checkpoint",
        r"taesd_(encoder|decoder)\.|(encoder|decoder)\.layers\.\d|\d+\.conv\.\d",
        _WITH_TINY,
    ),
    (
        "a VAE alone",
        r"(encoder|decoder)\.(down_blocks|up_blocks|mid_block|down|up|mid|conv_in|conv_out|conv_norm_out"
        r"|norm_out)\.|(post_)?quant_conv\.",
        _WITH_VAE,
    ),
    (
        "a UNet alone, in diffusers' names",
        r"(down_blocks|up_blocks|mid_block|time_embedding|conv_norm_out)\.",
        _WITH_UNET,
    ),
    (
        "a UNet alone",
        r"(diffusion_model\.)?(input_blocks|middle_block|output_blocks|time_embed)\.",
        _WITH_UNET,
    ),
    ("a list of tensors without names (as early LoRA files are), not a checkpoint", r"\d+$", _ANOTHER),
    (
        "an optimizer's state, not weights",
        r"(.*\.)?(exp_avg|exp_avg_sq|momentum_buffer|max_exp_avg_sq)$",
        "give the checkpoint that was saved beside it",
    ),
)
_TABLE = re.compile("|".join(f"(?P<k{number}>{pattern})" for number, (_, pattern, _) in enumerate(_ROWS)))
_PARTS = {
    "a ControlNet": "controlnet",
    "a CLIP text encoder alone": "clip_text",
    "a T5 text encoder, not a checkpoint": "t5",
    "a VAE alone": "autoencoder_kl",
    "a UNet alone, in diffusers' names": "unet",
    "a UNet alone": "unet",
}
_NETWORKS = {"a diffusion transformer": "mmdit"}  # what a row is of -> the architecture of a family that is of it, too
_TOKEN_WIDTHS = (768, 1024, 1280)  # of CLIP's text encoders


@dataclass(frozen=True, slots=True)
class Kind:
    """`what` completes "this is "; `fix` is what the owner of such a file can do;
    `network` is the architecture that it is of, where it is one network alone."""

    what: str
    fix: str
    network: str = ""


def _is_of_family(number: int) -> bool:
    """Whether a row is of a family of models."""
    return _ROWS[number][0].endswith(_NOT)


def file_kind(names: Iterable[str], shapes: Mapping[str, Shape], family: Family) -> Kind | None:
    """What holds weights of these names, if it is one of the kinds that are no whole checkpoint of `family`;
    None if nothing tells.

    `shapes` has those of `names` and may have others.
    """
    listed, networks = list(names), {part.architecture.name for part in family.parts.values()}
    found: dict[int, str] = {}  # row -> a name that matches it
    own = len(_ROWS)
    for name in listed:
        match = _TABLE.match(name[:_LOOKED_AT])
        if match is None:
            continue
        number = int((match.lastgroup or "")[1:])  # a row's group closes after those inside it, so it is the last
        what = _ROWS[number][0].removesuffix(_NOT)
        if _is_of_family(number) and (family.title.startswith(what) or _NETWORKS.get(what) in networks):
            own = min(own, number)  # of this family, or of one that is made of the same networks
        elif number not in found:
            found[number] = match.group() + ("..." if match.end() < len(name) else "")
    # a family's own names say more than those that it shares with the families of later rows
    found = {number: seen for number, seen in found.items() if not (number > own and _is_of_family(number))}
    best = min(found, default=len(_ROWS))
    seen = found.get(best, "")
    if seen:
        what, _, fix = _ROWS[best]
        fix = fix or advice(what.removesuffix(_NOT), family, "file")
        words = (
            f"{what.format(family=family.title)} (it has weights named "
            f"{seen if len(seen) <= 80 else seen[:77] + '...'})"
        )
        return Kind(words, fix, _PARTS.get(what, ""))
    if len(listed) == 1 and len(shape := shapes[listed[0]]) <= 2 and shape[-1:] and shape[-1] in _TOKEN_WIDTHS:
        return Kind(
            f"a textual inversion embedding, not a whole checkpoint (it has one tensor, {list(shape)})", _ADD_TOKEN
        )
    return None
