"""`ondevice morph` on a device: its files, a run that goes on where it was stopped, what it refuses; the recorded
inversions of a tiny UNet; and how well an inversion leads back to the picture."""

import json

import numpy as np
import pytest
from adapter_files import adapter
from checkpoint_files import write_safetensors
from PIL import Image
from recipe_weights import case, weights

from ondevice import api, cli, errors
from ondevice.bundle import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.component import Checkpoint, Component
from ondevice.converters.families import FAMILIES
from ondevice.diffusion.init_image import read_image
from ondevice.diffusion.interpolation import slerp
from ondevice.diffusion.samplers import make_table, run_table
from ondevice.diffusion.samplers.inverse import inverse_table
from ondevice.drawing import morphing
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

pytestmark = pytest.mark.device
WIDTH, HEIGHT = 24, 16  # pixels; the tiny VAE has two levels
PROMPT, OTHER = "a red circle on a blue background", "a green star on a yellow background"


CONFIG, SALT, ARRAYS = case("morph")
PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
SCHEDULER, STEPS = CONFIG["scheduler"], CONFIG["steps"]


@pytest.fixture(scope="module")
def checkpoint():
    """A tiny model with the recorded cases' UNet."""
    family, components = FAMILIES["sd14"], {}
    text, vae = (case(name)[:2] for name in ("sd2_text_encoder", "sd2_vae"))
    for part, (raw, salt) in {"text_encoder": text, "unet": (CONFIG["unet"], SALT), "vae": vae}.items():
        config = family.normalize(part, raw, "test")
        components[part] = Component(config, weights(family.parts[part].architecture, config, salt))
    tokenizers = {name: family.tokenizer(name) for name in family.tokenizers}
    return Checkpoint(components, SCHEDULER | PNDM, tokenizers, family.name, "test")


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("morph") / "m.ondevice"
    return compile_bundle(checkpoint, path, Recipe("f32"), sizes=[(WIDTH, HEIGHT)])


@pytest.fixture(scope="module")
def predict(bundle):
    """The recorded cases' UNet, with their text."""
    session = Session(open_bundle(bundle), choose_device())
    text = session.run("keys_values", {"encoder_hidden_states": ARRAYS["in.context"]}, batch=1)

    def run(x, timestep):
        given = {"sample": x, "timestep": np.float32([timestep]), **text}
        return session.run("unet", given, batch=1, height=8, width=12)["out_sample"]

    return run


