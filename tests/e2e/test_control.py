"""Pictures with ControlNets: tiny networks whose latents diffusers' own pipelines gave; several nets, start and end, a
picture to begin from, a mask and an adapter at once; the flags of generate and diffusers' words."""

from dataclasses import replace

import numpy as np
import pytest
from checkpoint_files import write_safetensors
from control_files import net_arrays, recipe, squares, with_nets
from PIL import Image
from recipe_weights import case
from reference.player import Player

from ondevice import api, cli
from ondevice.bundle import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.diffusion import memory_budget
from ondevice.diffusion.canny import edge_picture
from ondevice.diffusion.pipeline import Pipeline
from ondevice.errors import UsageError
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session

pytestmark = pytest.mark.device
PROMPT, NEGATIVE = "a photo of an astronaut riding a horse on mars", "blurry, low quality"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """`bundle(name, recipe)`: compiled once. `recipe`: the vectors' model; else FAMILY_NETS."""
    compiled = {}

    def made(name, dtype="f32"):
        if (name, dtype) not in compiled:
            family, _, nets = name.partition("_")
            source = (
                recipe(case("controlnet_e2e")[0]["scheduler"]) if name == "recipe" else with_nets(family, int(nets))
            )
            size = (48, 32) if name == "recipe" else (24, 16)
            path = tmp_path_factory.mktemp("control") / f"{name}.ondevice"
            compiled[name, dtype] = open_bundle(compile_bundle(source, path, Recipe(dtype), sizes=[size]), verify=True)
        return compiled[name, dtype]

    return made


def pipeline(bundle):
    return Pipeline.of(bundle, Session(bundle, choose_device("cpu")))


def condition(arrays):
    return np.round(arrays["in.cond"][0].transpose(1, 2, 0) * 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["controlnet_e2e", "controlnet_e2e_guess", "controlnet_e2e_img2img"])
def test_latents_are_those_of_diffusers(name, bundle):
    config, _, arrays = case(name)
    more = {"latents": arrays["in.latents"]} if "in.latents" in arrays else {}
    more |= {"image": arrays["in.image"], "strength": 0.5, "seed": 0} if "in.image" in arrays else {}
    picture = pipeline(bundle("recipe"))(
        PROMPT,
        negative_prompt=NEGATIVE,
        num_inference_steps=config["steps"],
        guidance_scale=config["guidance_scale"],
        control_image=Image.fromarray(condition(arrays)),
        **config["call"],
        **more,
    )
    assert np.abs(picture.latents - arrays["out.latents"]).max() <= 2e-5 * np.abs(arrays["out.latents"]).max()


CONTROLS = [squares(1, 16, 24), squares(2, 20, 31)]
CALL = {"num_inference_steps": 4, "sampler": "euler", "seed": 4}


@pytest.mark.parametrize("name, dtype", [("sd15_2", "f32"), ("sdxl_1", "f16")])
def test_the_reference_player_draws_the_same(name, dtype, bundle):
    """In half storage residuals are halves, too."""
    opened, count = bundle(name, dtype), int(name[-1])
    numbers = {"control_scale": 0.6, "control_end": 0.7, "control_guess": 1.0}
    numbers |= {"control_scale_2": 1.0, "control_start_2": 0.3, "control_end_2": 1.0} if count > 1 else {}
    session = Session(opened, choose_device("cpu"))
    want = Pipeline.of(opened, session)(
        PROMPT,
        **CALL,
        control_image=CONTROLS[:count],
        controlnet_conditioning_scale=[0.6, 1.0][:count],
        control_guidance_start=[0.0, 0.3][:count],
        control_guidance_end=[0.7, 1.0][:count],
        numbers={"control_guess": 1.0},
    )
    player = Player(opened.path, lambda component, sizes, inputs: session.run(component, inputs, **sizes))
    given = dict(zip(("control", "control_2"), CONTROLS[:count], strict=False))
    texts = {"prompt": PROMPT, "negative_prompt": None}
    latents, pixels = player.draw(texts, (24, 16), seed=4, numbers=numbers, pictures=given, sampler="euler_4")
    assert latents.tobytes() == want.latents.tobytes() and np.array_equal(pixels, [want.pixels])
    assert numbers.items() <= want.parameters.items() and "strength" not in want.parameters


