"""Fast decoders beside `after` of the golden pipeline sdxl_refiner.json, and what a reader says to them."""

from __future__ import annotations

from typing import Any

from bundle.setting import Setting, setting

ROLE = {
    "run": "vae_decoder",
    "every": "picture",
    "feed": {"latent_sample": {"value": "latents"}},
    "keep": {"sample": "picture"},
}


def fast(**changes: Any) -> Setting:
    """One role, as `convert --taesd` writes it but for these keys."""
    return setting("fast", to=[ROLE | changes])


def fed(name: str) -> dict[str, Any]:
    return {"latent_sample": {"value": name}}


# Changes, and how the refusal begins; "" where it is still a pipeline.
FAST_CHANGES: list[tuple[Setting, str]] = [
    (fast(), ""),
    (fast(every="chunk"), ""),
    (setting("fast", to=[]), ".fast is a list of 0 (expected a list of 1..64)"),
    (setting("fast", to={}), ".fast is an object of 0 (expected a list"),
    (fast(run="taesd"), '.fast[0].run is "taesd" (expected one of'),
    (fast(every="text"), '.fast[0].every is "text" (expected one of: chunk, picture)'),
    (fast(keep={"sample": "pixels"}), ".fast keeps no picture in its last role"),
    (fast(keep={"sample": "picture", "more": "context"}), '.fast[0].keep["more"] is "context", a name that is taken'),
    (
        setting(
            "fast",
            to=[ROLE | {"keep": {"sample": "picture", "more": "half"}}],
            also=(setting("after", 0, "keep", "more", to="half"),),
        ),
        '.fast[0].keep["more"] is "half", a name that is taken',
    ),
    (fast(feed=fed("prediction")), '.fast[0].feed["latent_sample"].value is "prediction" (expected'),
    (fast(feed=fed("context")), '.fast[0].feed["latent_sample"] changes once per text, and the role'),
    (fast(feed=fed("image_latents")), ".fast makes no picture where an optional picture is"),
    (fast(feed=fed("picture")), '.fast[0].feed["latent_sample"].value is "picture" (expected'),
]