RECORDED = {  # name -> way, what the checkpoint draws with, keys of its config
    "diffusers_inverse": ("inverse", "ddim", {"set_alpha_to_one": True}),
    "morph_ddim": ("ddim", "ddim", {}),
    "morph_pndm": ("own", "pndm", {"skip_prk_steps": True}),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_inversions_of_a_tiny_unet(name, predict):
    way, own, keys = RECORDED[name]
    table = inverse_table(way, STEPS, SCHEDULER | keys, own=own)
    expected = ARRAYS[f"out.{name.removesuffix('_inverse')}_timesteps"]
    assert [call.timestep for call in table.calls] == expected.tolist()
    found = run_table(table, predict, table.start(ARRAYS["in.x0"]))
    assert np.abs(found - ARRAYS[f"out.{name}_10"]).max() <= 1e-5 * np.abs(found).max()


def test_and_back_as_recorded(predict):
    table = make_table("ddim", STEPS, SCHEDULER)
    found = run_table(table, predict, table.start(ARRAYS["out.morph_ddim_10"]))
    assert np.abs(found - ARRAYS["out.morph_ddim_back"]).max() <= 1e-5 * np.abs(found).max()


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Two pictures."""
    folder = tmp_path_factory.mktemp("ends")
    for number in (0, 1):
        small = np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8)
        Image.fromarray(small).resize((WIDTH, HEIGHT)).save(folder / f"{number}.png")
    return folder / "0.png", folder / "1.png"


@pytest.fixture
def run(bundle, ends, capsys):
    """Run the verb with the two pictures; gives what it said."""

    def ran(*words, code=0, prompt=PROMPT, a=ends[0]):
        words = ["morph", bundle, a, ends[1], "--prompt", prompt, "--steps", 2, *words]
        capsys.readouterr()
        assert cli.main([str(word) for word in words]) == code
        return capsys.readouterr()

    return ran


def test_a_folder_has_frames_with_parameters_and_both_films(run, bundle, capsys, tmp_path):
    said = run("--frames", 3, "--prompt-b", OTHER, "--out", tmp_path / "m", "--fps", 4, "--json")
    rows = [json.loads(line) for line in said.out.splitlines()]
    names = ["frame-01.png", "frame-02.png", "frame-03.png", "morph.webp", "morph.gif"]
    assert [row["out"] for row in rows] == [str(tmp_path / "m" / name) for name in names]
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == sorted(names)
    frames = [Image.open(tmp_path / "m" / name) for name in names[:3]]
    for frame, part in zip(frames, (0.0, 0.5, 1.0), strict=True):
        own = json.loads(frame.text["ondevice"])
        assert (own["prompt"], own["morph_prompt"], own["morph_part"]) == (PROMPT, OTHER, part)
        assert (own["sampler"], own["steps"], own["guidance_scale"], own["inversion"]) == ("ddim", 2, 1.0, "inverse")
        assert "Latents: between 0.png and 1.png" in frame.text["parameters"]
    assert cli.main(["generate", str(bundle), "--from", str(tmp_path / "m" / names[1])]) == 2
    assert "frame-02.png: it is a frame of a morph, whose latents lie between" in capsys.readouterr().err
    arrays = [np.asarray(frame).astype(int) for frame in frames]
    assert all(np.abs(one - other).mean() > 3 for one, other in ((arrays[0], arrays[1]), (arrays[1], arrays[2])))
    for name in names[3:]:
        with Image.open(tmp_path / "m" / name) as film:
            film.load()
            assert (film.n_frames, film.size) == (3, (WIDTH, HEIGHT)) and film.info["duration"] == 250
            assert np.abs(np.asarray(film.convert("RGB")).astype(int) - arrays[0]).mean() < 6


def test_a_run_that_was_stopped_goes_on(run, tmp_path, monkeypatch):
    """The result is the same; whole frames stay, others are drawn; another morph's frames are not taken for its own."""
    whole = tmp_path / "whole"
    run("--frames", 3, "--out", whole)
    expected = {path.name: path.read_bytes() for path in whole.iterdir()}
    write, written = morphing.write_picture, []

    def write_two(path, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        return write(path, *rest)

    monkeypatch.setattr(morphing, "write_picture", write_two)
    out = tmp_path / "stopped"
    run("--frames", 3, "--out", out, code=130)
    assert [path.name for path in sorted(out.iterdir())] == ["frame-01.png", "frame-02.png"]
    monkeypatch.undo()
    (out / "frame-02.png").write_bytes(expected["frame-02.png"][:-40])  # as a disk that was full may leave it
    (out / "frame-03.png").write_bytes(expected["frame-01.png"])
    before = (out / "frame-01.png").stat().st_mtime_ns
    said = run("--frames", 3, "--out", out)
    assert "1 of 3 frames are there from an earlier run" in said.err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == expected
    assert (out / "frame-01.png").stat().st_mtime_ns == before
    monkeypatch.setattr(morphing.Morph, "invert", None)  # nothing is left to do it for
    assert "3 of 3 frames are there" in run("--frames", 3, "--out", out, "--fps", 20).err
    monkeypatch.undo()
    said = run("--frames", 3, "--out", out, prompt=OTHER)
    assert "frames are there" not in said.err
    assert (out / "frame-01.png").read_bytes() != expected["frame-01.png"]


def test_a_film_alone(run, tmp_path):
    said = run("--frames", 3, "--out", tmp_path / "a.webp", "--loop", 1)
    assert said.out.splitlines() == [str(tmp_path / "a.webp")]
    assert [path.name for path in tmp_path.iterdir()] == ["a.webp"]
    with Image.open(tmp_path / "a.webp") as film:
        assert film.n_frames == 3 and film.info["loop"] == 1


def test_own_steps_and_guidance_are_taken(run, tmp_path):
    words = ["--frames", 2, "--inversion", "own", "--guidance", 2, "--negative", "x", "--refine", 1, "--json"]
    row = json.loads(run(*words, "--out", tmp_path / "a.gif").out)
    assert (row["inversion"], row["refine"], row["frames"]) == ("own", 1, 2)


def test_adapters_between_the_ends(run, bundle, checkpoint, ends, tmp_path):
    """Each end is inverted and drawn with its own, what is between with both; a third is the same all the way."""
    files = [tmp_path / f"{name}.safetensors" for name in ("first", "second", "third")]
    for seed, file in enumerate(files):
        write_safetensors(file, adapter(checkpoint.components, "peft", seed=seed, gain=0.2))
    scales = {"--lora": (files[2], 0.25), "--lora-a": (files[0], 0.5), "--lora-b": (files[1], 0.75)}
    words = [word for flag, (file, scale) in scales.items() for word in (flag, f"{file}:{scale}")]
    run("--frames", 3, *words, "--out", tmp_path / "m")
    pipe = api.Pipeline.from_bundle(bundle)
    for file in files:
        pipe.load_lora_weights(file, file.stem)

    def at(part):
        pipe.set_adapters([file.stem for file in files], [0.5 * (1 - part), 0.75 * part, 0.25])

    latents = []
    for part, path in enumerate(ends):
        at(part)
        latents.append(pipe.invert(read_image(path), PROMPT, num_inference_steps=2))
    for number, part in enumerate((0.0, 0.5, 1.0), 1):
        at(part)
        given = {"latents": slerp(*latents, part), "sampler": "ddim", "num_inference_steps": 2, "guidance_scale": 1.0}
        frame = Image.open(tmp_path / "m" / f"frame-0{number}.png")
        assert np.abs(np.asarray(frame).astype(int) - np.asarray(pipe(PROMPT, **given).images[0])).max() <= 1
        told = ["third:0.25", f"first:{0.5 * (1 - part):g}", f"second:{0.75 * part:g}"]
        assert json.loads(frame.text["ondevice"])["lora"] == told
    assert "3 of 3 frames are there" in run("--frames", 3, *words, "--out", tmp_path / "m").err
    write_safetensors(files[1], adapter(checkpoint.components, "peft", seed=9, gain=0.2))
    assert "frames are there" not in run("--frames", 3, *words, "--out", tmp_path / "m").err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--frames", 1], "--frames: out of range (got 1, expected 2 to 1000). Fix: use 11."),
        (["--frames", 1001], "--frames: out of range (got 1001, expected 2 to 1000). Fix: use 11."),
        (["--out", "a.mov"], "--out: a.mov: a morph is a folder or a film (got .mov, expected a folder, or .webp, "),
        (["--out", "none/a"], "--out: none/a: no folder can be made there. Fix: name one"),
        (["--out", "none/a.gif"], "none/a.gif: no file can be written there"),
        (["--fps", 0], "--fps: out of range (got 0, expected 0.1 to 50 frames per second)"),
        (["--sampler", "euler_a"], "sampler: euler_a draws noise in its steps"),
        (["--sampler", "ddim", "--inversion", "own", "--steps", "0"], "sampler ddim: steps out of range (got 0"),
        (["--refine", 99], "refine: out of range (got 99, expected 0 to 50). Fix: use 0 to 5."),
        (["--prompt-b", "a AND b"], "prompt: AND joins texts by guidance, and there is none here"),
        (["--size", "24"], "'24' is not a size"),
    ],
)
def test_wrong_use_says_what_to_do(words, said, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in run(*words, code=2).err
    assert not list(tmp_path.rglob("*"))


def test_a_file_that_would_be_lost_is_refused(run, ends, tmp_path):
    first = tmp_path / "frame-01.png"
    first.write_bytes(ends[0].read_bytes())
    said = run("--out", tmp_path, a=first, code=2).err
    assert f"A and {first} name the same file, which would be lost" in said


def test_a_size_without_plans_names_those_that_there_are(run, tmp_path):
    words = ["--size", "32x16", "--fit", "crop", "--out", tmp_path / "a.gif"]
    said = run(*words, code=errors.UsageError.exit_code).err
    assert "--size: the bundle holds no such size (got 32x16, expected one of 24x16)." in said


def psnr(one, other):
    return 10 * np.log10(255**2 / np.mean((one.astype(np.float64) - other) ** 2))


def test_an_inversion_leads_back_to_the_picture(tmp_path):
    """As near as the autoencoder's own way there and back (40 dB), which no latents get beyond, once it is refined."""
    bundle, place, steps = tmp_path / "demo.ondevice", tmp_path / "a.png", 12
    assert cli.main(["convert", "demo", "--dtype", "fp32", "--out", str(bundle)]) == 0
    words = ["generate", bundle, PROMPT, "--steps", 8, "--seed", 3, "--out", place]
    assert cli.main([str(word) for word in words]) == 0
    picture, pipe, found = read_image(place), api.Pipeline.from_bundle(bundle), []
    for refine in (0, 2):
        latents = pipe.invert(picture, PROMPT, num_inference_steps=steps, refine=refine)
        call = {"sampler": "ddim", "num_inference_steps": steps, "guidance_scale": 1.0}
        found.append(psnr(np.asarray(pipe(PROMPT, latents=latents, **call).images[0]), picture))
    assert found[0] > 34 and found[1] > max(found[0] + 1.5, 39), found