def test_what_each_flag_of_a_net_does(bundle):
    """A scale of 0, or no picture, is no net; a net that acts from the end on does not act; both nets count."""
    pipe = pipeline(bundle("sd15_2"))
    draws = {
        "none": {},
        "scale 0": {"control_image": CONTROLS, "controlnet_conditioning_scale": 0.0},
        "over before it began": {"control_image": CONTROLS, "control_guidance_end": 0.0},
        "one": {"control_image": CONTROLS[0]},
        "one beside one of scale 0": {"control_image": CONTROLS, "controlnet_conditioning_scale": [1.0, 0.0]},
        "both": {"control_image": CONTROLS},
        "at first": {"control_image": CONTROLS, "control_guidance_end": [0.5, 0.5]},
        "guessed": {"control_image": CONTROLS, "guess_mode": True},
    }
    latents = {name: pipe(PROMPT, **CALL, **more).latents for name, more in draws.items()}
    for name, alike in (("scale 0", "none"), ("over before it began", "none"), ("one beside one of scale 0", "one")):
        np.testing.assert_allclose(latents.pop(name), latents[alike], rtol=0, atol=2e-5)
    distances = [np.abs(one - other).max() for a, one in latents.items() for b, other in latents.items() if a < b]
    assert min(distances) > 1e-3


def test_a_picture_a_mask_an_adapter_and_edges_at_once(bundle, tmp_path, capsys):
    """Style transfer: every flag together draws as diffusers' words with the same edges."""
    up, down = np.random.default_rng(7).standard_normal((2, 12, 4)).astype("f4")
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    arrays = {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": np.ascontiguousarray(down.T)}
    write_safetensors(tmp_path / "style.safetensors", arrays | {f"{module}.alpha": np.float32([4])})
    path = bundle("sd15_2").path
    photo, mask = squares(5, 32, 48), np.zeros((32, 48, 3), np.uint8)
    mask[:, 20:] = 255
    for name, pixels in (("photo", photo), ("mask", mask)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    words = [
        path,
        PROMPT,
        "--init-image",
        "photo.png",
        "--strength",
        0.5,
        "--mask",
        "mask.png",
        "--control",
        "photo.png",
    ]
    words += [
        "--canny",
        "100,200",
        "--control-scale",
        0.5,
        "--steps",
        4,
        "--seed",
        3,
        "--size",
        "24x16",
        "--out",
        "a.png",
    ]
    words = [str(tmp_path / word) if str(word).endswith(".png") else str(word) for word in words]
    words += ["--lora", f"{tmp_path / 'style.safetensors'}:0.8"]
    assert cli.main(["generate", *words, "--sampler", "euler"]) == 0
    capsys.readouterr()
    small = np.array(Image.fromarray(photo).resize((24, 32), Image.Resampling.LANCZOS))
    small = np.array(Image.fromarray(small).resize((24, 16), Image.Resampling.LANCZOS))
    edges = edge_picture(small, 100, 200)
    assert 0 < np.count_nonzero(edges) < edges.size and set(np.unique(edges)) == {0, 255}
    with_it = {"control_image": edges, "controlnet_conditioning_scale": 0.5, "image": small, "strength": 0.5}
    call = {"num_inference_steps": 4, "seed": 3, "sampler": "euler", "emphasis": "mean", "width": 24, "height": 16}
    pipe = pipeline(bundle("sd15_2"))
    plain = pipe(PROMPT, **call, **with_it, mask=mask)
    pipe.load_lora_weights(tmp_path / "style.safetensors", adapter_name="style")
    pipe.set_adapters(["style"], [0.8])
    drawn = pipe(PROMPT, **call, **with_it, mask=mask)
    assert np.abs(plain.latents - drawn.latents).max() > 1e-3
    picture = Image.open(tmp_path / "a.png")
    assert np.array_equal(np.asarray(picture), drawn.pixels)
    assert "Pictures: control=photo.png" in picture.text["parameters"] and '"canny": "100,200"' in str(picture.text)
    again = ["generate", str(path), "--from", str(tmp_path / "a.png"), "--out", str(tmp_path / "b.png")]
    assert cli.main(again) == 0 and (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["--control-scale", "1"],
            "--control-scale: there is no picture for a ControlNet. Fix: add --control, or leave",
        ),
        (["--guess"], "--guess: there is no picture for a ControlNet."),
        (
            ["--control", "x.png", "--canny", "1"],
            "--canny: not two thresholds (got '1', expected LOW,HIGH of 0 or more)",
        ),
        (["--control", "x.png", "--canny", "1,nan"], "--canny: not two thresholds (got '1,nan'"),
        (
            ["--control", "x.png"] * 5,
            "--control: that are more pictures than a bundle can have nets (got 5, expected 4)",
        ),
        (
            ["--control", "x.png", "--picture", "control=y.png"],
            "--picture: 'control' is not a name for one more picture.",
        ),
    ],
)
def test_flags_that_do_not_go_together(words, said, capsys):
    assert cli.main(["generate", "no such bundle", PROMPT, *words]) == 2
    assert said in capsys.readouterr().err


