"""LoRA of a folder and pictures for ControlNets, asked for over HTTP: what the same call from Python draws."""

import json

import numpy as np
import pytest
from control_files import squares, with_nets
from serving.serving_helpers import Running, decoded, encoded

from ondevice import Pipeline
from ondevice.compiler import Recipe, compile_bundle
from ondevice.diffusion import adapters as switched
from ondevice.diffusion.canny import edge_picture
from ondevice.errors import DeviceError, UsageError
from ondevice.serving.adapters import Adapters, from_prompt

pytestmark = pytest.mark.device
ASKED = {"prompt": "a red circle on a blue background", "num_inference_steps": 2, "seed": 5}


@pytest.fixture
def ask(running):
    return running.ask


def drawn(ask, running, **fields):
    """(pixels, parameters) of a picture that was asked for."""
    status, accepted = ask("POST", "/api/jobs", ASKED | fields)
    assert status == 202, accepted
    row = ask.wait(accepted["id"])
    assert row["state"] == "done", row
    entry = running.gallery.entry(row["pictures"][0])
    from PIL import Image

    return np.asarray(Image.open(running.gallery.find(entry.name))), entry.parameters, accepted["notes"]


def test_an_adapter_is_switched_on_and_off(running, ask, bundle, lora_dir):
    assert ask("GET", "/api/model")[1]["adapters"] == ["style"]
    assert [row["name"] for row in ask("GET", "/sdapi/v1/loras")[1]] == ["style"]
    pipe = Pipeline.from_bundle(bundle, device="cpu")
    call = {"num_inference_steps": 2, "seed": 5, "emphasis": "mean"}
    plain = pipe(ASKED["prompt"], **call).pixels
    pipe.load_lora_weights(lora_dir / "style.safetensors", "style")
    pipe.set_adapters("style", 0.6)
    styled = pipe(ASKED["prompt"], **call).pixels
    assert not np.array_equal(plain, styled)
    pixels, parameters, notes = drawn(ask, running, adapters=[{"name": "style", "scale": 0.6}])
    assert np.array_equal(pixels, styled) and parameters["lora"] == ["style:0.6"]
    assert len(notes) == 1 and notes[0].startswith("style: ") and notes[0].endswith(" applied")
    pixels, parameters, notes = drawn(ask, running)
    assert np.array_equal(pixels, plain) and "lora" not in parameters and notes == []
    pixels, parameters, _ = drawn(ask, running, prompt=f"{ASKED['prompt']}<lora:style:0.6>")
    assert np.array_equal(pixels, styled) and parameters["prompt"] == ASKED["prompt"]
    asked = {"prompt": f"<lora:style:0.6>{ASKED['prompt']}", "steps": 2, "seed": 5}
    _, answer = ask("POST", "/sdapi/v1/txt2img", asked)
    assert np.array_equal(decoded(answer["images"][0])[0], styled)
    assert json.loads(answer["info"])["differs"] == [notes_of(running)]


def test_what_a_switch_that_failed_has_left_is_not_drawn_with(running, ask, monkeypatch):
    plain, *_ = drawn(ask, running)

    def lost(*_):
        raise DeviceError("it is gone.", where="device")

    with monkeypatch.context() as failing:
        failing.setattr(switched.Adapters, "use", lost)
        accepted = ask("POST", "/api/jobs", ASKED | {"adapters": [{"name": "style"}]})[1]
        assert ask.wait(accepted["id"])["error"]["detail"] == "device: it is gone."
    pixels, parameters, _ = drawn(ask, running)
    assert np.array_equal(pixels, plain) and "lora" not in parameters


def notes_of(running):
    return str(running.model.adapters_of([("style", None)])[0][0])


