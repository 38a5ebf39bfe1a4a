"""The commands as a user types them: what they print, what they leave behind, and how they fail."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from ondevice import __version__, cli, errors
from ondevice.drawing import engine

pytestmark = pytest.mark.device
PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The demo model at two sizes that share their weights, with decoders in bands."""
    path = tmp_path_factory.mktemp("cli") / "demo.ondevice"
    assert cli.main(["convert", "demo", "--out", str(path), "--size", "128x128,64x72", "--tile-vae", "40"]) == 0
    return path


def fails(capsys, error, *words):
    """Run, expect `error`'s exit code, return what was said."""
    assert cli.main([str(word) for word in words]) == error.exit_code
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and "Traceback" not in said.err
    return said.err


def test_convert_then_generate(bundle, tmp_path, capsys):
    capsys.readouterr()
    out, latents = tmp_path / "a.png", tmp_path / "a.npy"
    words = [
        "generate", bundle, PROMPT, "--steps", "3", "--seed", "5", "--out", out, "--save-latents", latents, "--json",
    ]  # fmt: skip
    assert cli.main([str(word) for word in words]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["prompt"], printed["seed"], printed["out"]) == (PROMPT, 5, str(out))
    picture = Image.open(out)
    assert (
        picture.size == (128, 128)
        and "Steps: 3" in picture.text["parameters"]
        and np.load(latents).shape == (1, 4, 16, 16)
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "a.png"]
    assert (printed["model"], printed["version"]) == ("demo", f"ondevice {__version__}")
    assert "Model: demo" in picture.text["parameters"] and not {"init_image", "latents"} & printed.keys()


