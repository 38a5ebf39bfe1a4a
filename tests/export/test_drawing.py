"""Pictures drawn entirely by another runtime, against ours and diffusers'."""

import json
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image
from recipe_weights import case, checkpoint

from ondevice import Pipeline, cli
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.families import FAMILIES
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.errors import BundleError, NumericError, PeerError, UsageError
from ondevice.export.options import FORMATS, Options
from ondevice.export.runtimes.onnx import OnnxFile
from ondevice.export.writing import export

PROMPT = "a photo of an astronaut riding a horse on mars"


@pytest.mark.parametrize(
    "name, family, format",
    [
        ("sdxl_e2e", "sdxl", "onnx"),
        ("lcm_e2e", "lcm", "onnx"),
        ("sd2_e2e_v", "sd21", "onnx"),
        ("sdxl_e2e", "sdxl", "tflite"),
        ("sdxl_e2e", "sdxl", "coreml"),
    ],
)
def test_latents_are_those_of_diffusers(name, family, format, tmp_path):
    config, _, arrays = case(name)
    model = checkpoint(FAMILIES[family], config["scheduler"])
    pipeline = Pipeline.from_export(
        export(model, tmp_path / "g", FORMATS[format], Options(dtype="fp32"), sizes=[(24, 16)])
    )
    call = config.get("call", {}) | config
    how = {} if family == "lcm" else {"guidance_scale": call["guidance_scale"]}
    picture = pipeline(
        config.get("prompt", PROMPT),
        negative_prompt=call.get("negative_prompt"),
        num_inference_steps=None if family == "lcm" else call.get("num_inference_steps", config.get("steps")),
        seed=config.get("seed") or 0,
        latents=arrays["in.latents"],
        **how,
    )
    expected = arrays["out.latents"]
    assert np.abs(picture.latents - expected).max() <= 2e-5 * np.abs(expected).max()
    assert picture.pixels.shape == (16, 24, 3)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(a bundle, an export) of the demo model at 64x64, both float32."""
    folder, model = tmp_path_factory.mktemp("demo"), open_checkpoint(None, family="demo")
    bundle = compile_bundle(model, folder / "demo.ondevice", Recipe("f32"), sizes=[(64, 64)])
    return bundle, export(model, folder / "demo-onnx", FORMATS["onnx"], sizes=[(64, 64)])


@pytest.mark.device
def test_everything_that_generate_does(demo, tmp_path):
    """Also what takes fewer passes than the files have, and more."""
    bundle, folder = demo
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:40, 8:48] = (200, 60, 20)
    Image.fromarray(image).save(tmp_path / "begin.png")
    Image.fromarray(255 - image).save(tmp_path / "mask.png")
    begin = ["--init-image", tmp_path / "begin.png", "--strength", "0.6"]
    for flags in (
        ["a red circle AND a (blue:1.3) square", "--negative", "blue", "--count", "2"],
        ["a red circle", "--sampler", "dpmpp_2m", "--karras", "--guidance", "1"],
        ["a red circle", *begin, "--mask", tmp_path / "mask.png"],
    ):
        drawn = []
        for words in ([bundle], [folder, "--runtime", "onnx"]):
            out = tmp_path / f"{len(words)}.png"
            asked = [words[0], *flags, *words[1:], "--seed", 3, "--steps", 2, "--out", out]
            assert cli.main(["generate", *map(str, asked)]) == 0
            drawn += [np.asarray(Image.open(path), int) for path in sorted(tmp_path.glob(f"{out.stem}*.png"))]
            for path in tmp_path.glob(f"{out.stem}*.png"):
                path.unlink()
        ours, theirs = np.split(np.stack(drawn), 2)
        assert np.abs(ours - theirs).max() <= 2, flags


@pytest.mark.device
def test_a_picture_in_half_is_ours(demo, tmp_path):
    """Weights in float16, and in Core ML all arithmetic."""
    call = {"num_inference_steps": 2, "seed": 4}
    ours = Pipeline.from_bundle(demo[0])("a red circle", **call).pixels.astype(float)
    for format in ("onnx", "tflite", "coreml"):
        model, options = open_checkpoint(None, family="demo"), Options(dtype="fp16")
        folder = export(model, tmp_path / format, FORMATS[format], options, sizes=[(64, 64)])
        theirs = Pipeline.from_export(folder)("a red circle", **call).pixels
        noise = np.sqrt(np.mean((theirs - ours) ** 2))
        assert 20 * np.log10(255 / noise) >= 40, format


@pytest.mark.parametrize(
    "words, said",
    [
        (["--device", "cpu"], "--device: the runtime chooses what it runs on"),
        (["--kernels", "ours"], "--kernels: an export has no kernels. Fix: leave --kernels out."),
        (["--tile-vae"], "--tile-vae: an export has one graph of each component, in one piece"),
        (["--max-memory", "1GB"], "--max-memory: the runtime chooses"),
        (["--check"], "--check: the runtime shows no op's result while it draws"),
        (["--trace", "t.json"], "--trace: the runtime says nothing of its ops' times"),
        (["--size", "64x72"], "--size: the bundle holds no such size (got 64x72, expected one of 64x64). Fix: use one"),
    ],
)
def test_flags_without_a_meaning_there_are_refused(words, said, demo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", str(demo[1]), "x", "--runtime", "onnx", *words]) in (2, 9)
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_folder_of_another_kind_is_said(demo, tmp_path, monkeypatch, capsys):
    bundle, folder = map(str, demo)
    with pytest.raises(UsageError, match=r"no plans for a device\. Fix: open it with Pipeline\.from_export"):
        Pipeline.from_bundle(folder)
    for words, said in (
        ([folder, "x"], "it holds ONNX files, and no plans for a device. Fix: draw with --runtime onnx."),
        (
            [bundle, "x", "--runtime", "onnx"],
            "a bundle runs on a device, and not by onnxruntime on the CPU. Fix: leave",
        ),
        ([folder, "x", "--runtime", "tflite"], "it holds ONNX files, which LiteRT on the CPU does not run. Fix: draw"),
        ([str(tmp_path), "x", "--runtime", "onnx"], "is not an export (No such file or directory)"),
    ):
        assert cli.main(["generate", *words]) in (2, 9)
        assert said in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["generate", folder, "x", "--runtime", "onnx"]) == 2
    said = "onnxruntime on the CPU: it takes onnxruntime, which is not installed. Fix: pip install 'ondevice[onnx]'."
    assert said in capsys.readouterr().err


def test_what_the_runtime_refuses_is_one_error(demo, tmp_path):
    folder = shutil.copytree(demo[1], tmp_path / "g")
    weights = folder / "vae_decoder" / "model.onnx.data"
    weights.write_bytes(b"\xff" * weights.stat().st_size)  # NaN
    with pytest.raises(NumericError, match=r"Fix: find the op with `ondevice check --component vae_decoder`, or conv"):
        Pipeline.from_export(folder)("x", num_inference_steps=1)
    (folder / "unet" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(PeerError, match=r"^unet/model.onnx: onnxruntime failed \(.*\)\. Fix: convert the model again"):
        Pipeline.from_export(folder)("x", num_inference_steps=1)
    manifest = json.loads((folder / "export.json").read_text())
    text = next(entry for entry in manifest["entries"] if entry["component"] == "text_encoder")
    text["outputs"]["last_hidden_state"]["name"] = "none"
    (folder / "export.json").write_text(json.dumps(manifest))
    with pytest.raises(PeerError, match=r"^text_encoder: it gave .* \(expected none as in export\.json\)"):
        Pipeline.from_export(folder)("x", num_inference_steps=1)
    (folder / "unet" / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"names unet/model\.onnx, which is not there"):
        Pipeline.from_export(folder)


def test_a_signal_ends_a_run_at_once(demo):
    """Onnxruntime is told so, too, which else computes to the end."""
    told = []

    class Endless:
        def get_outputs(self):
            return []

        def run(self, names, inputs, how):
            for _ in range(2000):
                if how.terminate:
                    return told.append(True)
                time.sleep(0.01)

    file = OnnxFile(demo[1], "vae_decoder/model.onnx")
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background is told to ignore it
    timer.start()
    begun = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            file._run(Endless(), {})
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 10 and file._waiter.idle(5) and told == [True]


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda e: e["inputs"]["sample"].update(shape=[2, 4, 8, 9]), "which [2, 4, 8, 8] is not"),
        (lambda e: e["outputs"]["out_sample"].update(shape=[4, 4, 8, 8]), "which [2, 4, 8, 8] is not"),
        (lambda e: e["shapes"].update(sample=[2, 5, 8, 8]), "which [2, 5, 8, 8] is not"),
        (lambda e: e["inputs"]["sample"].update(axes=[0, 1, 2, 2]), "expected each axis of [2, 4, 8, 8] once"),
        (lambda e: e["inputs"].pop("sample"), "expected"),
        (lambda e: e["sizes"].update(height=9), "expected f32[2, 4, 9, 8]"),
        (lambda e: e.update(files=["../x"]), "expected"),
    ],
)
def test_what_an_export_says_is_checked(change, said, demo, tmp_path):
    folder = shutil.copytree(demo[1], tmp_path / "g")
    manifest = json.loads((folder / "export.json").read_text())
    change(next(entry for entry in manifest["entries"] if entry["component"] == "unet"))
    (folder / "export.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"export\.json") as caught:
        Pipeline.from_export(folder)
    assert said in str(caught.value)
