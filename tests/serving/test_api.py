"""The page's API, asked as a page does."""

import base64
import io
import json
from http.client import HTTPConnection

import numpy as np
import pytest
from PIL import Image
from serving.serving_helpers import Running, encoded

from ondevice import Pipeline
from ondevice.errors import DeviceError
from ondevice.serving.app import PAGE
from ondevice.serving.guard import POLICY

pytestmark = pytest.mark.device
ASKED = {"prompt": "a red circle on a blue background", "num_inference_steps": 2, "seed": 5}


@pytest.fixture
def ask(running):
    return running.ask


def test_the_page_is_whole_and_asks_nobody_else(ask):
    for address in PAGE:
        status, text = ask("GET", address)
        assert status == 200 and ask.headers["content-security-policy"] == POLICY
        assert b"http" not in text.replace(b"http://www.w3.org/2000/svg", b"").replace(b"HTTP", b"")
        assert b" style=" not in text and b"onclick" not in text and b"<script>" not in text  # the policy has no place
    assert ask("GET", "/nothing")[0] == 404 and ask("GET", "/page/../app.py")[0] == 404


def test_what_the_model_takes(ask):
    _, model = ask("GET", "/api/model")
    assert (model["name"], model["sizes"], model["size"]) == ("demo", [[64, 64], [96, 64]], [64, 64])
    assert {"ddim", "euler_a", "dpmpp_2m"} <= set(model["samplers"]) and "flow_euler" not in model["samplers"]
    assert model["image"] and model["mask"] and model["negative_prompt"] and not model["image_needed"]


def test_a_picture_is_that_of_generate_and_in_the_gallery(ask, bundle, tmp_path):
    status, accepted = ask("POST", "/api/jobs", ASKED | {"negative_prompt": "green", "count": 2, "window": "w"})
    assert status == 202 and accepted["seed"] == 5 and (accepted["width"], accepted["height"]) == (64, 64)
    row = ask.wait(accepted["id"])
    assert row["state"] == "done" and row["window"] == "w" and len(row["pictures"]) == 2
    pipe = Pipeline.from_bundle(bundle, device="cpu")
    for number, name in enumerate(row["pictures"]):
        status, file = ask("GET", f"/api/gallery/{name}")
        path = tmp_path / "a.png"
        path.write_bytes(file)
        drawn = pipe(ASKED["prompt"], negative_prompt="green", num_inference_steps=2, seed=5 + number, emphasis="mean")
        assert status == 200 and np.array_equal(Image.open(path), drawn.pixels)
        assert json.loads(Image.open(path).text["ondevice"])["seed"] == 5 + number
    _, listed = ask("GET", "/api/gallery?count=2")
    assert [entry["name"] for entry in listed["pictures"]] == row["pictures"][::-1]
    assert listed["pictures"][0]["parameters"]["prompt"] == ASKED["prompt"]


def test_a_seed_is_chosen_where_none_is_given(ask):
    seeds = {ask("POST", "/api/jobs", ASKED | {"seed": None})[1]["seed"] for _ in range(2)}
    assert len(seeds) == 2
    for row in ask("GET", "/api/jobs")[1]["jobs"]:
        ask.wait(row["id"])


def test_progress_queue_and_stopping(running, ask):
    """The first of three is held in its second step: the others wait in their places, one is taken out, and the first
    ends within its step."""
    with running.jobs.held(3):
        first, second, third = (ask("POST", "/api/jobs", ASKED | {"num_inference_steps": 9})[1]["id"] for _ in range(3))
        for _ in range(500):
            row = ask.state(first)
            if row["step"] == 2:
                break
        assert (row["state"], row["steps"]) == ("drawing", 9) and row["seconds_left"] >= 0
        assert [ask.state(name)["place"] for name in (first, second, third)] == [0, 1, 2]
        assert ask("DELETE", f"/api/jobs/{second}") == (200, {"stopped": True})
        assert ask.state(second)["state"] == "stopped" and ask.state(third)["place"] == 1
        assert ask("DELETE", f"/api/jobs/{first}") == (200, {"stopped": True}) and ask.state(first)["stopping"]
    assert ask.wait(first)["step"] == 3 and ask.state(first)["state"] == "stopped"
    assert ask.wait(third)["state"] == "done"
    assert ask("DELETE", "/api/jobs/none")[0] == 404 and ask("DELETE", f"/api/jobs/{third}")[1] == {"stopped": False}


def test_the_queue_is_bounded(running, ask):
    with running.jobs.held(1):
        accepted = [ask("POST", "/api/jobs", ASKED)[1]["id"]]
        ask.wait(accepted[0], "drawing")
        accepted += [ask("POST", "/api/jobs", ASKED)[1]["id"] for _ in range(3)]
        status, refused = ask("POST", "/api/jobs", ASKED)
        assert status == 503 and refused["detail"].startswith("the queue is full") and "Retry-After".lower() in {
            name.lower() for name in ask.headers
        }  # fmt: skip
    assert {ask.wait(name)["state"] for name in accepted} == {"done"}