def test_one_file_draws_the_same_picture(bundle, tmp_path, capsys):
    packed, pictures = tmp_path / "demo.odpack", [tmp_path / "a.png", tmp_path / "b.png"]
    assert cli.main(["pack", str(bundle), "--out", str(packed)]) == 0
    for place, out in zip((bundle, packed), pictures, strict=True):
        assert cli.main(["generate", str(place), PROMPT, "--steps", "2", "--seed", "5", "--out", str(out)]) == 0
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert cli.main(["explain", str(packed)]) == 0
    capsys.readouterr()
    assert cli.main(["tokens", "cat", "--tokenizer", str(packed)]) == 0 and "  at</w>" in capsys.readouterr().out
    assert cli.main(["show", str(packed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    named = packed.rename(tmp_path / "demo.png")
    assert "a file of the bundle" in fails(capsys, errors.UsageError, "generate", named, PROMPT, "--out", named)


@pytest.mark.parametrize(
    "kind, target, said", [("gpu", "host-neon", 1), ("gpu", "gpu", 0), ("gpu", "another", 0), ("cpu", "host-neon", 0)]
)
def test_a_bundle_for_cpus_on_a_gpu_is_said(kind, target, said, bundle, tmp_path, monkeypatch, caplog):
    device = engine.choose_device("cpu")
    facts = device.facts() | {"kind": kind}
    monkeypatch.setattr(device, "facts", lambda: facts)
    monkeypatch.setattr(engine, "choose_device", lambda _: device)
    copied = shutil.copytree(bundle, tmp_path / "copy.ondevice")
    manifest = json.loads((copied / "bundle.json").read_text())
    assert manifest["model"]["target"].startswith("host")
    manifest["model"]["target"] = target
    (copied / "bundle.json").write_text(json.dumps(manifest))
    assert (
        cli.main(["generate", str(copied), PROMPT, "--steps", "1", "--size", "64x72", "--out", str(tmp_path / "a.png")])
        == 0
    )
    assert [line.endswith("convert with --target gpu, or draw with --device cpu") for line in caplog.messages] == [
        True
    ] * said


def test_metadata_name_the_files_a_picture_began_from(bundle, tmp_path, capsys):
    Image.new("RGB", (128, 128)).save(tmp_path / "begin.png")
    np.save(tmp_path / "noise.npy", np.zeros((1, 4, 16, 16), np.float32))
    for flag, key, name in (("--init-image", "init_image", "begin.png"), ("--latents", "latents", "noise.npy")):
        words = ["generate", bundle, PROMPT, "--steps", "2", flag, tmp_path / name, "--out", tmp_path / "a.png"]
        assert cli.main([str(word) for word in words]) == 0
        assert json.loads(Image.open(tmp_path / "a.png").text["ondevice"])[key] == name
        assert str(tmp_path) not in "".join(Image.open(tmp_path / "a.png").text.values())


def test_the_same_seed_draws_the_same_picture_and_another_does_not(bundle, tmp_path):
    def draw(name, seed, *more):
        words = ["generate", bundle, PROMPT, "--steps", "2", "--seed", seed, "--out", tmp_path / name, *more]
        assert cli.main([str(word) for word in words]) == 0
        return np.asarray(Image.open(tmp_path / name))

    first = draw("a.png", 1)
    noise = tmp_path / "noise.npy"
    assert np.array_equal(first, draw("b.png", 1, "--save-noise", noise)) and not np.array_equal(
        first, draw("c.png", 2)
    )
    assert np.array_equal(first, draw("g.png", 9, "--latents", noise))
    assert draw("d.png", 1, "--size", "64x72").shape == (72, 64, 3)
    assert not np.array_equal(first, draw("e.png", 1, "--negative", "a green star"))
    again = draw("f.png", 1, "--init-image", tmp_path / "a.png", "--strength", "0.5")
    assert again.shape == first.shape and not np.array_equal(again, first)


def test_two_sizes_share_their_weights(bundle):
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert len([entry for entry in manifest["plans"] if "stage" not in entry["sizes"]]) == 10
    assert len({w["file"] + str(w["offset"]) for w in manifest["weights"].values()}) == len(manifest["weights"])
    twice = [
        name
        for name in manifest["weights"]
        if name.removesuffix(":winograd") in manifest["weights"] and name.endswith(":winograd")
    ]
    assert len(twice) < 20  # a size that has too few tiles for Winograd needs the plain weight
    assert sum(p.stat().st_size for p in (bundle / "weights").iterdir()) < 12e6


def test_bands_give_the_same_picture(bundle, tmp_path, capsys):
    words = ["generate", str(bundle), PROMPT, "--steps", "1", "--sampler", "ddim", "--seed", "3"]
    pictures, said = {}, {}
    for name, more in {"whole": [], "bands": ["--tile-vae"], "ample": ["--max-memory", "1GB"]}.items():
        assert cli.main([*words, "--out", str(tmp_path / f"{name}.png"), *more]) == 0
        pictures[name] = np.asarray(Image.open(tmp_path / f"{name}.png"), np.float64)
        said[name] = capsys.readouterr().err
    error = ((pictures["whole"] - pictures["bands"]) ** 2).mean() / 255**2
    assert error < 1e-5  # 50 dB
    assert np.array_equal(pictures["whole"], pictures["ample"]) and "all at once" in said["ample"]
    fails(capsys, errors.PlanError, *words, "--max-memory", "10kB", "--out", tmp_path / "no.png")
    assert "it has bands of 40 rows" in fails(
        capsys, errors.UsageError, *words, "--tile-vae", "8", "--out", tmp_path / "no.png"
    )
    assert not (tmp_path / "no.png").exists()


def test_profile_names_the_kernels(bundle, tmp_path, capsys):
    rows, trace = tmp_path / "rows.json", tmp_path / "trace.json"
    words = [
        "generate",
        str(bundle),
        PROMPT,
        "--steps",
        "1",
        "--out",
        str(tmp_path / "a.png"),
        "--profile",
        "--profile-out",
        str(rows),
    ]
    assert cli.main([*words, "--trace", str(trace)]) == 0
    assert "conv2d" in capsys.readouterr().err
    dispatches = json.loads(rows.read_text())["dispatches"]
    assert {"component", "node", "op", "kernel", "flops", "seconds"} <= dispatches[0].keys()
    assert {row["component"] for row in dispatches} == {"text_encoder", "keys_values", "unet", "vae_decoder"}
    launches = [
        event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X" and event["cat"] != "run"
    ]
    assert len(launches) == sum(row["runs"] for row in dispatches)
    assert sum(event["dur"] for event in launches) == pytest.approx(
        sum(row["seconds"] for row in dispatches) * 1e6, rel=1e-3
    )


def test_wrong_use_says_what_to_do(bundle, tmp_path, capsys):
    draw = ("generate", bundle, PROMPT, "--out", tmp_path / "a.png")
    assert "is not a size (expected WIDTHxHEIGHT" in fails(capsys, errors.UsageError, *draw, "--size", "big")
    for empty in ("0x128", "128x0"):
        assert f"{empty!r} has no pixels" in fails(capsys, errors.UsageError, *draw, "--size", empty)
    said = (
        "--size: the bundle holds no such size (got 256x256, expected one of 128x128, 64x72). Fix: use one of these, "
    )
    said += "or convert with --size 128x128,64x72,256x256."
    assert said in fails(capsys, errors.UsageError, *draw, "--size", "256x256")
    assert "multiple of 8" in fails(capsys, errors.UsageError, *draw, "--size", "100x128")
    assert "name a file in an existing" in fails(
        capsys, errors.UsageError, "generate", bundle, PROMPT, "--out", tmp_path / "no" / "a.png"
    )
    assert "no array can be read" in fails(capsys, errors.UsageError, *draw, "--latents", tmp_path / "none.npy")
    assert "found" in fails(capsys, errors.NoDeviceError, *draw, "--device", "none such")
    assert "--strength: there is no picture to begin from" in fails(
        capsys, errors.UsageError, *draw, "--strength", "0.5"
    )
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for flag in ("--save-latents", "--save-noise", "--profile-out", "--trace"):
        assert f"--out and {flag} name the same file" in fails(
            capsys, errors.UsageError, *draw, flag, tmp_path / "link" / "a.png"
        )
    (tmp_path / "link").unlink()
    assert not list(tmp_path.iterdir())


def test_wrong_paths(tmp_path, capsys):
    assert "no" in fails(capsys, errors.BundleError, "generate", tmp_path / "none.ondevice", PROMPT)
    said = fails(
        capsys,
        errors.CheckpointError,
        "convert",
        "sd14",
        "--checkpoint",
        tmp_path / "none.safetensors",
        "--out",
        tmp_path / "b",
    )
    assert "there is no such file or folder" in said
    said = fails(capsys, errors.UsageError, "convert", "demo", "--size", "100x128", "--out", tmp_path / "b.ondevice")
    assert "100x128 is not a multiple of 8 pixels (got 100). Fix: use 96 or 104." in said
    assert not list(tmp_path.iterdir())


def test_an_onnx_graph_has_no_int4_weights(tmp_path, capsys):
    words = ["convert", "demo", "--size", "64x64", "--weights", "int4", "--out", tmp_path / "b"]
    assert "--weights: ONNX files cannot have it (got int4, expected one of int8)" in fails(
        capsys, errors.UsageError, *words, "--format", "onnx"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            [],
            "--weights-of: it says whose weights are in few bits, and nothing says how many. Fix: add --weights int8.",
        ),
        (["--weights", "int8"], "--weights-of: the model has no component t5 (expected of text_encoder, keys_values, "),
        (["--weights", "int8", "--format", "onnx"], "--weights-of: a graph in another format has --weights for all of"),
    ],
)
def test_weights_of_what_is_not_there(tmp_path, capsys, words, said):
    given = ["convert", "demo", "--weights-of", "t5", *words, "--out", tmp_path / "b"]
    assert said in fails(capsys, errors.UsageError, *given)
    assert not list(tmp_path.iterdir())


def test_an_existing_bundle_is_kept_unless_forced(tmp_path, capsys):
    words = ["convert", "demo", "--out", str(tmp_path / "b.ondevice"), "--size", "64x64"]
    assert cli.main(words) == 0
    before = (tmp_path / "b.ondevice" / "bundle.json").read_bytes()
    assert "--force" in fails(capsys, errors.BundleError, *words)
    assert (tmp_path / "b.ondevice" / "bundle.json").read_bytes() == before
    assert cli.main([*words, "--force"]) == 0


def test_onnx_files_run_in_onnxruntime(tmp_path, capsys):
    assert cli.main(["convert", "demo", "--format", "onnx", "--size", "64x72", "--out", str(tmp_path / "graphs")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "graphs")
    names = sorted(str(p.parent.name) for p in (tmp_path / "graphs").rglob("model.onnx"))
    assert names == ["text_encoder", "unet", "vae_decoder", "vae_encoder"]
    decoder = onnxruntime.InferenceSession(str(tmp_path / "graphs" / "vae_decoder" / "model.onnx"))
    (picture,) = decoder.run(None, {"latent_sample": np.zeros((1, 4, 9, 8), np.float32)})
    assert picture.shape == (1, 3, 72, 64) and np.isfinite(picture).all()
    said = fails(
        capsys,
        errors.UsageError,
        "convert",
        "demo",
        "--format",
        "onnx",
        "--size",
        "64x64,128x128",
        "--out",
        tmp_path / "no",
    )
    assert "2 sizes given" in said and not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"pipeline": None}, "it holds plans, and no pipeline that draws with them"),
        ({"pipeline": {}}, "pipeline.gives is missing"),
        (
            {"version": "1.3"},
            "has format 1.3 (expected 2.x). Fix: convert the checkpoint again; --force replaces this one.",
        ),
    ],
)
def test_a_bundle_that_says_not_how_to_draw_is_refused(bundle, tmp_path, capsys, change, said):
    copy = tmp_path / "copy.ondevice"
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "bundle.json").read_text()) | change
    (copy / "bundle.json").write_text(json.dumps(manifest))
    assert said in fails(capsys, errors.BundleError, "generate", copy, PROMPT, "--out", tmp_path / "a.png")
    if "version" in change:
        assert cli.main(["convert", "demo", "--size", "64x64", "--out", str(copy), "--force"]) == 0


