"""The smallest model with every layer of Stable Diffusion 1.x, at an odd size."""

TINY = {
    "text_encoder": {
        "vocab_size": 50,
        "hidden_size": 12,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 3,
        "max_position_embeddings": 7,
        "hidden_act": "quick_gelu",
    },
    "unet": {
        "block_out_channels": [6, 12],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "cross_attention_dim": 12,
        "attention_head_dim": 2,
        "norm_num_groups": 3,
        "sample_size": 5,
    },
    "vae": {
        "block_out_channels": [6, 9],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "layers_per_block": 1,
        "norm_num_groups": 3,
    },
}
SIZES = {"batch": 2, "height": 5, "width": 3}


def tiny_graph(tiny, component):
    return tiny.graph(component, **({"batch": 2} if component == "text_encoder" else SIZES))