@pytest.mark.parametrize(
    "adapters, said",
    [
        (
            [{"name": "none"}],
            "adapters: no such LoRA (got 'none', expected one of style). Fix: put .safetensors files ",
        ),
        ([{"name": "../style"}], "adapters: no such LoRA (got '../style', expected one of style)."),
        ([{"name": "style"}, {"name": "style"}], "adapters: 'style' is there twice. Fix: name each once."),
        ([{"name": "style", "scale": 11}], "adapters.0.scale: "),
    ],
)
def test_what_is_no_adapter(ask, adapters, said):
    status, refused = ask("POST", "/api/jobs", ASKED | {"adapters": adapters})
    assert status == 422 and refused["detail"].startswith(said), refused


def test_a_file_is_read_when_it_is_asked_for(running, ask, lora_dir):
    path = lora_dir / "late.safetensors"
    try:
        path.write_bytes(b"no such format")
        assert ask("GET", "/api/model")[1]["adapters"] == ["late", "style"]
        status, refused = ask("POST", "/api/jobs", ASKED | {"adapters": [{"name": "late"}]})
        assert status == 422 and refused["error"] == "CheckpointError"
        path.write_bytes((lora_dir / "style.safetensors").read_bytes())
        assert drawn(ask, running, adapters=[{"name": "late"}])[1]["lora"] == ["late:1"]
    finally:
        path.unlink()


def test_adapters_in_a_prompt():
    assert from_prompt("a cat") == ("a cat", [])
    assert from_prompt("<lora:a b:0.5>x<lyco:c> y<lora:d:-1:lbw=x>") == ("x y", [("a b", 0.5), ("c", 1.0), ("d", -1.0)])
    assert from_prompt("(a:1.2) <b> <lora:> <loral:x:1>")[1] == []
    for prompt, said in (
        ("<lora:a:x>", "<lora:a>: no scale of a LoRA (got 'x', expected -10 to 10). Fix: write such as 0.8."),
        ("<lora:a:99>", "<lora:a>: no scale"),
        ("<lora:a:nan>", "<lora:a>: no scale"),
        ("<hypernet:a:1>", "<hypernet:a:1>: only LoRA are drawn with here. Fix: leave it out of the prompt."),
    ):
        with pytest.raises(UsageError) as caught:
            from_prompt(prompt)
        assert str(caught.value).startswith(said)


def test_carried_adapters_come_first(tmp_path):
    for name in ("b.safetensors", "own.safetensors", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    found = Adapters(tmp_path, ("own",))
    assert found.names() == ["own", "b"] and found.file("own") is None and found.file("b") == tmp_path / "b.safetensors"
    assert Adapters(None).names() == []


def test_a_picture_for_a_controlnet(tmp_path):
    path = compile_bundle(with_nets("sd15", 1), tmp_path / "m.ondevice", Recipe("f32"), sizes=[(24, 16)])
    server = Running(path, tmp_path / "gallery")
    try:
        facts = server.ask("GET", "/api/model")[1]
        assert facts["pictures"] == ["control"] and facts["numbers"]["control_scale"]["default"] == 1
        given = squares(1, 40, 32)
        pipe = Pipeline.from_bundle(path, device="cpu")
        call = {"num_inference_steps": 2, "seed": 5, "emphasis": "mean", "width": 24, "height": 16}
        asked = {"pictures": {"control": encoded(given)}, "numbers": {"control_scale": 0.5}}
        pixels, _, _ = drawn(server.ask, server, **asked)
        whole = pipe(ASKED["prompt"], control_image=given, controlnet_conditioning_scale=0.5, **call).pixels
        assert np.array_equal(pixels, whole)
        from ondevice.diffusion.image import fitted

        pixels, parameters, _ = drawn(server.ask, server, **asked, canny=[100, 200])
        edges = edge_picture(fitted(given, 24, 16), 100, 200)
        edged = pipe(ASKED["prompt"], control_image=edges, controlnet_conditioning_scale=0.5, **call).pixels
        assert np.array_equal(pixels, edged) and parameters["canny"] == "100,200"
        assert not np.array_equal(whole, edged)
        status, refused = server.ask("POST", "/api/jobs", ASKED | asked | {"canny": [-1, 5]})
        assert status == 422 and refused["detail"].startswith(
            "canny: no thresholds (got -1 and 5, expected 0 or more)."
        )
    finally:
        server.stop()