def test_several_arrays_are_no_latents(bundle, tmp_path, capsys):
    np.savez(tmp_path / "z.npz", a=np.zeros(3), b=np.zeros(3))
    said = fails(
        capsys,
        errors.UsageError,
        "generate",
        bundle,
        PROMPT,
        "--latents",
        tmp_path / "z.npz",
        "--out",
        tmp_path / "a.png",
    )
    assert "it holds several arrays" in said


def test_only_files_are_written_over(bundle, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.png")
    assert "no file can be written there" in fails(
        capsys, errors.UsageError, "generate", bundle, PROMPT, "--out", tmp_path / "pipe.png"
    )


def test_ctrl_c_leaves_no_file(bundle, tmp_path):
    words = [sys.executable, "-m", "ondevice.generate", bundle, PROMPT, "--steps", "900", "--out", tmp_path / "a.png"]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=restore_interrupt)
    time.sleep(5)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == cli.INTERRUPTED and "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_a_closed_stderr_a_poor_stdout_and_a_long_name_cost_no_picture(bundle, tmp_path):
    name = "rot-ü" + "x" * 245 + ".png"
    assert len(os.fsencode(name)) == 255
    words = f'"{sys.executable}" -m ondevice.generate "{bundle}" x --steps 1 --size 64x72 --out "{name}" 2>&-'
    done = subprocess.run(
        words, shell=True, cwd=tmp_path, stdout=subprocess.PIPE, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stdout.decode()) == (0, name.replace("ü", "\\xfc") + "\n")
    assert Image.open(tmp_path / name).size == (64, 72)


