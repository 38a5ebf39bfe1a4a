"""Draws with optimum-onnx from exported folders: what `benchmarks.optimum_check` runs in an environment of its own.

Args: cases.json, a list of {"name", "folder", "pipeline", "seed", "call", "pictures"}; `pictures` names a file of uint8
arrays. Writes NAME.npz beside it: latents and the picture of each.
"""

import json
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from optimum import onnxruntime
from PIL import Image


def main() -> None:
    logging.disable(logging.WARNING)  # of safety checkers, and of a timestep that is a row of one number
    warnings.simplefilter("ignore")
    path = Path(sys.argv[1])
    for case in json.loads(path.read_text()):
        pipeline = getattr(onnxruntime, case["pipeline"]).from_pretrained(case["folder"])
        pipeline.set_progress_bar_config(disable=True)
        with np.load(path.parent / case["pictures"]) as file:
            pictures = {name: Image.fromarray(array) for name, array in file.items()}
        drawn = {}
        for kind in ("latent", "np"):
            generator = torch.Generator().manual_seed(case["seed"])
            drawn[kind] = np.asarray(
                pipeline(**case["call"], **pictures, generator=generator, output_type=kind).images, np.float32
            )
        np.savez(path.parent / f"{case['name']}.npz", **drawn)


if __name__ == "__main__":
    main()
