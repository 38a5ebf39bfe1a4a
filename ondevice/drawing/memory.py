"""How a picture is drawn in the memory that there is."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ondevice.base.machine import resident
from ondevice.bundle.reader import Bundle
from ondevice.diffusion import memory_budget
from ondevice.diffusion.request import Request
from ondevice.drawing import previews, say
from ondevice.errors import UsageError
from ondevice.plan.blocks import Streaming

log = logging.getLogger(__name__)
STREAM, USUAL = "--stream-weights", ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of memory."""
    group = parser.add_argument_group("memory")
    group.add_argument(
        "--tile-vae",
        type=int,
        nargs="?",
        const=0,
        metavar="ROWS",
        help=(
            "decode in bands, in a fraction of the memory: of ROWS rows, or the lowest that the bundle has "
            "(see `convert --tile-vae`)"
        ),
    )
    group.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="use at most this much, such as 2GB: in more passes, in bands, giving weights back, streaming them; or "
        "say why not",
    )
    group.add_argument(
        STREAM,
        nargs="?",
        const=USUAL,
        metavar="SIZE",
        help="load weights a block at a time, through at most SIZE of memory such as 400MB (by default what keeps the "
        "device busy), and say what was resident; the picture is the same",
    )


def way_of(
    args: argparse.Namespace,
    bundle: Bundle,
    facts: Mapping[str, Any],
    request: Request,
    changed: frozenset[str] = frozenset(),
    apart: bool = False,
) -> memory_budget.Way:
    """How the picture is drawn in the memory that there is; says so on stderr.

    Args:
        changed: weights that adapters change.
        apart: each pass of guidance has a device of its own, so that none runs two at once.

    Raises:
        UsageError: bands that the bundle has no plans for, or a guidance that it has none for.
        PlanError: the picture does not fit.
    """
    width, height = _latent_size(bundle, request)
    guided = memory_budget.is_guided(bundle, request.guidance_scale)
    _check_fast(args, bundle, request, width, height)
    way = memory_budget.Way(
        apart or memory_budget.in_single_passes(bundle, guided, width, height),
        fast=request.taesd,
        previews=previews.decodes(args, bundle.pipeline),
        changed=changed,
        stream=_streaming(args, facts),
    )
    way = memory_budget.drawable(bundle, width, height, way)
    if args.tile_vae is not None:
        have = memory_budget.band_heights(bundle, width, height)
        way = replace(way, rows=args.tile_vae or (have[-1] if have else 0))
        memory_budget.stages(bundle, width, height, way.rows)
    limit = memory_budget.parse_bytes(args.max_memory) if args.max_memory else facts["global_bytes"]
    # else the session says what is missing
    planned = memory_budget.has_plans(bundle, width, height, guided and not way.split)
    if way.stream is not None and planned:  # too small a window is refused before anything is loaded
        way = memory_budget.streamed(bundle, width, height, way, guided=guided, given=[*request.given_pictures()])
    if limit and planned:
        mapped = bool(facts["maps_weights"])
        found = memory_budget.fit(
            bundle, width, height, limit, mapped=mapped, guided=guided, given=[*request.given_pictures()], start=way
        )
        total = memory_budget.mb(found.total(mapped=mapped))
        if args.max_memory:
            say(
                "memory: "
                f"{total} of {memory_budget.mb(limit)} ({memory_budget.parts_of(found, mapped)}); {found.way.text()}"
            )
        elif found.way != way:
            log.warning(
                "%s has %s: %s, which needs %s", facts["name"], memory_budget.mb(limit), found.way.text(), total
            )
        way = found.way
    return way


def _streaming(args: argparse.Namespace, facts: Mapping[str, Any]) -> Streaming | None:
    """How weights are to be streamed, if they are. Raises UsageError for what is no amount of memory."""
    if args.stream_weights is None:
        return None
    size = args.stream_weights
    nbytes = 0 if size == USUAL else memory_budget.parse_bytes(size, STREAM)
    return Streaming(nbytes, bool(facts["maps_weights"]))


def say_resident(args: argparse.Namespace) -> None:
    """Say on stderr what this process had in memory, where it was to be little."""
    if args.stream_weights is None and args.max_memory is None:
        return
    if (found := resident()) is not None:
        parts = ", ".join(f"{memory_budget.mb(size)} {what}" for what, size in found.now.items())
        say(f"memory: at most {memory_budget.mb(found.most)} were resident; now {parts}")


def room_of(
    args: argparse.Namespace, bundle: Bundle, facts: Mapping[str, Any], request: Request, way: memory_budget.Way
) -> int | None:
    """Bytes that --max-memory leaves beside what a picture needs that is drawn in this way; None without that flag."""
    if not args.max_memory:
        return None
    guided = memory_budget.is_guided(bundle, request.guidance_scale)
    size = _latent_size(bundle, request)
    needs = memory_budget.need(bundle, *size, way, guided=guided, given=[*request.given_pictures()])
    return memory_budget.parse_bytes(args.max_memory) - needs.total(mapped=bool(facts["maps_weights"]))


def _latent_size(bundle: Bundle, request: Request) -> tuple[int, int]:
    """Width and height in latent units, 0 where the model's own are drawn."""
    scale = bundle.pipeline.latents.scale
    return (request.width or 0) // scale, (request.height or 0) // scale


def _check_fast(args: argparse.Namespace, bundle: Bundle, request: Request, width: int, height: int) -> None:
    """Refuse a fast decoder that the bundle has not, or not for latents of this size, before anything is drawn."""
    for flag, asked in (("--taesd", request.taesd), ("--preview-by", previews.decodes(args, bundle.pipeline))):
        if not asked:
            continue
        lacks = [
            one.component
            for one in bundle.pipeline.fast
            if not memory_budget.has_plan(bundle, one.component, width, height)
        ]
        if not bundle.pipeline.fast or lacks:
            at = f" at {request.width}x{request.height}" if lacks else ""
            fix = "convert the checkpoint again with --taesd" + (", and with this --size" if lacks else "")
            raise UsageError(f"the bundle has no fast decoder{at}.", where=flag, fix=fix)
        if args.tile_vae is not None and flag == "--taesd":
            raise UsageError("the fast decoder works in one piece.", where="--tile-vae", fix="leave it out")