def restore_interrupt():
    """A background job starts with Ctrl-C ignored; a user's terminal does not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_devices_lists_one_that_is_used(capsys):
    assert cli.main(["devices"]) == 0
    assert "used by default" in capsys.readouterr().out
    assert cli.main(["devices", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["default"]


def test_without_any_device_the_error_names_the_cause(bundle, tmp_path):
    empty = tmp_path / "vendors"
    empty.mkdir()
    words = [sys.executable, "-m", "ondevice.generate", bundle, PROMPT, "--out", tmp_path / "a.png"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OCL_ICD_VENDORS": f"{empty}/"})
    assert done.returncode == errors.NoDeviceError.exit_code
    assert "Fix: unset OCL_ICD_VENDORS." in done.stderr and "Traceback" not in done.stderr


def test_a_wrong_log_level_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("ONDEVICE_LOG", "loud")
    assert "'loud' is not a log level" in fails(capsys, errors.UsageError, "tokens", "a cat")


def test_pictures_of_a_series_are_the_files_of_their_seeds(bundle, tmp_path, capsys):
    draw = ["generate", str(bundle), PROMPT, "--steps", "2", "--size", "64x72", "--sampler", "euler_a"]
    assert cli.main([*draw, "--seed", "4", "--count", "2", "--out", str(tmp_path / "a.png")]) == 0
    for number, seed in ((1, "4"), (2, "5")):
        assert cli.main([*draw, "--seed", seed, "--out", str(tmp_path / "alone.png")]) == 0
        assert (tmp_path / f"a-{number}.png").read_bytes() == (tmp_path / "alone.png").read_bytes()
    capsys.readouterr()
