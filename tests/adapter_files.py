"""Adapters for tests: made-up factors of a checkpoint's layers, by the names of two layouts."""

import math

import numpy as np

ENDINGS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "proj_in", "q_proj", "out_proj", "fc1")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "samplers.0.conv")


def adapter(components, naming, *, convolutions=False, rank=3, alpha=2.0, seed=0, gain=1.0):
    """A file's arrays: kohya's names, or peft's."""
    rng, arrays = np.random.default_rng(seed), {}
    for part in (name for name in components if name != "vae"):
        for weight, tensor in components[part].weights.items():
            module, shape = weight.removesuffix(".weight"), tuple(tensor.shape.numpy())
            if not module.endswith(ENDINGS + CONVOLUTIONS * convolutions) or len(shape) < 2:
                continue
            size = gain / math.sqrt(rank * math.prod(shape[1:]))  # a change about as large as the weight
            down = rng.standard_normal((rank, *shape[1:])) * size
            up = rng.standard_normal((shape[0], rank, *(1 for _ in shape[2:])))
            if naming == "kohya":
                head = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + module.replace(".", "_")
                arrays |= {f"{head}.lora_down.weight": down, f"{head}.lora_up.weight": up, f"{head}.alpha": alpha}
            else:
                arrays |= {f"{part}.{module}.lora_A.weight": down, f"{part}.{module}.lora_B.weight": up}
    return {name: np.float32(array) for name, array in arrays.items()}
