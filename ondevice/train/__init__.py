"""Train a model further, and end in files that `convert` takes.

python -m ondevice.train lora --pretrained_model_name_or_path MODEL --data_dir PICTURES --output_dir OUT
accelerate launch --multi_gpu --num_processes 2 -m ondevice.train lora CONFIG.json      # several cards
python -m ondevice.train RECIPE --help
"""

from __future__ import annotations

import argparse
import importlib
import logging

from ondevice.errors import UsageError
from ondevice.train.settings import add_flags, settings_of

HELP = "train a model (LoRA, DreamBooth, pretraining, latent consistency, autoencoders, video, morphs)"
RECIPES = (
    "lora", "dreambooth", "dreambooth_lora", "pretrain", "lcm", "lcm_lora", "text_encoder", "autoencoder", "taesd",
    "video",
)  # fmt: skip
SEVERAL = ("morph",)
"""Recipes that run others."""
DATA = ("create_pretraining_data",)
"""What makes data for recipes, and needs none of their packages."""
_PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "tensorboardX")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags: those of each recipe."""
    recipes = parser.add_subparsers(dest="recipe", required=True, metavar="RECIPE")
    for name in (*RECIPES, *SEVERAL, *DATA):
        module = importlib.import_module(f"ondevice.train.{name}")
        own = recipes.add_parser(
            name, help=module.HELP, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        add_flags(own, module.SETTINGS)


def run(args: argparse.Namespace) -> int:
    """Train, and print what was written."""
    recipe = importlib.import_module(f"ondevice.train.{args.recipe}")
    settings = recipe.checked(settings_of(args, recipe.SETTINGS))
    if args.recipe in DATA:
        print(recipe.made(settings), flush=True)
        return 0
    for package in _PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            what = f"the packages that train are missing ({error.name or package})."
            raise UsageError(what, where="train", fix="pip install 'ondevice[train]'") from error
    logging.getLogger("ondevice.train").setLevel(logging.INFO)
    from ondevice.train.engine import Engine  # torch takes seconds to import
    from ondevice.train.processes import in_company, launched

    with in_company(launched()):
        if args.recipe in SEVERAL:
            written = recipe.made(settings)
        else:
            engine = Engine(args.recipe, settings)
            found = engine.train(recipe.job(settings, engine))
            written = found if engine.is_main else None
    if written is not None:
        print(written, flush=True)
    return 0
