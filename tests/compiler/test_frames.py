"""Plans of films: as many frames as are asked for, and as many of them at a time as are decoded at once."""

from __future__ import annotations

import pytest
from diffusion.test_pipeline_shapes import golden

from ondevice.bundle.format import Checker
from ondevice.bundle.pipeline_file import parse_pipeline
from ondevice.compiler.jobs import Frames, jobs


@pytest.mark.parametrize(
    ("counts", "chunk", "chunks"),
    [
        ((14,), None, (7,)),
        ((25,), None, (7, 4)),
        ((4,), None, (4,)),
        ((14, 25), 8, (8, 6, 1)),
        ((14,), 14, (14,)),
        ((14,), 40, (14,)),
        ((3,), 1, (1,)),
        ((), None, ()),
    ],
)
def test_frames_that_are_decoded_at_once(counts: tuple[int, ...], chunk: int | None, chunks: tuple[int, ...]) -> None:
    assert Frames(counts, chunk).chunks() == chunks


def test_plans_of_a_film() -> None:
    """In one pass at a time; what has no frames has one plan."""
    whole = golden("svd")
    spec = parse_pipeline(
        Checker("svd"), whole["pipeline"], whole["components"], whole["tokenizers"], whole["samplers"]
    )
    sized = ("unet", "vae_decoder", "vae_encoder")
    frames = {"unet": (14, 5), "vae_decoder": (4, 2, 1)}
    found = [
        (job.component, job.sizes["batch"], job.sizes.get("frames"), job.sizes.get("width"))
        for job in jobs(spec, sized.__contains__, [(48, 32)], frames=lambda name: frames.get(name, ()))
    ]
    assert sorted(found, key=str) == sorted(
        [
            ("condition", 1, None, None),
            ("image_encoder", 1, None, None),
            ("unet", 1, 14, 6),
            ("unet", 1, 5, 6),
            *(("vae_decoder", 1, count, 6) for count in (4, 2, 1)),
            ("vae_encoder", 1, None, 6),
        ],
        key=str,
    )
