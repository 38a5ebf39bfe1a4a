"""Configs of the models that our exports and independent converters are compared on: SMALL has every kind of layer of
Stable Diffusion's UNet, MIDDLE 135 million weights."""

TEXT = {
    "vocab_size": 50,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}
VAE = {
    "block_out_channels": [16, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
SMALL = {
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 48,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "sample_size": 12,
}
MIDDLE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
    "cross_attention_dim": 48,
    "attention_head_dim": 8,
    "sample_size": 32,
}
