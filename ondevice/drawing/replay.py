"""A picture drawn again from what its file says (`--from`)."""

from __future__ import annotations

import argparse
import logging

from ondevice.diffusion.model_files import ModelFiles
from ondevice.diffusion.parameters_read import fields_for, read_parameters
from ondevice.drawing.line import args_of, nothing_given, words_given
from ondevice.errors import StrictError

log = logging.getLogger(__name__)


def completed(args: argparse.Namespace, files: ModelFiles) -> argparse.Namespace:
    """The flags with what the picture of --from says, where they say nothing themselves.

    Raises:
        UsageError: the picture cannot be read, or says what no flag takes.
        StrictError: something cannot be had, under --strict.
    """
    if args.from_picture is None:
        return args
    given = words_given(args)
    found = fields_for(read_parameters(args.from_picture), files, args.from_picture.absolute().parent, given)
    if found.lost and args.strict:
        listed = "; ".join(found.lost)
        fix = "give what is missing with flags, or draw without --strict"
        raise StrictError(f"it cannot be drawn again as it was: {listed}.", where=str(args.from_picture), fix=fix)
    for sentence in found.lost:
        log.warning("%s: %s", args.from_picture, sentence)
    said = args_of(found.fields, nothing_given())
    merged = argparse.Namespace(**vars(args))
    for name, value in vars(said).items():
        own = getattr(args, name, None)
        if name in ("set", "number"):
            setattr(merged, name, [*(value or ()), *(own or ())] or None)  # the later of two wins
        elif own is None or own is False or own == []:
            setattr(merged, name, value)
    merged.from_picture = args.from_picture
    return merged
