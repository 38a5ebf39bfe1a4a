"""What the demo model's siblings share: a thinner UNet that begins as the demo's own, and its folder of weights.

A sibling uses the demo's text encoder, tokenizer and autoencoder as they are. Its UNet is the demo's without the
middle block (BK-SDM's way to a smaller UNet), which brings it under 4 MB in half precision.
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.demo_model.train_text import encode

DEMO = Path(__file__).parents[2] / "ondevice" / "models" / "demo"


def thin(teacher: UNet2DConditionModel, **config: object) -> UNet2DConditionModel:
    """The teacher without its middle block, with `config` on top.

    Weights are the teacher's where shapes agree. What is new begins at zero, so that it changes nothing at first: input
    channels behind the teacher's four, and the projection of the guidance embedding.
    """
    values = dict(teacher.config) | {"mid_block_type": None} | config
    student = UNet2DConditionModel.from_config(values)
    weights, known = student.state_dict(), teacher.state_dict()
    for name, value in weights.items():
        if name not in known:
            value.zero_()
        elif value.shape == known[name].shape:
            value.copy_(known[name])
        else:
            value.zero_()
            value[:, : known[name].shape[1]] = known[name]
    student.load_state_dict(weights)
    student.set_attn_processor(AttnProcessor())  # on CPUs the fused one is slower in bfloat16, above all backward
    return student.train().to(memory_format=torch.channels_last)


def averaged(student: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy that will hold the average of the student's weights over time."""
    copied = copy.deepcopy(student).requires_grad_(False).eval()
    copied.set_attn_processor(AttnProcessor2_0())
    return copied


def full_precision_output(unet: UNet2DConditionModel) -> None:
    """Keep the last convolution out of autocast.

    At the first timestep the clean latents are the noise's error times 15, more than bfloat16's eight bits bear.
    """
    inner = unet.conv_out.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return inner(x.float())

    unet.conv_out.forward = forward


@torch.no_grad()
def text_states(text: CLIPTextModel, tokens: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """The text encoder's states [N, 77, 64] in bfloat16."""
    ids = encode(tokens, captions)
    return torch.cat([text(input_ids=ids[first : first + 64])[0].bfloat16() for first in range(0, len(ids), 64)])


def write_unet(unet: UNet2DConditionModel, folder: Path) -> int:
    """Write FOLDER/unet in half precision, replacing what is there. Returns the bytes that are stored."""
    fresh, old = (folder / f".unet.{word}" for word in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    weights = {name: value.to(torch.float16) for name, value in unet.state_dict().items()}
    half = UNet2DConditionModel.from_config(unet.config).to(torch.float16)
    half.load_state_dict(weights)
    half.save_pretrained(fresh)
    config = fresh / "config.json"
    values = json.loads(config.read_text("utf-8"))
    values.pop("_name_or_path", None)  # where the weights came from is nobody's business
    config.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    for path in fresh.iterdir():
        path.chmod(0o644)
    shutil.rmtree(old, ignore_errors=True)
    if (folder / "unet").exists():
        (folder / "unet").rename(old)
    fresh.rename(folder / "unet")
    shutil.rmtree(old, ignore_errors=True)
    return sum(path.stat().st_size for path in (folder / "unet").iterdir())