def test_pictures_and_numbers_for_nets_that_are_not_there(bundle):
    pipe, none = pipeline(bundle("sd15_2")), CONTROLS[0]
    for options, said in (
        (
            {"control_image": [none] * 3},
            "control_image: there are more pictures than nets (got 3, and the bundle has 2",
        ),
        (
            {"control_image": none, "control_guidance_end": [0.5, 1.0]},
            "control_guidance_end: there are 1 pictures for ControlNets (got 2 numbers, expected one, or one each)",
        ),
        ({"controlnet_conditioning_scale": 0.5}, "controlnet_conditioning_scale: there are 0 pictures for ControlNets"),
        (
            {"pictures": {"control_2": none}},
            "control_2: its ControlNet adds to what that of control makes, whose picture",
        ),
        (
            {"control_image": none, "control_guidance_start": 1.5},
            "control_start: out of range (got 1.5, expected 0 to 1)",
        ),
    ):
        with pytest.raises(UsageError) as caught:
            pipe(PROMPT, **CALL, **options)
        assert said in str(caught.value)


def test_nets_without_pictures_cost_no_memory(bundle):
    opened = bundle("sd15_2")
    none, both = (
        memory_budget.need(opened, 12, 8, memory_budget.Way(), given=given) for given in ((), ("control", "control_2"))
    )
    nets = sum(nbytes for shard, nbytes in weights_of(opened).items() if "controlnet" in shard)
    assert both.weights - none.weights == nets > 0
    plan = opened.plan("controlnet", batch=2, height=8, width=12)
    held = sum(plan.operands[index].nbytes for index in plan.outputs)
    assert both.arena >= none.arena + 2 * held


def weights_of(bundle):
    return {name: about.bytes for name, about in bundle.manifest.files.items() if name.startswith("weights/")}


def test_made_up_nets_need_no_file(capsys):
    words = ["show", "demo", "--controlnet", "random", "--after", "graph", "--component", "controlnet", "--size", "8x8"]
    assert cli.main([*words, "--random-weights", "0"]) == 0
    assert "controlnet after graph" in capsys.readouterr().out
    assert cli.main(words) == 3
    assert "--controlnet random: there is no such file or folder" in capsys.readouterr().err


def test_a_checkpoint_from_python_takes_nets(tmp_path, monkeypatch):
    """Of one or several; a net that changes is another bundle."""
    made, asked = with_nets("sd15"), []
    write_safetensors(tmp_path / "net.safetensors", net_arrays(made)[0])
    base = replace(made, components={name: one for name, one in made.components.items() if name != "controlnet"})
    monkeypatch.setattr("ondevice.api.cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr("ondevice.api._without_nets", lambda *_: base)

    def compiled(checkpoint, place, *_, **__):
        asked.append((list(checkpoint.components)[3:], place))
        raise KeyboardInterrupt

    monkeypatch.setattr("ondevice.compiler.compile_bundle", compiled)
    net = tmp_path / "net.safetensors"
    for given in (net, [net, str(net)], (), net):
        with pytest.raises(KeyboardInterrupt):
            api.Pipeline.from_pretrained("x/y", controlnet=given)
        net.touch()
    assert [nets for nets, _ in asked] == [["controlnet"], ["controlnet", "controlnet_2"], [], ["controlnet"]]
    assert len({place for _, place in asked}) == 4
