"""Distil a model into a LoRA with which it draws in a few steps: LCM-LoRA (arXiv 2311.05556).

python -m ondevice.train lcm_lora --pretrained_teacher_model sd15-folder --output_dir out --lora_rank 64 \\
    --train_shards_path_or_url 'data/{000..031}.tar'

The student is the teacher with the LoRA, and its own target. Flags are those of diffusers'
train_lcm_distill_lora_sd_wds.py and train_lcm_distill_lora_sdxl_wds.py.
"""

from __future__ import annotations

from ondevice.train import common, lcm, lora
from ondevice.train.settings import Setting, changed

HELP = "a LoRA with which a model draws in a few steps"
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj")
SETTINGS = {name: rows for name, rows in lcm.SETTINGS.items() if name != "student"} | {
    "LoRA": (
        *changed((lora.RANK,), rank=64),
        *changed((lora.TARGETS,), target_modules=(*LAYERS, *CONVOLUTIONS)),
        Setting("ckpt_name", "pytorch_lora_weights", str, "the file's name, without its ending"),
    ),
    "distillation": changed(lcm.DISTILLED, loss_type="huber"),
    "output": changed(common.OUTPUT, output_dir="lcm-lora"),
}
checked, job = lcm.checked, lcm.job
