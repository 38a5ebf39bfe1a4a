"""What comes after the loop: the final sample is decoded, in one piece or in bands, all frames at once or in chunks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ondevice.bundle.pipeline import LATENTS, Latents, Role
from ondevice.diffusion.bands import Stage, decode
from ondevice.diffusion.roles import Roles, check_finite


def given_to_decoders(base: Latents, sample: np.ndarray) -> np.ndarray:
    """A sample of the loop, float32, as what comes after it reads `latents`."""
    return sample / np.float32(base.scaling) + np.float32(base.shift)


def run_after(roles: Roles, after: Sequence[Role], final: np.ndarray, stages: Sequence[Stage] = ()) -> np.ndarray:
    """What the pipeline gives, float32 [frames, 3, height, width] in -1..1.

    Args:
        after: the pipeline's, or `fast` in its place.
        final: the sample that the loop left.
        stages: the decoder's, where it works in bands.

    Raises:
        UsageError: no plan takes the frames that are left.
        NumericError: a result is not finite.
    """
    spec, session, values = roles.spec, roles.session, roles.values
    *others, decoder = after
    values.keep(LATENTS, given_to_decoders(spec.latents, final))
    for role in (role for role in others if values.runs(role)):
        if role.every == "chunk":
            for port, array in roles.run_in_chunks(role).items():
                check_finite(array, f"{role.component}'s {port}")
                values.keep(role.keep[port], array)
        else:
            roles.run(role)
    if stages:
        pixels = np.concatenate([decode(session, stages, frame[np.newaxis]) for frame in values.latents])
    else:
        port = next(port for port, name in decoder.keep.items() if name == spec.gives)
        pixels = (roles.run_in_chunks(decoder) if decoder.every == "chunk" else roles.run_whole(decoder))[port]
    check_finite(pixels, "the decoder's output")
    return pixels
