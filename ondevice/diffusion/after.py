"""What comes after the loop: the final sample is decoded, in one piece or in bands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ondevice.bundle.pipeline import LATENTS
from ondevice.diffusion.bands import Stage, decode
from ondevice.diffusion.roles import Roles, check_finite


def run_after(roles: Roles, final: np.ndarray, stages: Sequence[Stage]) -> np.ndarray:
    """What the pipeline gives, float32 [n, 3, height, width] in -1..1.

    Args:
        final: the sample that the loop left.
        stages: the decoder's, where it works in bands.

    Raises:
        NumericError: a result is not finite.
    """
    spec, session, values = roles.spec, roles.session, roles.values
    base, decoder = spec.latents, spec.decoder
    values.keep(LATENTS, final / np.float32(base.scaling) + np.float32(base.shift))
    for role in spec.after[:-1]:
        if values.runs(role):
            roles.run(role)
    if stages:
        pixels = decode(session, stages, values.latents)
    else:
        outputs = session.run(decoder.component, values.feeds(decoder), **roles.sizes(decoder.component, 1))
        pixels = outputs[next(port for port, name in decoder.keep.items() if name == spec.gives)]
    check_finite(pixels, "the decoder's output")
    return pixels
