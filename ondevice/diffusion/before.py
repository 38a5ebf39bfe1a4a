"""What comes before the loop: texts and pictures are encoded, and the noise to begin with is drawn."""

from __future__ import annotations

import numpy as np

from ondevice.bundle.pipeline import InitialNoise, Role, Sample
from ondevice.diffusion.guidance import texts_in_use
from ondevice.diffusion.image import drawn
from ondevice.diffusion.noise import Noise
from ondevice.diffusion.request_checks import checked_latents
from ondevice.diffusion.roles import Roles
from ondevice.diffusion.series import Series


def run_before(roles: Roles, latents: np.ndarray | None, stream: Noise, series: Series) -> np.ndarray:
    """Do all of `before`, in its order; what it makes is kept in `roles.values`.

    Args:
        latents: given instead of the seed's noise.
        series: keeps what is the same in pictures of other seeds, and has it of earlier ones.

    Returns:
        float32 [frames, channels, height / scale, width / scale], the noise that the loop begins with.

    Raises:
        UsageError: latents are missing or of another shape.
        NumericError: a role's result is not finite.
    """
    spec, values, base = roles.spec, roles.values, roles.spec.latents
    shape = (values.frames, base.channels, roles.place["height"], roles.place["width"])
    start = None
    for number, step in enumerate(spec.before):
        if isinstance(step, InitialNoise):
            start = stream.initial(shape) if latents is None else checked_latents(latents, shape, base.scale)
        elif isinstance(step, Sample):
            if values.samples(step):
                clean = drawn(
                    roles.session.read(values.get(step.moments)),
                    stream if step.draw and stream.draws_encodings else None,
                )
                values.keep(
                    step.keep, np.float32(base.scaling) * (clean - np.float32(base.shift)) if step.scaled else clean
                )
        else:
            _run(number, step, roles, series)
    stream.enter_loop()
    return checked_latents(latents, shape, base.scale) if start is None else start


def encode_texts(roles: Roles, series: Series) -> None:
    """Do the roles of `before` that read tokens, for all texts in use, and keep what they make in `series`.
    Raises NumericError where it is not finite."""
    for number, step in enumerate(roles.spec.before):
        if isinstance(step, Role) and any(feed.kind == "tokens" for feed in step.feed.values()):
            _run(number, step, roles, series)


def _run(number: int, role: Role, roles: Roles, series: Series) -> None:
    """Do step `number`, a role, unless what it needs is not there or an earlier picture has left what it makes."""
    values = roles.values
    if not values.runs(role) or series.restore(number, values):
        return
    if role.every == "text":
        texts = texts_in_use(roles.spec, values.numbers)
        roles.run_for_texts(role, [key for text in texts for key in values.texts.keys(text)])
    else:
        roles.run(role)
    series.store(number, role, values)
