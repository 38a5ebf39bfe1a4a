"""What a run says: a line of JSON for each step, the same for TensorBoard, and a bar with the time left."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from ondevice.base.bars import tqdm
from ondevice.base.publish import append_lines, published_file, system
from ondevice.diffusion.picture_file import write_picture
from ondevice.diffusion.request import Picture
from ondevice.errors import OutputError
from ondevice.train.records import steps_of

FILE = "training_log.jsonl"
PICTURES = "validation"


class Logs:
    """Of a run that has done `begun` of its `total` steps: what older runs logged of later ones is dropped.

    Args:
        folder: the output folder, for training_log.jsonl and validation/.
        boards: the folder of TensorBoard's files, in it.
        about: the first line.
    """

    def __init__(self, folder: Path, boards: str, begun: int, total: int, about: Mapping[str, Any]) -> None:
        self._folder, self._file = folder, folder / FILE
        with system(str(self._file), OutputError):
            rows = list(steps_of(self._file, begun)) if begun else []
            with published_file(self._file) as file:
                for row in [{"begun": begun, **about}, *rows]:
                    file.write(_line(row).encode() + b"\n")
            self._board = SummaryWriter(str(folder / boards), purge_step=begun + 1)
        hidden = True if sys.stderr is None else None
        self._bar = tqdm(total=total, initial=begun, desc="steps", file=sys.stderr, disable=hidden)

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._board.close()

    def step(self, done: int, epoch: float, values: Mapping[str, float]) -> None:
        """What is known of a step."""
        with system(str(self._file), OutputError):
            append_lines(self._file, [_line({"step": done, "epoch": round(epoch, 4), **values})])
        for name, value in values.items():
            self._board.add_scalar(f"train/{name}", value, done)
        self._bar.set_postfix(loss=f"{values['loss']:.4f}", lr=f"{values['lr']:.2g}", refresh=False)
        self._bar.update()

    def pictures(self, done: int, drawn: Sequence[Picture]) -> None:
        """Keep validation pictures as validation/step-N-K.png, and show them on the board."""
        folder = self._folder / PICTURES
        with system(str(folder), OutputError):
            folder.mkdir(exist_ok=True)
        for number, one in enumerate(drawn):
            assert one.pixels is not None, "no other model goes on"
            write_picture(folder / f"step-{done:06}-{number + 1}.png", one.pixels, one.parameters | {"step": done})
        pixels = np.stack([one.pixels for one in drawn if one.pixels is not None])
        self._board.add_images(PICTURES, pixels, done, dataformats="NHWC")


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, default=str)
