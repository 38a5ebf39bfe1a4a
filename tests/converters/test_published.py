"""Published graphs: the ports that other tools look for, and the same picture as from the family's own graphs."""

from dataclasses import replace

import numpy as np
import pytest
from control_files import squares, with_nets
from diffusion.fake_networks import Letters
from family_files import SMALL, TINY
from graph_session import GraphSession
from tiny_model import TINY as SD1

from ondevice.compiler.jobs import bundle_jobs
from ondevice.compiler.picture import spec_of
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.source import with_clip_skip
from ondevice.diffusion.pipeline import Pipeline
from ondevice.graph.verify import static_shape

SIZE = (12, 8)  # pixels; the tiny VAEs have two levels
CONFIGS = {"sd14": SD1, **{name: one for name, one in TINY.items() if "unet" in one}, "ssd-1b": SMALL["ssd-1b"]}
GIVEN = {"sd15-inpaint", "sd2-inpaint", "sdxl-inpaint", "instruct-pix2pix", "sdxl-instruct-pix2pix", "sdxl-refiner"}


class Tokens(Letters):
    """A tokenizer whose ids a tiny text encoder knows."""

    def piece(self, text):
        return text, [4 + letter % 40 for letter in text.encode()], list(range(len(text.encode())))


def pipeline_of(model):
    runtime, plans = GraphSession(model), {}
    for job in bundle_jobs(model, [SIZE], 0, []):
        plans.setdefault(job.component, []).append(job.sizes)

    def zeros(component, sizes, port):
        graph = runtime.graph(component, **sizes).graph
        found = next(value for value in (*graph.inputs, *graph.outputs) if value.name == port)
        return np.zeros(static_shape(found), np.float32)

    tokenizers = {
        name: Tokens(model.configs[part]["max_position_embeddings"]) for name, part in model.family.tokenizers.items()
    }
    scheduler = model.checkpoint.scheduler
    return Pipeline(spec_of(model), runtime, tokenizers, scheduler, plans=plans, size=SIZE, zeros=zeros), runtime


def ports(model, component):
    graph = model.graph(component, batch=2, **({"height": 4, "width": 6} if model.sized(component) else {})).graph
    return [{value.name: static_shape(value) for value in values} for values in (graph.inputs, graph.outputs)]


def checkpoint(family):
    return random_checkpoint_from_configs(seed=3, family=family, **CONFIGS[family])


@pytest.mark.parametrize("family", CONFIGS)
def test_a_picture_is_the_same(family):
    source = checkpoint(family)
    rng = np.random.default_rng(0)
    options = {"num_inference_steps": 4, "seed": 3, "sampler": "lcm" if family == "lcm" else "ddim"}
    if family in GIVEN:
        options["image"] = rng.integers(0, 256, (*SIZE[::-1], 3), np.uint8)
    if "inpaint" in family:
        options["mask"] = np.uint8(255) * rng.integers(0, 2, SIZE[::-1], np.uint8)
    own, _ = pipeline_of(build(source))
    other, runtime = pipeline_of(build(source, published=True))
    expected, found = (pipeline("ab", **options).latents for pipeline in (own, other))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    encoders = [name for name in CONFIGS[family] if name.startswith("text_encoder")]
    glue = {"context": len(encoders) > 1, "guidance_waves": family == "lcm"}
    glue["join"] = "inpaint" in family or "pix2pix" in family
    assert {*glue} & {*runtime.run_of} == {name for name, used in glue.items() if used}


@pytest.mark.parametrize("family", ["sdxl", "sd15-inpaint"])
def test_residuals_are_scaled_and_summed_beside_the_published_nets(family):
    source = with_nets(family, 2)
    width, height = SIZE
    controls = [squares(1, height, width), squares(2, height, width)]
    own, _ = pipeline_of(build(source))
    other, runtime = pipeline_of(build(source, published=True))
    options = {"num_inference_steps": 2, "seed": 3, "sampler": "ddim"}
    if family in GIVEN:
        options |= {"image": squares(3, height, width), "mask": np.full((height, width), 255, np.uint8)}
    drawn = []
    for given, scales in ((controls, [0.7, 0.4]), (controls[0], 1.0), (None, None)):
        more = {} if given is None else {"control_image": given, "controlnet_conditioning_scale": scales}
        expected, found = (pipeline("ab", **options, **more).latents for pipeline in (own, other))
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        drawn.append(found)
    assert min(np.abs(drawn[a] - drawn[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))) > 1e-3
    assert {"controlnet", "controlnet_2_scaled"} <= {*runtime.run_of} and "controlnet_sizes" not in runtime.run_of


PORTS = {
    "sd14": ["sample", "timestep", "encoder_hidden_states"],
    "lcm": ["sample", "timestep", "encoder_hidden_states", "timestep_cond"],
    "sdxl-inpaint": ["sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"],
}


@pytest.mark.parametrize("family", PORTS)
def test_a_unet_takes_what_that_of_diffusers_does(family):
    model = build(checkpoint(family), published=True)
    taken, given = ports(model, "unet")
    unet = model.configs["unet"]
    assert list(taken) == PORTS[family] and given == {"out_sample": (2, 4, 4, 6)}
    assert taken["sample"] == (2, unet["in_channels"], 4, 6)
    widths = {name: taken[name] for name in ("timestep_cond", "text_embeds", "time_ids") if name in taken}
    assert (
        widths
        == {
            "sd14": {},
            "lcm": {"timestep_cond": (2, unet["time_cond_proj_dim"])},
            "sdxl-inpaint": {"text_embeds": (2, 10), "time_ids": (2, 6)},
        }[family]
    )


@pytest.mark.parametrize("skipped", [0, 1])
def test_text_encoders_give_every_state_that_is_not_left_out(skipped):
    model = build(with_clip_skip(checkpoint("sdxl"), skipped), published=True)
    ids = np.random.default_rng(0).integers(0, 49407, (1, 77), np.int32)
    ids[0, 5:9] = 49407  # where the text ends, and what fills the rest
    runtime, own = GraphSession(model), GraphSession(build(model.checkpoint))
    first, second = (runtime.run(name, {"input_ids": ids}, batch=1) for name in ("text_encoder", "text_encoder_2"))
    states = [f"hidden_states_{count}" for count in range(4 - skipped)]
    assert list(first) == ["last_hidden_state", "pooler_output", *states[:-1]]
    assert list(second) == ["text_embeds", "last_hidden_state", *states]
    np.testing.assert_allclose(first["pooler_output"], first["last_hidden_state"][:, 5], rtol=1e-5, atol=1e-5)
    expected = own.run("text_encoder_2", {"input_ids": ids}, batch=1)
    np.testing.assert_allclose(second[states[-2]], expected["hidden"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(second["text_embeds"], expected["pooled"], rtol=1e-5, atol=1e-5)


def test_a_folder_of_graphs_has_them_as_they_are():
    source = replace(checkpoint("sdxl"), graphs={"unet": None})
    assert build(source, published=True) == build(source) != build(checkpoint("sdxl"), published=True)
