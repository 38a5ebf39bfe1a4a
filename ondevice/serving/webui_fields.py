"""The JSON of AUTOMATIC1111's API, and what its fields come to here (docs/serve.md has them all).

A field that cannot be done here and was asked for is refused by its name. One that changes nothing in the picture is
ignored; so is any that is not listed, and the answer's `info` names it.
"""

from __future__ import annotations

import secrets
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ondevice.diffusion.image import FITS
from ondevice.errors import UsageError
from ondevice.serving.asked import LONGEST_NAME, MOST_PICTURES, Asked, Encoded, Finite, Name, Seed, Text
from ondevice.serving.model import Served
from ondevice.serving.webui_samplers import named

RESIZE_MODES = dict(enumerate(FITS))  # 3 scales latents, which is not done here
HARMLESS = {
    "denoising_strength",  # of txt2img: of its second pass
    "do_not_save_samples", "do_not_save_grid", "force_task_id", "override_settings_restore_afterwards",
    "disable_extra_networks", "comments", "script_args", "seed_resize_from_h", "seed_resize_from_w", "s_churn",
    "s_tmin", "s_tmax", "s_noise", "s_min_uncond", "initial_noise_multiplier", "image_cfg_scale", "mask_blur",
    "mask_blur_x", "mask_blur_y", "inpaint_full_res_padding", "mask_round", "inpainting_fill", "hr_scale",
    "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y", "hr_checkpoint_name", "hr_sampler_name",
    "hr_scheduler", "hr_prompt", "hr_negative_prompt", "hr_cfg", "firstphase_width", "firstphase_height",
    "refiner_switch_at", "latent_mask",
}  # fmt: skip
"""Fields that clients send with their defaults, and whose values change nothing here."""

REFUSED = {
    "enable_hr": "a second pass at a larger size is not done here",
    "restore_faces": "faces are not restored here",
    "tiling": "pictures that tile are not drawn here",
    "styles": "there are no styles here",
    "script_name": "there are no scripts here",
    "alwayson_scripts": "there are no extensions here",
    "refiner_checkpoint": "one model is served",
    "firstpass_image": "a second pass at a larger size is not done here",
    "infotext": "parameters are not read from a text here",
}
"""Fields whose values, other than nothing, would be another picture."""


class Text2Image(BaseModel):
    """AUTOMATIC1111's `StableDiffusionProcessingTxt2Img`, as far as it is done here."""

    model_config = ConfigDict(extra="allow")

    prompt: Text = ""
    negative_prompt: Text = ""
    seed: Seed = Field(default=-1, description="-1: any")
    subseed: Seed = -1
    subseed_strength: Finite = Field(default=0.0, ge=0, le=1)
    sampler_name: Name | None = None
    sampler_index: Name | None = Field(default=None, description="the older name of `sampler_name`")
    scheduler: Name | None = None
    batch_size: int = Field(default=1, ge=1, le=MOST_PICTURES)
    n_iter: int = Field(default=1, ge=1, le=MOST_PICTURES)
    steps: int | None = Field(default=None, ge=1, le=1000, description="null: the model's own")
    cfg_scale: Finite | None = Field(default=None, ge=0, le=100, description="null: the model's own")
    width: int | None = Field(default=None, ge=1, le=1 << 14, description="null: the model's own")
    height: int | None = Field(default=None, ge=1, le=1 << 14, description="null: the model's own")
    eta: Finite | None = Field(default=None, ge=0, le=1)
    override_settings: dict[Name, Any] | None = Field(
        default=None, description="only `sd_model_checkpoint`, of this model, and `eta_noise_seed_delta`"
    )
    send_images: bool = True
    save_images: bool = Field(default=False, description="put them in the gallery, too")

    @field_validator("*", mode="before")
    @classmethod
    def _nothing(cls, value: Any, info: Any) -> Any:
        """Clients write null for what they leave out."""
        if value is None and info.field_name in cls.model_fields:
            return cls.model_fields[info.field_name].default
        return value


class Image2Image(Text2Image):
    """AUTOMATIC1111's `StableDiffusionProcessingImg2Img`, as far as it is done here."""

    init_images: list[Encoded] = Field(default_factory=list, max_length=MOST_PICTURES, description="the first is taken")
    mask: Encoded | None = None
    inpaint_full_res: bool | int = Field(default=True, description="not done: all of the picture is drawn, at its size")
    inpainting_mask_invert: bool | int = Field(default=0, description="the mask is light where the picture is kept")
    denoising_strength: Finite = Field(default=0.75, ge=0, le=1)
    resize_mode: int = Field(default=0, ge=0, le=2, description="just resize, crop and resize, resize and fill")
    include_init_images: bool = False


