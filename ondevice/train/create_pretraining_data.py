"""Make part files for `pretrain`: of a JSONL with a caption and a picture's path a line.

python -m ondevice.train create_pretraining_data --input_path rows.jsonl --output_path data --per_part_file_num 1000

Pictures lie beside the JSONL. Parts go to data/laion400m_format_data, lists of them to data/filelist; what is printed
is the list for `pretrain --file_list`. Flags are those of PaddleMIX's create_pretraining_data.py.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ondevice.errors import UsageError
from ondevice.train.part_writer import Asked, write_parts
from ondevice.train.settings import NEEDED, Setting

HELP = "part files for pretrain, of a JSONL"
SETTINGS = {
    "data": (
        Setting("input_path", NEEDED, str, "the JSONL"),
        Setting("caption_key", "caption", str, "key of a line's caption"),
        Setting("image_key", "image", str, "key of its picture's path"),
    ),
    "output": (
        Setting("output_path", NEEDED, str, "folder that is made"),
        Setting("output_name", "custom_dataset", str, "name of the lists"),
        Setting("per_part_file_num", 1000, int, "lines of a part", 1),
        Setting("save_gzip_file", False, bool, "gzip the parts"),
        Setting("num_repeat", 1, int, "how often the list names each part", 1, 1 << 20),
    ),
}


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The settings. Raises UsageError for a name that is none of a file."""
    if Path(settings.output_name).name != settings.output_name:
        what = f"it is no name of a file (got {settings.output_name})."
        raise UsageError(what, where="--output_name", fix="leave out folders")
    return settings


def made(settings: argparse.Namespace) -> Path:
    """Write everything; the path of the list of lists. Raises UsageError as `write_parts` does."""
    asked = Asked(
        Path(settings.input_path),
        settings.caption_key,
        settings.image_key,
        settings.output_name,
        settings.per_part_file_num,
        settings.save_gzip_file,
        settings.num_repeat,
    )
    return write_parts(asked, Path(settings.output_path), logging.getLogger(__name__).warning)
