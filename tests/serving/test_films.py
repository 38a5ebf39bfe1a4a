"""A server whose model draws films of a picture: what the page and the APIs ask, and the WebP that comes of it."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from serving.serving_helpers import Running, encoded

from ondevice import Pipeline
from ondevice.compiler import Recipe, compile_bundle
from ondevice.compiler.jobs import Frames
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.serving.gallery import Gallery

pytestmark = pytest.mark.device
PICTURE = np.random.default_rng(1).integers(0, 256, (30, 50, 3), np.uint8)  # of another size than the film
ASKED = {"image": encoded(PICTURE), "num_inference_steps": 2, "seed": 4, "numbers": {"fps": 5, "motion_bucket": 40}}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """(bundle, server) of the model of films in the package, of three frames."""
    folder = tmp_path_factory.mktemp("films")
    recipe = Recipe("f32", film=Frames((3,), 3))
    bundle = compile_bundle(open_checkpoint(None, family="demo-video"), folder / "m.ondevice", recipe, sizes=[(48, 24)])
    server = Running(bundle, folder / "gallery")
    yield bundle, server
    server.stop()


def frames_of(data):
    """(pixels of each frame, milliseconds of the first, how often it is played) of a WebP."""
    image = Image.open(io.BytesIO(data))
    shown = []
    for number in range(image.n_frames):
        image.seek(number)
        shown.append(np.asarray(image.convert("RGB")))
    return np.stack(shown), image.info["duration"], image.info["loop"]


def test_a_film_is_that_of_the_pipeline_and_in_the_gallery(film):
    bundle, server = film
    ask = server.ask
    _, model = ask("GET", "/api/model")
    assert (model["gives"], model["prompt"], model["image_needed"], model["strength"]) == ("frames", False, True, None)
    assert {"fps", "motion_bucket", "noise_augmentation"} <= set(model["numbers"])
    status, accepted = ask("POST", "/api/jobs", ASKED)
    row = ask.wait(accepted["id"])
    assert (status, row["state"], len(row["pictures"])) == (202, "done", 1), row
    (name,) = row["pictures"]
    status, data = ask("GET", f"/api/gallery/{name}")
    assert status == 200 and name.endswith(".webp") and ask.headers["content-type"] == "image/webp"
    pipe = Pipeline.from_bundle(bundle, device="cpu")
    drawn = pipe(image=Image.fromarray(PICTURE), num_inference_steps=2, seed=4, fps=5, motion_bucket_id=40)
    shown, each, loops = frames_of(data)
    np.testing.assert_array_equal(shown, drawn.frames)
    assert (len(shown), each, loops) == (3, 200, 0)
    (entry,) = ask("GET", "/api/gallery?count=1")[1]["pictures"]
    assert (entry["width"], entry["height"], entry["parameters"]["fps"]) == (48, 24, 5)
    assert Gallery(server.gallery.folder).entry(name).parameters == entry["parameters"], "after a new start"


def test_what_a_model_of_films_is_not_asked(film):
    ask = film[1].ask
    for change, said in {
        "image": "image: this model draws nothing without a picture",
        "prompt": "prompt: this model takes no such text",
        "strength": "strength",
        "numbers": "frame_count: the bundle has no plans of so many (got 5, expected 3)",
    }.items():
        body = ASKED | {"prompt": "a cat"} if change == "prompt" else dict(ASKED)
        body |= {"strength": 0.5} if change == "strength" else {}
        body |= {"numbers": {"frame_count": 5}} if change == "numbers" else {}
        if change == "image":
            del body["image"]
        status, refusal = ask("POST", "/api/jobs", body)
        if status == 202:
            row = ask.wait(refusal["id"])
            assert row["state"] == "failed" and said in row["error"]["detail"], (change, row)
        else:
            assert status == 422 and said in refusal["detail"], (change, refusal)


def test_clients_of_webui_get_the_film(film):
    ask = film[1].ask
    body = {"init_images": [ASKED["image"]], "steps": 2, "seed": 4, "override_settings": {}}
    status, answer = ask("POST", "/sdapi/v1/img2img", body)
    assert status == 200, answer
    (image,) = answer["images"]
    assert len(frames_of(base64.b64decode(image))[0]) == 3
    assert "denoising_strength: the model takes none" in answer["info"]
    status, refusal = ask("POST", "/sdapi/v1/txt2img", {"prompt": "", "steps": 2})
    assert status == 422 and "this model draws nothing without a picture" in refusal["detail"]