class Answer(BaseModel):
    """Pictures in base64, what was asked for, and JSON about them as a text."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


def asked_of(given: Text2Image, model: Served) -> tuple[Asked, list[str]]:
    """The same in our words, and what is another than there.

    Raises:
        UsageError: a field asks for what is not done here, or a name is not known.
    """
    for name, why in REFUSED.items():
        value = (given.model_extra or {}).get(name)
        if value not in (None, "", "None", False, 0, [], {}):
            raise UsageError(f"{why}.", where=name, fix=f"leave {name} out")
    settings = {name: value for name, value in (given.override_settings or {}).items() if value is not None}
    fields, lost = _sampler(given, model)
    fields |= _noise(given, settings)
    check_settings(settings, model)
    count = given.batch_size * given.n_iter
    if count > MOST_PICTURES:
        what = f"too many pictures at once (got {count}, expected at most {MOST_PICTURES})."
        raise UsageError(what, where="batch_size * n_iter", fix="ask again for the rest")
    fields |= {
        "prompt": given.prompt,
        "negative_prompt": given.negative_prompt,
        "num_inference_steps": given.steps,
        "guidance_scale": given.cfg_scale,
        "width": given.width,
        "height": given.height,
        "count": count,
    }
    if isinstance(given, Image2Image):
        if not given.init_images:
            raise UsageError("there is no picture to begin from.", where="init_images", fix="send one, or use txt2img")
        if given.mask is not None and given.inpaint_full_res:
            lost.append("inpaint_full_res: the mask's surroundings are not enlarged, all of the picture is drawn")
        fields |= {
            "image": given.init_images[0],
            "mask": given.mask,
            "invert_mask": bool(given.inpainting_mask_invert),
            "strength": given.denoising_strength,
            "fit": RESIZE_MODES[given.resize_mode],
        }
        if model.spec.latents.strength is None:
            del fields["strength"]
            lost.append("denoising_strength: the model takes none")
    return Asked(**fields), lost


def ignored(given: Text2Image) -> list[str]:
    """Fields that are neither done nor known to change nothing."""
    return sorted(name[:LONGEST_NAME] for name in given.model_extra or () if name not in HARMLESS | REFUSED.keys())


def check_settings(settings: dict[str, Any], model: Served) -> None:
    """Raise UsageError for an option that would be another model, or that is not done here."""
    for name, value in settings.items():
        if name == "sd_model_checkpoint":
            if value not in (model.name, model.source):
                what = f"another model is served (got {str(value)[:100]!r}, expected {model.name!r})."
                raise UsageError(what, where=name, fix="start another `ondevice serve` with that model's bundle")
        elif name != "eta_noise_seed_delta":
            raise UsageError("this option is not done here.", where=f"option {name}", fix="leave it out")


def _noise(given: Text2Image, settings: dict[str, Any]) -> dict[str, Any]:
    """The fields of noise. A seed below 0 is any, as in WebUI."""
    fields: dict[str, Any] = {"seed": None if given.seed < 0 else given.seed}
    if given.subseed_strength > 0:
        other = secrets.randbelow(1 << 32) if given.subseed < 0 else given.subseed
        fields |= {"variation_seed": other, "variation_strength": given.subseed_strength}
    delta = settings.get("eta_noise_seed_delta", 0)
    if type(delta) is not int:
        raise UsageError("not a whole number.", where="eta_noise_seed_delta", fix="use 0")
    return fields | {"noise_seed_delta": delta}


def _sampler(given: Text2Image, model: Served) -> tuple[dict[str, Any], list[str]]:
    """The sampler and its levels of noise, and what is another than there. An eta is taken by the samplers that have
    one; noise levels without a sampler are those of the model's own."""
    name = given.sampler_name or given.sampler_index
    sampler, options, lost = None, dict[str, Any](), list[str]()
    if name is not None or given.scheduler is not None:
        sampler, options, lost = named(name or model.spec.sampler, given.scheduler)
    if given.eta is not None and (sampler or model.spec.sampler) in ("ddim", "tcd"):
        options = options | {"eta": given.eta}
    return {"sampler": sampler, "sampler_options": options}, lost