def test_events_are_the_whole_state_and_come_when_something_changes(running, ask):
    connection = HTTPConnection("127.0.0.1", ask.port, timeout=60)
    connection.request("GET", "/api/events")
    answer = connection.getresponse()
    assert answer.status == 200 and answer.getheader("content-type").startswith("text/event-stream")
    with running.jobs.held(2):
        name = ask("POST", "/api/jobs", ASKED)[1]["id"]
        seen = []
        while ("drawing", 1) not in seen:
            line = answer.readline()
            if line.startswith(b"data: "):
                seen += [(row["state"], row["step"]) for row in json.loads(line[6:])["jobs"] if row["id"] == name]
    while ("done", 2) not in seen:
        line = answer.readline()
        if line.startswith(b"data: "):
            seen += [(row["state"], row["step"]) for row in json.loads(line[6:])["jobs"] if row["id"] == name]
    connection.close()


def test_an_init_image_and_a_mask(ask):
    picture = np.full((64, 96, 3), 200, np.uint8)
    mask = np.zeros((64, 96, 3), np.uint8)
    mask[:, :48] = 255
    asked = ASKED | {
        "image": f"data:image/png;base64,{encoded(picture)}",
        "image_name": "../x/cat.png",
        "strength": 1.0,
    }
    row = ask.wait(ask("POST", "/api/jobs", asked | {"mask": encoded(mask)})[1]["id"])
    assert (row["state"], row["width"], row["height"]) == ("done", 96, 64)  # the image's own size
    entry = ask("GET", "/api/gallery?count=1")[1]["pictures"][0]
    assert entry["parameters"]["init_image"] == "cat.png" and entry["parameters"]["strength"] == 1.0
    _, file = ask("GET", f"/api/gallery/{entry['name']}")

    pixels = np.asarray(Image.open(io.BytesIO(file)))
    assert (pixels[:, 48:] == 200).all() and not (pixels[:, :48] == 200).all()


BAD = [
    ({"prompt": None}, "prompt: "),
    ({"prompt": "x" * 20_001}, "prompt: "),
    ({"num_inference_steps": 0}, "num_inference_steps: "),
    ({"num_inference_steps": 1001}, "num_inference_steps: "),
    ({"guidance_scale": "NaN"}, "guidance_scale: "),
    ({"count": 17}, "count: "),
    ({"seed": "1e3"}, "seed: "),
    ({"unknown": 1}, "unknown: "),
    (
        {"width": 80, "height": 80},
        "size: the bundle holds no such size (got 80x80, expected one of 64x64, 96x64). Fix: ",
    ),
    ({"width": 65, "height": 64}, "width: not a size the model can draw (got 65, expected a multiple of 8). Fix: "),
    ({"sampler": "none"}, "sampler: no such sampler (got 'none'"),
    ({"sampler": "flow_euler"}, "sampler flow_euler: "),
    ({"sampler_options": {"eta": 9}}, "sampler "),
    ({"image": "!"}, "image: it is not base64. Fix: encode the picture's file as base64."),
    ({"image": "https://evil.example/a.png"}, "image: pictures are not fetched from addresses. Fix: "),
    ({"image": base64.b64encode(b"<svg>").decode()}, "image: not a readable image (it is a web page or SVG"),
    ({"mask": encoded(np.zeros((8, 8, 3), np.uint8))}, "mask: "),
    ({"adapters": [{"name": "../../etc/passwd"}]}, "adapters: no such LoRA (got '../../etc/passwd', expected "),
    ({"pictures": {"pose": encoded(np.zeros((8, 8, 3), np.uint8))}}, "pose: this model takes no such picture"),
]


@pytest.mark.parametrize("change, said", BAD, ids=lambda value: str(value)[:40])
def test_what_cannot_be_drawn_is_refused_before_it_is_queued(ask, change, said):
    status, refused = ask("POST", "/api/jobs", ASKED | change)
    assert status == 422 and refused["detail"].startswith(said), refused["detail"]
    assert refused["error"] == "UsageError" and refused["exit_code"] == 2 and len(json.dumps(refused)) < 3000


