"""Where a single file of Stable Diffusion 3 has the weights of its MM-DiT. Queries, keys and values are stacked; and
the two norms that scale first in diffusers shift first there, so their halves are the other way round.

The rules restate diffusers' convert_sd3_transformer_checkpoint_to_diffusers (loaders/single_file_utils.py).
"""

from __future__ import annotations

from ondevice.converters.architectures.architecture import Config, Layout, Stored
from ondevice.converters.architectures.mmdit_config import is_last

_TOP = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
_X, _CONTEXT = "x_block", "context_block"
_STACKED = {
    **{f"attn.to_{part}": (f"{_X}.attn.qkv", n) for n, part in enumerate("qkv")},
    **{f"attn.add_{part}_proj": (f"{_CONTEXT}.attn.qkv", n) for n, part in enumerate("qkv")},
    **{f"attn2.to_{part}": (f"{_X}.attn2.qkv", n) for n, part in enumerate("qkv")},
}
_INNER = {
    "norm1.linear": f"{_X}.adaLN_modulation.1",
    "norm1_context.linear": f"{_CONTEXT}.adaLN_modulation.1",
    "attn.to_out.0": f"{_X}.attn.proj",
    "attn.to_add_out": f"{_CONTEXT}.attn.proj",
    "attn2.to_out.0": f"{_X}.attn2.proj",
    "ff.net.0.proj": f"{_X}.mlp.fc1",
    "ff.net.2": f"{_X}.mlp.fc2",
    "ff_context.net.0.proj": f"{_CONTEXT}.mlp.fc1",
    "ff_context.net.2": f"{_CONTEXT}.mlp.fc2",
    **{f"attn.norm_{part}": f"{_X}.attn.ln_{part}" for part in "qk"},
    **{f"attn.norm_added_{part}": f"{_CONTEXT}.attn.ln_{part}" for part in "qk"},
    **{f"attn2.norm_{part}": f"{_X}.attn2.ln_{part}" for part in "qk"},
}


def _place(name: str, config: Config) -> Stored:
    layer, _, leaf = name.rpartition(".")
    if layer in _TOP:
        return Stored(f"{_TOP[layer]}.{leaf}", swapped=layer == "norm_out.linear")
    block, part = layer.removeprefix("transformer_blocks.").split(".", 1)
    scope = f"joint_blocks.{block}"
    if part in _STACKED:
        inside, number = _STACKED[part]
        return Stored(f"{scope}.{inside}.{leaf}", number, 3)
    swapped = part == "norm1_context.linear" and is_last(config, int(block))
    return Stored(f"{scope}.{_INNER[part]}.{leaf}", swapped=swapped)


SAI = Layout(_place, lambda name, config: name == "pos_embed")
