"""AUTOMATIC1111's API, asked as its clients do (the wiki's example, and what plugins of editors send)."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from serving.serving_helpers import decoded, encoded

from ondevice import Pipeline
from ondevice.errors import UsageError
from ondevice.serving.webui_fields import HARMLESS, REFUSED, Image2Image, Text2Image
from ondevice.serving.webui_samplers import named

PAYLOAD = {"prompt": "a red circle on a blue background", "steps": 2, "width": 64, "height": 64}
# what a client sends that was made from WebUI's own openapi.json: every field, with its default
DEFAULTS = {
    "negative_prompt": "", "styles": None, "seed": -1, "subseed": -1, "subseed_strength": 0, "seed_resize_from_h": -1,
    "seed_resize_from_w": -1, "sampler_name": None, "scheduler": None, "batch_size": 1, "n_iter": 1, "cfg_scale": 7.0,
    "restore_faces": None, "tiling": None, "do_not_save_samples": False, "do_not_save_grid": False, "eta": None,
    "denoising_strength": None, "s_min_uncond": None, "s_churn": None, "s_tmax": None, "s_tmin": None, "s_noise": None,
    "override_settings": None, "override_settings_restore_afterwards": True, "refiner_checkpoint": None,
    "refiner_switch_at": None, "disable_extra_networks": False, "firstpass_image": None, "comments": None,
    "enable_hr": False, "firstphase_width": 0, "firstphase_height": 0, "hr_scale": 2.0, "hr_upscaler": None,
    "hr_second_pass_steps": 0, "hr_resize_x": 0, "hr_resize_y": 0, "hr_checkpoint_name": None, "hr_sampler_name": None,
    "hr_scheduler": None, "hr_prompt": "", "hr_negative_prompt": "", "force_task_id": None, "sampler_index": "Euler",
    "script_name": None, "script_args": [], "send_images": True, "save_images": False, "alwayson_scripts": {},
    "infotext": None,
}  # fmt: skip


@pytest.fixture
def ask(running):
    return running.ask


@pytest.mark.device
def test_a_client_draws(ask, bundle):
    before = ask("GET", "/api/gallery")[1]
    status, answer = ask("POST", "/sdapi/v1/txt2img", DEFAULTS | PAYLOAD | {"seed": 3, "n_iter": 2, "cfg_scale": 4})
    assert status == 200 and len(answer["images"]) == 2
    info = json.loads(answer["info"])
    assert info["all_seeds"] == [3, 4] and info["sampler_name"] == "Euler" and info["cfg_scale"] == 4
    assert info["sd_model_name"] == "demo" and info["ignored"] == [] and answer["parameters"]["steps"] == 2
    pipe = Pipeline.from_bundle(bundle, device="cpu")
    asked = {
        "negative_prompt": "",
        "num_inference_steps": 2,
        "guidance_scale": 4,
        "sampler": "euler",
        "emphasis": "mean",
        "sampler_options": {"timestep_spacing": "linspace"},  # what "Automatic" is for it there
    }
    for seed, image, text in zip((3, 4), answer["images"], info["infotexts"], strict=True):
        pixels, texts = decoded(image)
        assert np.array_equal(pixels, pipe(PAYLOAD["prompt"], seed=seed, **asked).pixels)
        assert texts["parameters"] == text and f"Seed: {seed}" in text
    assert ask("GET", "/api/gallery")[1] == before  # save_images is false
    assert ask("POST", "/sdapi/v1/txt2img", PAYLOAD | {"save_images": True, "send_images": False})[1]["images"] == []
    assert ask("GET", "/api/gallery?count=1")[1]["pictures"][0]["parameters"]["prompt"] == PAYLOAD["prompt"]


@pytest.mark.device
def test_a_client_draws_from_a_picture(ask):
    picture, mask = np.full((64, 64, 3), 90, np.uint8), np.zeros((64, 64, 3), np.uint8)
    mask[:32] = 255
    defaults = {  # of img2img, beside those of txt2img; as webuiapi 0.9.17 sends them
        "resize_mode": 0, "image_cfg_scale": 1.5, "mask_blur": 4, "inpainting_fill": 0, "inpaint_full_res": True,
        "inpaint_full_res_padding": 0, "inpainting_mask_invert": 0, "initial_noise_multiplier": 1, "eta": 1.0,
        "s_churn": 0, "s_tmax": 0, "s_tmin": 0, "s_noise": 1, "override_settings": {}, "include_init_images": False,
    }  # fmt: skip
    begun = (
        DEFAULTS
        | defaults
        | PAYLOAD
        | {"init_images": [encoded(picture)], "denoising_strength": 1.0, "mask": encoded(mask)}
    )
    status, answer = ask("POST", "/sdapi/v1/img2img", begun | {"include_init_images": True})
    assert status == 200 and answer["images"][1] == begun["init_images"][0]
    pixels, _ = decoded(answer["images"][0])
    assert (pixels[32:] == 90).all() and not (pixels[:32] == 90).all()
    assert json.loads(answer["info"])["differs"][0].startswith("inpaint_full_res: the mask's surroundings are not")
    _, answer = ask("POST", "/sdapi/v1/img2img", begun | {"inpainting_mask_invert": 1, "inpaint_full_res": False})
    pixels, _ = decoded(answer["images"][0])
    assert (pixels[:32] == 90).all() and not (pixels[32:] == 90).all()
    assert "mask" not in answer["parameters"] and json.loads(answer["info"])["denoising_strength"] == 1.0


@pytest.mark.device
def test_a_client_sees_progress_and_interrupts(running, ask):
    answers = []
    with running.jobs.held(3):
        asked = PAYLOAD | {"steps": 8}
        thread = threading.Thread(target=lambda: answers.append(ask("POST", "/sdapi/v1/txt2img", asked)))
        thread.start()
        for _ in range(500):
            _, seen = ask("GET", "/sdapi/v1/progress")
            if seen["state"]["sampling_step"] == 2:
                break
        assert seen["progress"] == 0.25 and seen["state"]["sampling_steps"] == 8 and seen["eta_relative"] > 0
        assert seen["state"]["job_count"] == 1 and not seen["state"]["interrupted"]
        assert ask("GET", "/sdapi/v1/progress?skip_current_image=true")[1]["current_image"] is None
        assert ask("POST", "/sdapi/v1/interrupt") == (200, {})
        assert ask("GET", "/sdapi/v1/progress")[1]["state"]["interrupted"]
    thread.join(30)
    assert answers[0][0] == 409 and "stopped before a picture was done" in answers[0][1]["detail"]
    _, seen = ask("GET", "/sdapi/v1/progress")
    assert (seen["progress"], seen["eta_relative"], seen["state"]["job_count"], seen["current_image"]) == (
        0,
        0,
        0,
        None,
    )


@pytest.mark.device
def test_lists(ask):
    samplers = {row["name"]: row["aliases"] for row in ask("GET", "/sdapi/v1/samplers")[1]}
    assert (
        samplers["Euler a"] == ["euler_a"] and samplers["DPM++ 2M SDE"] == ["dpmpp_2m"] and samplers["sa_solver"] == []
    )
    for name in samplers:
        assert (
            ask("POST", "/sdapi/v1/txt2img", PAYLOAD | {"sampler_name": name, "steps": 4, "send_images": False})[0]
            == 200
        )
    assert {"name": "karras", "label": "Karras"}.items() <= ask("GET", "/sdapi/v1/schedulers")[1][1].items()
    (model,) = ask("GET", "/sdapi/v1/sd-models")[1]
    assert model["title"] == model["model_name"] == "demo"
    assert ask("GET", "/sdapi/v1/options")[1]["sd_model_checkpoint"] == "demo"
    assert ask("POST", "/sdapi/v1/options", {"sd_model_checkpoint": "demo", "samples_format": "png"})[0] == 200
    status, refused = ask("POST", "/sdapi/v1/options", {"sd_model_checkpoint": "v1-5"})
    assert status == 422 and refused["detail"].startswith(
        "sd_model_checkpoint: another model is served (got 'v1-5', expected 'demo'). Fix: "
    )


REFUSALS = [
    ({"enable_hr": True}, "enable_hr: a second pass at a larger size is not done here. Fix: leave enable_hr out."),
    ({"restore_faces": True}, "restore_faces: faces are not restored here."),
    ({"alwayson_scripts": {"ControlNet": {"args": []}}}, "alwayson_scripts: there are no extensions here."),
    ({"script_name": "x/y/z plot"}, "script_name: there are no scripts here."),
    ({"styles": ["photo"]}, "styles: there are no styles here."),
    ({"sampler_name": "Restart"}, "sampler_name: no such sampler (got 'Restart', expected one of PLMS, "),
    ({"scheduler": "Turbo"}, "scheduler: no such noise levels (got 'Turbo', expected one of Automatic, "),
    (
        {"override_settings": {"CLIP_stop_at_last_layers": 2}},
        "option CLIP_stop_at_last_layers: this option is not done here.",
    ),
    ({"batch_size": 8, "n_iter": 3}, "batch_size * n_iter: too many pictures at once (got 24, expected at most 16)."),
    ({"width": 512, "height": 512}, "size: the bundle holds no such size (got 512x512, expected one of 64x64, 96x64)."),
    ({"steps": 0}, "steps: "),
]


@pytest.mark.device
@pytest.mark.parametrize("change, said", REFUSALS, ids=lambda value: str(value)[:30])
def test_what_is_not_done_here_is_refused(ask, change, said):
    status, refused = ask("POST", "/sdapi/v1/txt2img", PAYLOAD | change)
    assert status == 422 and refused["detail"].startswith(said), refused["detail"]


@pytest.mark.device
def test_what_is_not_known_is_ignored_and_said(ask):
    asked = PAYLOAD | {"some_extension_field": 3, "mask_blur": 4, "sampler_index": "DPM++ 2M Karras"}
    status, answer = ask("POST", "/sdapi/v1/txt2img", asked)
    assert status == 200 and json.loads(answer["info"])["ignored"] == ["some_extension_field"]
    assert "Sampler: DPM++ 2M, Schedule type: Karras" in decoded(answer["images"][0])[1]["parameters"]
    wild = PAYLOAD | {"half": "\ud800", "deep": [[float("inf")]]}  # half a letter, and no number of JSON's
    status, answer = ask("POST", "/sdapi/v1/txt2img", wild)
    assert status == 200 and json.loads(answer["info"])["ignored"] == ["deep", "half"]
    status, refused = ask("POST", "/sdapi/v1/img2img", PAYLOAD)
    assert status == 422 and refused["detail"].startswith("init_images: there is no picture to begin from.")


def test_names_of_samplers():
    karras = ("dpmpp_2m", {"use_karras_sigmas": True}, [])
    assert named("Euler", None) == ("euler", {"timestep_spacing": "linspace"}, [])
    assert named("Euler a", None) == ("euler_a", {"timestep_spacing": "linspace"}, [])
    assert named("DPM++ 2M Karras", None) == named("dpm++ 2m", None) == named("DPM++ 2M", "karras") == karras
    sampler, options, lost = named("DPM++ 2M SDE", "sgm_uniform")
    assert (sampler, options) == ("dpmpp_2m", {"algorithm_type": "sde-dpmsolver++", "timestep_spacing": "linspace"})
    assert lost == [
        "DPM++ 2M SDE is not WebUI's to the last bit: its noise is drawn, where WebUI's is a walk over sigma"
    ]
    assert named("sa_solver", "automatic") == ("sa_solver", {}, [])
    with pytest.raises(UsageError, match="no such sampler"):
        named("Karras", None)


def test_the_page_of_docs_has_every_field():
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
    for name in {*Text2Image.model_fields, *Image2Image.model_fields, *REFUSED, *HARMLESS}:
        assert f"`{name}`" in page, name
