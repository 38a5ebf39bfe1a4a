"""od_player and Python draw the same files with any pipeline: those by hand, and changes of them, over tiny plans."""

import copy

import numpy as np
import pytest
from bundle.pipeline_bundle import write_pipeline
from diffusion.test_pipeline_shapes import golden, picture_guided
from PIL import Image
from player.opencl_environment import environment

from ondevice import cli
from ondevice.bundle import open_bundle
from ondevice.diffusion.pipeline import Pipeline
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

pytestmark = pytest.mark.device
PROMPT = "a red cat"
SAMPLERS = {"euler_a": 4}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, chance = tmp_path_factory.mktemp("pictures"), np.random.default_rng(4)
    paths = {}
    for name, (height, width), side in (
        ("image", (16, 24), 1), ("mask", (33, 50), 9), ("control", (40, 30), 5), ("control_2", (20, 31), 3)
    ):  # fmt: skip
        paths[name] = folder / f"{name}.png"
        squares = chance.integers(0, 256, (-(-height // side), -(-width // side), 3), np.uint8)
        pixels = np.repeat(np.repeat(squares, side, 0), side, 1)[:height, :width]
        Image.fromarray(pixels).save(paths[name])
    return paths


def early() -> dict:
    """Guidance in the first half of the calls."""
    whole = golden("sd1")
    edges, windowed = {"begin": {"default": 0}, "end": {"default": 0.5}}, {"default": 7.5, "window": ["begin", "end"]}
    whole["pipeline"]["numbers"] = edges | whole["pipeline"]["numbers"] | {"guidance_scale": windowed}
    return whole


def changed(name, change):
    whole = golden(name)
    change(whole["pipeline"])
    return whole


NEGATIVE = ("--negative", "a red dog")
CASES = {
    "sd1": (golden("sd1"), NEGATIVE),
    "sd1 from a picture": (golden("sd1"), ("--init-image", "image", "--strength", 0.6)),
    "sd1 with a mask": (golden("sd1"), ("--init-image", "image", "--mask", "mask", "--strength", 0.6)),
    "once per text": (golden("keys_values"), (*NEGATIVE, "a (cat:1.2) AND re:0.5")),
    "chunks, once per text": (golden("keys_values"), (*NEGATIVE, "a BREAK (cat:1.2) " + "red, " * 50)),
    "one pass": (golden("lcm"), ("--guidance", 3)),
    "two stretches": (golden("sdxl_refiner"), ("--number", "handover=0.5", "--number", "aesthetic_score=7")),
    "two stretches from a picture": (
        golden("sdxl_refiner"),
        (*NEGATIVE, "--init-image", "image", "--strength", 0.8, "--number", "handover=0.3"),
    ),
    "a pass with zeros": (picture_guided(), (*NEGATIVE, "--init-image", "image")),
    "guided early": (early(), NEGATIVE),
    "weights": (golden("sd1"), ("--negative", "a [dog] (ca:1.5)", "(red:1.3) cat AND re:0.5")),
    "compel": (golden("sd1"), ("--emphasis", "compel", "(re:0.5) cat, [[ca]] (red:1.25) (x:-0.5)")),
    "signs are letters": (golden("sd1"), ("--emphasis", "none", "(red:1.3) cat AND re")),
    "a negative text that is empty": (golden("sdxl_refiner"), ("--negative", "", "--number", "handover=0.5")),
    "several encoders": (golden("sdxl_refiner"), (*NEGATIVE, "(re:0.5) cat AND red:-0.25", "--emphasis", "compel")),
    "chunks": (golden("sd1"), (*NEGATIVE, "a BREAK (cat:1.2) " + "red, " * 50)),
    "three encoders": (
        changed("sd3", lambda pipeline: pipeline["sampler"].update(name="euler")),
        (*NEGATIVE, "a (cat:1.3) ﬁ, [ab]"),
    ),
    "chunks of several encoders": (golden("sdxl_refiner"), ("--long", "chunk", "cat BREAK re AND " + "red " * 80)),
    "truncated": (golden("sd1"), ("--long", "truncate", "a BREAK (cat:1.2) " + "red, " * 50)),
    "seeds of CUDA": (golden("sd1"), ("--seed-mode", "cuda")),
    "seeds of WebUI": (
        golden("sd1"),
        ("--seed-mode", "a1111", "--variation-seed", 9, "--variation-strength", 0.3, "--noise-seed-delta", 31337),
    ),
}


@pytest.mark.parametrize("batches", [(1, 2, 3), (1,)], ids=["at once", "one by one"])
@pytest.mark.parametrize("name", CASES)
def test_the_same_file(tool, pictures, tmp_path, name, batches):
    whole, words = CASES[name]
    has = {"texts": 2 if "chunks" in name else 1, "unigram": ["tokenizer_3"]}
    bundle = write_pipeline(tmp_path / "bundle", copy.deepcopy(whole), batches=batches, samplers=SAMPLERS, **has)
    words = [str(pictures.get(word, word)) for word in words]
    prompt = [PROMPT] if all(" " not in word or word == "a red dog" for word in words) else []
    flags = [*prompt, *words, "--steps", "4", "--sampler", "euler_a", "--seed", "6", "--out"]
    ours, theirs = tmp_path / "player.png", tmp_path / "python.png"
    done = tool("od_player", "draw", bundle, *flags, ours, "--device", choose_device().name, env=environment())
    assert done.returncode == 0, done.stderr
    assert cli.main(["generate", str(bundle), *flags, str(theirs)]) == 0
    assert ours.read_bytes() == theirs.read_bytes()
    assert np.asarray(Image.open(ours)).std() > 2


def masked(pipeline):
    """A mask for a model that knows nothing of masks."""
    pipeline["pictures"]["mask"] = {"prepare": "mask", "optional": True}
    pipeline["latents"]["mask"] = {"picture": "mask", "strength": 1.0}
    pipeline["outside"] = {"picture": "image", "mask": "mask"}


def in_some_passes(pipeline):
    """What the control network makes is there in one pass alone."""
    pipeline["denoise"][0]["passes"][0]["zeros"] = ["residual_0", "residual_3"]


def zeros_for_a_picture(pipeline):
    pipeline["denoise"][0]["roles"][0]["feed"]["extra"] = {"value": "image_latents", "absent": "zeros"}


FILM = {"frames": 5, "chunks": (1, 2)}
PICTURED = {  # pipeline, pictures, numbers, what the bundle has
    "inpainting": (golden("inpaint"), ("image", "mask"), {}, {}),
    "inpainting a part of the way": (golden("inpaint"), ("image", "mask"), {"strength": 0.6}, {}),
    "a mask": (changed("sd1", masked), ("image", "mask"), {}, {}),
    "a mask a part of the way": (changed("sd1", masked), ("image", "mask"), {"strength": 0.6}, {}),
    "edges": (golden("controlnet"), ("control",), {"control_end": 0.6}, {}),
    "no net of two": (golden("control"), (), {}, {}),
    "a net of two": (golden("control"), ("control",), {"control_end": 0.6}, {}),
    "two nets": (golden("control"), ("control", "control_2"), {"control_scale_2": 0.5, "control_guess": 1}, {}),
    "zeros in a pass": (changed("controlnet", in_some_passes), ("control",), {}, {}),
    "zeros for what is absent": (changed("sd1", zeros_for_a_picture), (), {}, {}),
    "frames": (golden("svd"), ("image",), {"frame_count": 5}, FILM),
    "frames in smaller chunks": (golden("svd"), ("image",), {"frame_count": 5}, FILM),
    "frames without guidance": (golden("svd"), ("image",), {"frame_count": 5, "max_guidance_scale": 1}, FILM),
}


@pytest.mark.parametrize("name", PICTURED)
def test_the_same_pixels(tool, pictures, tmp_path, name):
    whole, given, numbers, has = PICTURED[name]
    path = write_pipeline(tmp_path / "bundle", copy.deepcopy(whole), samplers=SAMPLERS, **has)
    texts = {"prompt": PROMPT, "negative_prompt": "a dog"} if whole["pipeline"]["texts"] else {}
    chunk = 1 if "smaller chunks" in name else None
    flags = {"image": ["--init-image"], "mask": ["--mask"]}
    named = {
        name: [*flags[name], pictures[name]] if name in flags else ["--picture", f"{name}={pictures[name]}"]
        for name in given
    }
    words = [word for name in given for word in named[name]]
    words += [word for number in numbers.items() for word in ("--number", "{}={}".format(*number))]
    words += ["--negative", "a dog"] if texts else []
    words += [] if chunk is None else ["--decode-chunk", chunk]
    prompt = [PROMPT] if texts else []
    words += ["--steps", "4", "--sampler", "euler_a", "--seed", "6", "--size", "24x16", "--out", tmp_path / "a.png"]
    device = choose_device()
    done = tool("od_player", "draw", path, *prompt, *words, "--device", device.name, env=environment())
    assert done.returncode == 0, done.stderr
    bundle = open_bundle(path)
    shown = {name: np.asarray(Image.open(pictures[name])) for name in given}
    options = {"num_inference_steps": 4, "sampler": "euler_a", "seed": 6, "width": 24, "height": 16}
    paint = Pipeline.of(bundle, Session(bundle, device))
    drawn = paint(**texts, **options, pictures=shown, numbers=numbers, decode_chunk=chunk)
    files = [Image.open(line) for line in done.stdout.splitlines()]
    assert len(files) == has.get("frames", 1)
    assert np.array_equal([np.asarray(file) for file in files], np.stack(drawn.images))
    assert np.asarray(files[0]).std() > 2


def test_two_models_and_two_pictures(tool, tmp_path):
    """The beginnings by one, the ends by another, of two seeds; the latents between them are Python's."""
    base = write_pipeline(tmp_path / "base", golden("sd1"), samplers=SAMPLERS)
    refiner = write_pipeline(tmp_path / "refiner", golden("sdxl_refiner"), samplers=SAMPLERS)
    flags = [base, "a (red:1.2) cat", "--refiner", refiner, "--refiner-start", 0.6, "--steps", 4, "--count", 2]
    flags = [
        *map(str, flags),
        "--sampler",
        "euler_a",
        "--number",
        "aesthetic_score=7",
        "--number",
        "guidance_rescale=0.5",
    ]
    for name in ("player", "python"):
        (tmp_path / name).mkdir()
    out = ["--out", tmp_path / "player" / "a.png", "--device", choose_device().name]
    done = tool("od_player", "draw", *flags, *out, env=environment())
    assert done.returncode == 0, done.stderr
    assert cli.main(["generate", *flags, "--out", str(tmp_path / "python" / "a.png")]) == 0
    ours, theirs = (
        [path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in ("player", "python")
    )
    assert len(ours) == 2 and ours == theirs and ours[0] != ours[1]


def in_a_part_of_the_run(pipeline):
    """Guidance in some calls alone."""
    edges = {name: {"default": edge, "low": 0, "high": 1} for name, edge in (("starts", 0), ("ends", 0.5))}
    guidance = pipeline["numbers"]["guidance_scale"] | {"window": [*edges]}
    pipeline["numbers"] = edges | pipeline["numbers"] | {"guidance_scale": guidance}


def test_parts_need_guidance_in_every_call(tool, tmp_path, capsys):
    bundle = write_pipeline(tmp_path / "bundle", changed("sd1", in_a_part_of_the_run), samplers=SAMPLERS)
    flags = [str(bundle), "cat AND dog", "--steps", "4", "--sampler", "euler_a", "--out", str(tmp_path / "a.png")]
    done = tool("od_player", "draw", *flags, "--device", choose_device().name, env=environment())
    assert cli.main(["generate", *flags]) == done.returncode == 2
    said = "prompt: AND joins texts by guidance, and there is none here. Fix: use a guidance above 1, or write `and`."
    assert said in done.stderr and said in capsys.readouterr().err and not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a cat"], "prompt: this model takes no such text."),
        (["--number", "frame_count=4"], "frame_count: the bundle has no plans of so many (got 4, it has 5)."),
        (["--decode-chunk", 0], "--decode-chunk:"),
    ],
)
def test_films_that_cannot_be_had(tool, pictures, tmp_path, words, said):
    bundle = write_pipeline(tmp_path / "bundle", golden("svd"), samplers=SAMPLERS, frames=5, chunks=(2, 1))
    flags = ["--init-image", pictures["image"], "--number", "frame_count=5", "--out", tmp_path / "a.png"]
    flags = flags[:2] + flags[4:] if "--number" in words else flags
    device = ["--device", choose_device().name]
    done = tool("od_player", "draw", bundle, *words, *flags, *device, env=environment())
    assert done.returncode == 2 and said in done.stderr and not list(tmp_path.glob("*.png"))
