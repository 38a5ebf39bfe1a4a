"""Routes of AUTOMATIC1111's API, under /sdapi/v1, for clients that are made for it.

A picture is asked for and waited for in one request, as there. What is drawn is in the same queue as the page's.
"""

from __future__ import annotations

import base64
import json
import time
from enum import Enum
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from ondevice import __version__
from ondevice.diffusion.parameters import describe
from ondevice.serving.asked import job_of
from ondevice.serving.desk import REFUSALS, Desk
from ondevice.serving.jobs import DONE, FAILED, OVER, Job
from ondevice.serving.webui_fields import Answer, Image2Image, Text2Image, asked_of, check_settings, ignored
from ondevice.serving.webui_samplers import LEVELS, NAMES

TAG: list[str | Enum] = ["sdapi"]


class Progress(BaseModel):
    """How far what is drawn now is: 0 to 1, seconds that are left, and a preview in base64."""

    progress: float
    eta_relative: float
    state: dict[str, Any]
    current_image: str | None = None
    textinfo: str | None = None
    current_task: str | None = None


def add_routes(app: FastAPI, desk: Desk) -> None:
    """All of them."""
    _add_drawing(app, desk)
    _add_progress(app, desk)
    _add_lists(app, desk)


def _add_drawing(app: FastAPI, desk: Desk) -> None:
    async def drawn(given: Text2Image) -> Answer:
        job, lost = await run_in_threadpool(asked, given)
        lost += job.notes()
        job.keep, job.send = given.save_images, given.send_images
        assert job.request is not None, "it is not over"
        first = job.request
        desk.put(job)
        await desk.news.until(lambda: job.state in OVER)
        try:
            if job.state == FAILED:
                assert job.error is not None, "it failed"
                raise job.error
            if job.state != DONE and not job.infos:
                raise HTTPException(409, "it was stopped before a picture was done.")
            images = [base64.b64encode(file).decode() for file in job.files]
        finally:
            job.files.clear()
        if isinstance(given, Image2Image) and given.include_init_images:
            images += given.init_images[:1]
        return Answer(
            images=images,
            parameters=given.model_dump(include=type(given).model_fields.keys() - {"init_images", "mask"}),
            info=json.dumps(_info(desk, given, job, first.variation_seed) | {"differs": lost}),
        )

    def asked(given: Text2Image) -> tuple[Job, list[str]]:
        ours, lost = asked_of(given, desk.model)
        return job_of(ours, desk.model), lost

    @app.post("/sdapi/v1/txt2img", tags=TAG, response_model=Answer, responses=REFUSALS)
    async def txt2img(given: Text2Image) -> Answer:
        """Draw pictures from a text, and wait for them."""
        return await drawn(given)

    @app.post("/sdapi/v1/img2img", tags=TAG, response_model=Answer, responses=REFUSALS)
    async def img2img(given: Image2Image) -> Answer:
        """Draw pictures from a picture, or a part of it anew, and wait for them."""
        return await drawn(given)


def _info(desk: Desk, given: Text2Image, job: Job, variation: int | None) -> dict[str, Any]:
    """About the pictures, as WebUI's `Processed.js`; `infotexts` are what is in their files."""
    infos = job.infos
    first = infos[0] if infos else {}
    texts = [describe(info, desk.model.scheduler) for info in infos]
    others = [info.get("variation_seed", -1) for info in infos]
    return {
        "prompt": first.get("prompt", given.prompt),
        "all_prompts": [info["prompt"] for info in infos],
        "negative_prompt": first.get("negative_prompt", given.negative_prompt),
        "all_negative_prompts": [info["negative_prompt"] for info in infos],
        "seed": first.get("seed", given.seed),
        "all_seeds": [info["seed"] for info in infos],
        "subseed": -1 if variation is None else variation,
        "all_subseeds": others,
        "subseed_strength": given.subseed_strength,
        "width": job.size[0],
        "height": job.size[1],
        "sampler_name": given.sampler_name or given.sampler_index or first.get("sampler", ""),
        "cfg_scale": first.get("guidance_scale"),
        "steps": first.get("steps"),
        "batch_size": given.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": desk.model.name,
        "sd_model_hash": None,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": first.get("strength"),
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": f"ondevice {__version__}",
        "ignored": ignored(given),
    }


def _add_progress(app: FastAPI, desk: Desk) -> None:
    @app.get("/sdapi/v1/progress", tags=TAG, response_model=Progress)
    async def progress(skip_current_image: bool = False) -> Progress:
        """How far what is drawn now is."""
        job = desk.jobs.drawing()
        left = None if job is None else desk.jobs.seconds_left(job)
        image = None if job is None or skip_current_image else job.preview
        state = {
            "skipped": False,
            "interrupted": job is not None and job.stopping,
            "stopping_generation": job is not None and job.stopping,
            "job": "" if job is None else job.id,
            "job_count": 0 if job is None else job.count,
            "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
            "job_no": 0 if job is None else job.picture,
            "sampling_step": 0 if job is None else job.step,
            "sampling_steps": 0 if job is None else job.steps,
        }
        return Progress(
            progress=0.0 if job is None else job.progress(),
            eta_relative=left or 0.0,
            state=state,
            current_image=None if image is None else base64.b64encode(image).decode(),
            current_task=None if job is None else job.id,
        )

    @app.post("/sdapi/v1/interrupt", tags=TAG)
    async def interrupt() -> dict[str, Any]:
        """End the job that is drawn, after its step."""
        desk.jobs.stop_drawing()
        return {}


def _add_lists(app: FastAPI, desk: Desk) -> None:
    title, options = desk.model.name, {"samples_format": "png"}

    @app.get("/sdapi/v1/samplers", tags=TAG)
    async def samplers() -> list[dict[str, Any]]:
        """WebUI's names of the samplers that this model can be drawn with."""
        known = [(name, ours) for name, ours in NAMES.items() if ours in desk.model.samplers]
        unnamed = [ours for ours in desk.model.samplers if ours not in {found for _, found in known}]
        return [{"name": name, "aliases": [ours], "options": {}} for name, ours in known] + [
            {"name": ours, "aliases": [], "options": {}} for ours in unnamed
        ]

    @app.get("/sdapi/v1/schedulers", tags=TAG)
    async def schedulers() -> list[dict[str, Any]]:
        """WebUI's names of the noise levels that are known here."""
        rest = {"aliases": None, "default_rho": -1.0, "need_inner_model": False}
        return [{"name": name, "label": label} | rest for name, label in LEVELS.items()]

    @app.get("/sdapi/v1/sd-models", tags=TAG)
    async def models() -> list[dict[str, Any]]:
        """The model that is served."""
        rest = {"hash": None, "sha256": None, "filename": title, "config": None}
        return [{"title": title, "model_name": title} | rest]

    @app.get("/sdapi/v1/loras", tags=TAG)
    def loras() -> list[dict[str, Any]]:
        """The LoRA that a prompt may name as `<lora:NAME:SCALE>`."""
        return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in desk.model.adapters.names()]

    @app.get("/sdapi/v1/options", tags=TAG)
    async def get_options() -> dict[str, Any]:
        """The options that are known here."""
        return {"sd_model_checkpoint": title} | options

    @app.post("/sdapi/v1/options", tags=TAG, responses=REFUSALS)
    async def set_options(given: dict[str, Any]) -> dict[str, Any]:
        """Refused, but for what is so already: nothing can be changed while a model is served."""
        known = await get_options()
        check_settings({name: value for name, value in given.items() if known.get(name) != value}, desk.model)
        return {}
