"""Exported ONNX folders in optimum-onnx's pipelines beside our own bundles: the same seed, the same picture.

    python -m benchmarks.optimum_check FOLDER [--dtype fp16] [--weights int8] [--dynamic]

FOLDER/env becomes an environment with optimum-onnx, torch and diffusers (1.3 GB) unless it is there already. Prints for
tiny models of Stable Diffusion 1.x and XL with made-up weights, and for the demo models, how far optimum's latents and
pixels are from ours, as parts of the largest latent and of white; exits with 1 over the bound. The bundles are fp32
whatever the folders are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import environment
from ondevice.bundle import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.component import Checkpoint
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.diffusion.pipeline import Pipeline
from ondevice.export.options import FORMATS, Options
from ondevice.export.writing import export
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

PACKAGES = (
    "optimum-onnx[onnxruntime]==0.1.0",
    "optimum==2.1.0",
    "transformers==4.57.6",
    "diffusers==0.35.2",
    "onnxruntime==1.31.1",
    "pillow",
)
BOUNDS = {"fp32": 1e-4, "fp16": 5e-2, "int8": 0.5}  # of four steps with guidance, which multiply what one step adds
REFERENCE = Path(__file__).with_name("optimum_reference.py")
DEMO = 16  # latents per side of the demo models
PROMPT, SEED, STEPS = "a photo of an astronaut riding a horse on mars", 7, 4
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}
UNET = {
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
VAE = {
    "block_out_channels": [8, 8, 16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
SD1 = {"text_encoder": TEXT, "unet": UNET, "vae": VAE}
SECOND = TEXT | {"hidden_size": 40, "hidden_act": "gelu", "projection_dim": 32}
XL_UNET = UNET | {
    "cross_attention_dim": 64,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
}
XL = {
    "text_encoder": TEXT,
    "text_encoder_2": SECOND,
    "unet": XL_UNET,
    "vae": VAE | {"force_upcast": True, "scaling_factor": 0.13025},
}
REFINER = {
    "text_encoder_2": SECOND,
    "unet": XL_UNET | {"cross_attention_dim": 40, "projection_class_embeddings_input_dim": 72},
    "vae": XL["vae"],
}
XL_INPAINT = XL | {"unet": XL_UNET | {"in_channels": 9}}


@dataclass(frozen=True, slots=True)
class Case:
    """What is drawn: with the model `of` a family's name, which has the tiny `configs` or its own weights."""

    name: str
    of: str
    pipeline: str
    configs: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()

    def checkpoint(self) -> Checkpoint:
        """With made-up weights where there are configs."""
        if self.configs:
            return random_checkpoint_from_configs(seed=1, family=self.of, **self.configs)
        return open_checkpoint(family=self.of)


MASKED = ("image", "mask_image")
REDRAWN: dict[str, Any] = {"pictures": ("image",), "call": {"strength": 0.75}}
CASES = (
    Case("sd1", "sd15", "ORTStableDiffusionPipeline", SD1, {"negative_prompt": "a dog"}),
    Case("sd1-img2img", "sd15", "ORTStableDiffusionImg2ImgPipeline", SD1, **REDRAWN),
    Case("sdxl", "sdxl", "ORTStableDiffusionXLPipeline", XL),
    Case("sdxl-negative", "sdxl", "ORTStableDiffusionXLPipeline", XL, {"negative_prompt": "a dog"}),
    Case("sdxl-img2img", "sdxl", "ORTStableDiffusionXLImg2ImgPipeline", XL, **REDRAWN),
    Case("sdxl-refiner", "sdxl-refiner", "ORTStableDiffusionXLImg2ImgPipeline", REFINER, **REDRAWN),
    Case("sdxl-inpaint", "sdxl-inpaint", "ORTStableDiffusionXLInpaintPipeline", XL_INPAINT, pictures=MASKED),
    Case("demo", "demo", "ORTStableDiffusionPipeline"),
    Case("demo-lcm", "demo-lcm", "ORTLatentConsistencyModelPipeline"),
    Case("demo-inpaint", "demo-inpaint", "ORTStableDiffusionInpaintPipeline", pictures=MASKED),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=FORMATS["onnx"].dtypes, default="fp32")
    parser.add_argument("--weights", choices=FORMATS["onnx"].weights, default="")
    parser.add_argument("--dynamic", action="store_true", help="folders with free sizes")
    args = parser.parse_args()
    work: Path = args.folder
    python = environment(work / "env", PACKAGES)
    flags: dict[str, object] = {"dynamic": True} if args.dynamic else {}
    options = Options(args.dtype, args.weights, flags=flags)
    asked = []
    for case in CASES:
        print(f"{case.name}: with ours", file=sys.stderr)
        pictures, call = given(case)
        np.savez(work / f"{case.name}.pictures.npz", **pictures)
        folder = export(case.checkpoint(), work / f"{case.of}.onnx", FORMATS["onnx"], options, force=True)
        np.savez(work / f"{case.name}.ours.npz", **ours(case, work, pictures, call))
        about = {"name": case.name, "folder": str(folder), "pipeline": case.pipeline, "seed": SEED}
        asked.append(about | {"call": call, "pictures": f"{case.name}.pictures.npz"})
    (work / "cases.json").write_text(json.dumps(asked))
    subprocess.run([python, "-P", REFERENCE, work / "cases.json"], check=True)
    bound = BOUNDS[args.weights or args.dtype]
    return int(not max(compared(case, work) for case in CASES) <= bound)


def given(case: Case) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The pictures and the words of a call, in diffusers' terms."""
    latent = case.configs["unet"]["sample_size"] if case.configs else DEMO
    side = 8 * latent
    image = np.random.default_rng(0).integers(0, 256, (latent, latent, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    mask = np.zeros((side, side), np.uint8)
    mask[: side // 2, side // 4 :] = 255
    known = {"image": image, "mask_image": mask}
    call = {"prompt": PROMPT, "num_inference_steps": STEPS, "guidance_scale": 3.0, **case.call}
    return {name: known[name] for name in case.pictures}, call


def ours(case: Case, work: Path, pictures: dict[str, np.ndarray], call: dict[str, Any]) -> dict[str, np.ndarray]:
    """Latents and pixels of a bundle of the same weights."""
    path = compile_bundle(case.checkpoint(), work / f"{case.of}.ondevice", Recipe("f32"), force=True)
    bundle = open_bundle(path)
    known = {name.removesuffix("_image"): array for name, array in pictures.items()}
    picture = Pipeline.of(bundle, Session(bundle, choose_device()))(**call, **known, seed=SEED)
    assert picture.pixels is not None
    return {"latents": picture.latents, "pixels": picture.pixels}


def compared(case: Case, work: Path) -> float:
    """Prints how far optimum's latents and pixels are from ours; of the latents, as part of the largest.
    Pixels outside of a mask are the given picture's in ours alone."""
    with np.load(work / f"{case.name}.ours.npz") as mine, np.load(work / f"{case.name}.npz") as theirs:
        latents, pixels = mine["latents"], mine["pixels"]
        error = float(np.abs(theirs["latent"] - latents).max() / np.abs(latents).max())
        difference = np.abs(theirs["np"][0] - pixels / np.float32(255))
    with np.load(work / f"{case.name}.pictures.npz") as pictures:
        if "mask_image" in pictures:
            difference = difference[pictures["mask_image"] > 0]
    print(f"{case.name:<14} latents {error:.1e} of the largest, pixels {difference.max() * 255:.2f} of 255 at most")
    return error


if __name__ == "__main__":
    sys.exit(main())
