"""A UNet of diffusers by litert-torch: `litert_agreement.py` runs it in an environment that has both, and nothing of
ours.

    python -P benchmarks/litert_reference.py WORK

WORK has config.json, unet.safetensors and inputs.npz; gets reference.tflite, and PyTorch's own result as torch.npz.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from pathlib import Path

import diffusers
import litert_torch
import numpy as np
import torch
from safetensors.torch import load_file


class Plain(torch.nn.Module):
    """Tensors in, one tensor out."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.unet(sample, timestep, states, return_dict=False)[0]
        return out


def main(work: Path) -> int:
    warnings.filterwarnings("ignore")
    unet = diffusers.UNet2DConditionModel.from_config(json.loads((work / "config.json").read_text()))
    unet.load_state_dict(load_file(work / "unet.safetensors"))
    module = Plain(unet).eval()
    with np.load(work / "inputs.npz", allow_pickle=False) as file:
        given = tuple(torch.from_numpy(file[name]) for name in ("sample", "timestep", "encoder_hidden_states"))
    with torch.inference_mode():
        np.savez(work / "torch.npz", out=module(*given).numpy())
    started, used = time.perf_counter(), time.process_time()
    litert_torch.convert(module, given).export(str(work / "reference.tflite"))
    took, used = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    what = f"{took:.1f} s for the UNet, {used:.1f} s of processors, {peak:,.0f} MB at the most"
    print(f"litert-torch {litert_torch.__version__}: {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