@pytest.mark.parametrize(
    "body, status, said",
    [
        (b"{", 422, "the request: it is not JSON."),
        (b'"x"', 422, "the request: "),
        (b"", 422, "the request: Field required."),
        (b"[" * 100_000, 400, "There was an error"),
        (b"\xff\xfe", 422, "the request: it is not JSON."),
        (b'{"prompt": "a", "seed": ' + b"9" * 6000 + b"}", 400, "There was an error"),
        (b'{"prompt": "a\\ud800"}', 422, "prompt: "),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_request(ask, body, status, said):
    connection = HTTPConnection("127.0.0.1", ask.port, timeout=60)
    connection.request("POST", "/api/jobs", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    refused = json.loads(answer.read())
    connection.close()
    assert answer.status == status and refused["detail"].startswith(said), refused


def test_what_fails_while_it_is_drawn_is_said_and_the_next_one_is_drawn(ask):
    row = ask.wait(ask("POST", "/api/jobs", ASKED | {"prompt": "a AND b", "guidance_scale": 1})[1]["id"])
    assert row["state"] == "failed" and row["error"]["error"] == "UsageError" and "Fix: " in row["error"]["detail"]
    assert ask.wait(ask("POST", "/api/jobs", ASKED)[1]["id"])["state"] == "done"


def test_a_picture_that_is_too_large_for_memory_is_refused_with_the_numbers(bundle, tmp_path):
    server = Running(bundle, tmp_path, "--max-memory", "1MB")
    try:
        status, refused = server.ask("POST", "/api/jobs", ASKED)
        assert status == 422 and refused["error"] == "PlanError" and refused["exit_code"] == 8
        assert refused["detail"].startswith("memory: a picture needs at least ")
        assert "arena " in refused["detail"] and "and 1.0 MB are allowed." in refused["detail"]
        assert server.ask("GET", "/api/jobs")[1]["jobs"] == []
    finally:
        server.stop()


def test_an_error_of_our_own_costs_one_picture(running, ask, monkeypatch, caplog):
    with monkeypatch.context() as patched:
        patched.setattr(running.painter, "_keep", lambda *_: 1 / 0)
        row = ask.wait(ask("POST", "/api/jobs", ASKED)[1]["id"])
    assert row["state"] == "failed" and "ZeroDivisionError" in row["error"]["detail"]
    assert ask.wait(ask("POST", "/api/jobs", ASKED)[1]["id"])["state"] == "done"


def test_names_in_requests_are_no_paths(running, ask):
    (running.gallery.folder.parent / "secret.png").write_bytes(b"secret")
    for name in ("..%2fsecret.png", "%2e%2e/secret.png", "....//secret.png", "none.png", "%00"):
        status, answer = ask("GET", f"/api/gallery/{name}")
        assert status == 404 and b"secret" not in json.dumps(answer).encode()


def test_strangers_are_refused(ask):
    assert ask("GET", "/api/model", Host="evil.example")[0] == 403
    assert ask("POST", "/api/jobs", ASKED, Origin="http://evil.example")[0] == 403
    assert ask("POST", "/api/jobs", ASKED | {"count": 0}, Origin=f"http://127.0.0.1:{ask.port}")[0] == 422


def test_openapi_has_every_route(ask):
    _, api = ask("GET", "/openapi.json")
    assert {"/api/jobs", "/api/model", "/api/events", "/sdapi/v1/txt2img"} <= api["paths"].keys()
    assert not {*api["paths"]} & {*PAGE} and api["info"]["title"] == "ondevice serve"
    asked = api["components"]["schemas"]["Asked"]["properties"]
    assert asked["count"]["maximum"] == 16 and asked["prompt"]["maxLength"] == 20_000


def test_previews(running, ask):
    """The demo model knows no sum of its channels that is a picture: its own decoder shows what is drawn."""
    with running.jobs.held(2):
        name = ask("POST", "/api/jobs", ASKED | {"num_inference_steps": 3})[1]["id"]
        for _ in range(500):
            if ask.state(name)["previews"]:
                break
        status, file = ask("GET", f"/api/jobs/{name}/preview")
        assert status == 200 and Image.open(io.BytesIO(file)).size == (64, 64)
        _, seen = ask("GET", "/sdapi/v1/progress")
        assert base64.b64decode(seen["current_image"]) == file
    row = ask.wait(name)
    assert row["state"] == "done" and 1 <= row["previews"] <= 2  # they take a fifth of the time at most
    assert ask("GET", f"/api/jobs/{name}/preview")[0] == 200  # a page may ask for it a moment late
    assert ask("GET", "/api/jobs/none/preview")[0] == 404


def test_a_preview_that_fails_costs_no_picture(running, ask, monkeypatch, caplog):
    def fail(_):
        raise DeviceError("no room.", where="vae_decoder")

    monkeypatch.setattr(running.painter, "_preview", fail)
    row = ask.wait(ask("POST", "/api/jobs", ASKED)[1]["id"])
    assert (row["state"], row["previews"]) == ("done", 0)
    assert caplog.messages == ["no more previews of this picture: vae_decoder: no room."]
