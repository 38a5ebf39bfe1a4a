"""Give a text encoder a start: it learns to name what captions say, before a network learns to draw of its states.

python -m ondevice.train text_encoder --text_encoder_name_or_path config.json --tokenizer_name tokenizer \\
    --input_path rows.jsonl --output_dir text

A line of the JSONL is {"caption": "a small red circle", "colour": "red", "size": "small"}: a caption, and what it says
under names that all lines have. Heads, which are dropped in the end, name that of the states at every token from the
caption's end on, and with --with_projection of what is pooled. What comes out has text_encoder/ and tokenizer/, for
`pretrain --text_encoder_name_or_path`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ondevice.train import common
from ondevice.train.settings import NEEDED, Setting, changed

if TYPE_CHECKING:  # torch takes seconds to import
    from ondevice.train.engine import Engine, Job

HELP = "a text encoder's start, of captions and what they say"
SETTINGS = {
    "model": (
        Setting("text_encoder_name_or_path", NEEDED, str, "a folder or a hub id; a config's .json: one at random"),
        Setting("tokenizer_name", NEEDED, str, "its tokenizer"),
        Setting(
            "with_projection",
            False,
            bool,
            "it has a projection, and is read as Stable Diffusion XL and 3 do: before the last layer, and pooled",
        ),
    ),
    "data": (
        Setting("input_path", NEEDED, str, "the JSONL"),
        Setting("caption_key", "caption", str, "key of a line's caption; all others are what it says"),
        Setting("dataloader_num_workers", 0, int, "processes that read lines; 0: the one that trains", 0, 256),
    ),
    "length": changed(common.LENGTH, train_batch_size=48),
    "optimiser": changed(common.OPTIMISER, learning_rate=2e-3),
    "machine": common.MACHINE,
    "output": common.OUTPUT,
}


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The settings, which any value of goes with any other."""
    return settings


def job(settings: argparse.Namespace, engine: Engine) -> Job:
    """What is trained. Raises OnDeviceError for a model or lines that cannot be read."""
    from ondevice.train.naming import named

    return named(settings, engine)
