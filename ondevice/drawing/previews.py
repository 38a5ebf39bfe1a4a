"""Previews: pictures of what is being drawn, in a folder that a browser or an app can watch (docs/previews.md)."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from ondevice import flags
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.diffusion.files import check_outputs, write_output
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.png import encode_png
from ondevice.diffusion.previews import WAYS, Preview, way_of
from ondevice.errors import UsageError

LATEST, PROGRESS = "latest.png", "progress.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of previews."""
    group = parser.add_argument_group("previews")
    group.add_argument(
        "--preview",
        type=Path,
        metavar="DIR",
        help=f"write pictures of what is being drawn there: numbered, the last one as {LATEST}, and {PROGRESS}",
    )
    group.add_argument("--preview-every", type=int, metavar="N", help="a picture each N steps (default 1)")
    group.add_argument(
        "--preview-by",
        choices=WAYS,
        help="rgb: small, from the latents' channels alone; taesd: by the decoder of `convert --taesd` (default: rgb "
        "where the model's are known)",
    )


def check(args: argparse.Namespace) -> None:
    """Refuse what means nothing without previews, and a folder that they cannot be written to; make it.

    Raises:
        UsageError: names the flag or the path.
    """
    if args.preview is None:
        flags.refuse(args, ["--preview-every", "--preview-by"], "there are no previews without --preview.")
        return
    if args.preview_every is not None and args.preview_every < 1:
        what = f"steps cannot be counted so (got {args.preview_every}, expected 1 or more)."
        raise UsageError(what, where="--preview-every", fix="use 1")
    try:
        args.preview.mkdir(exist_ok=True)
    except OSError as error:
        what = f"the folder cannot be made ({error.strerror or error})."
        raise UsageError(what, where=f"--preview {args.preview}", fix="name a folder inside an existing one") from None
    check_outputs({f"--preview: {name}": args.preview / name for name in (LATEST, PROGRESS)}, bundle=args.bundle)


def decodes(args: argparse.Namespace, spec: PipelineSpec) -> bool:
    """Whether previews take the fast decoder; those of a verb without them do not. Raises UsageError as `way_of`."""
    return getattr(args, "preview", None) is not None and way_of(spec, args.preview_by) == "taesd"


def of(args: argparse.Namespace, count: int) -> Previews:
    """Those of `count` pictures, as the flags say."""
    return Previews(args.preview, args.preview_every or 1, args.preview_by, count)


class Previews:
    """Writes them while pictures are drawn. One that cannot be written ends them, and nothing else: `failed` says why.

    Each file is whole whenever it is there, and `progress.json` names no picture that is not.

    Args:
        folder: None where nobody asked for them.
        every: a picture each so many steps.
        by: as `Pipeline.previewer` takes it.
        count: pictures that are drawn.
    """

    def __init__(self, folder: Path | None = None, every: int = 1, by: str | None = None, count: int = 1) -> None:
        self._folder, self._every, self._by = folder, every, by
        self._count, self._number = count, 0
        self._preview: Preview | None = None
        self._done = 0
        self._first = 0.0  # when the first step of this picture was done
        self._picture: str | None = None
        self.failed: list[UsageError] = []

    def of(self, pipeline: Pipeline) -> None:
        """Show the latents of this pipeline from now on. Raises UsageError as `Pipeline.previewer`."""
        if self._folder is not None:
            self._preview = pipeline.previewer(self._by)

    def begin(self, number: int) -> None:
        """Picture `number` is drawn from now on, counted from 0."""
        self._number, self._picture = number, None
        self._report(0, None, None)

    def step(self, done: int, calls: int, latents: np.ndarray) -> None:
        """A step is done. Raises OnDeviceError where the fast decoder fails."""
        now = time.monotonic()
        if done == 1:
            self._first = now
        left = (now - self._first) / (done - 1) * (calls - done) if done > 1 else None
        if self._preview is not None and not self.failed and (done % self._every == 0 or done == calls):
            picture = f"step-{done:04}.png" if self._count == 1 else f"{self._number + 1}-step-{done:04}.png"
            data = encode_png(self._preview(latents), {})
            if self._write(picture, data) and self._write(LATEST, data):
                self._picture = picture
        self._report(done, calls, left)

    def end(self, out: Path) -> None:
        """The picture is drawn, and written to `out`."""
        self._report(self._done, self._done, 0.0, out)

    def _report(self, done: int, calls: int | None, left: float | None, out: Path | None = None) -> None:
        self._done = done
        if self._folder is None or self.failed:
            return
        said = {
            "step": done,
            "steps": calls,
            "seconds_left": None if left is None else round(left, 1),
            "picture": self._picture,
            "number": self._number + 1,
            "count": self._count,
            "out": None if out is None else str(out),
        }
        self._write(PROGRESS, json.dumps(said).encode())

    def _write(self, name: str, data: bytes) -> bool:
        """Whether the file is there now."""
        assert self._folder is not None, "nobody asked for it"
        try:
            write_output(self._folder / name, lambda file: file.write(data))
        except UsageError as error:
            self.failed.append(error)
        return not self.failed
