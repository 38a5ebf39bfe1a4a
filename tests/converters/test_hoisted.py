"""What depends on the text alone is apart: of every family the same numbers, and any network that says how."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from control_files import with_nets
from family_files import SMALL, TINY
from recipe_weights import case, weights
from tiny_model import TINY as SD1

from ondevice.compiler.picture import spec_of
from ondevice.converters import build
from ondevice.converters.architectures.architecture import Apart, Graph
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.families import FAMILIES
from ondevice.converters.families.family import Role
from ondevice.converters.families.hoisted import hoisted
from ondevice.converters.random_weights import random_checkpoint, random_checkpoint_from_configs
from ondevice.graph import reference
from ondevice.graph.verify import static_shape, verify_graph

MODELS = {name: configs for name, configs in {"sd14": SD1, **TINY, **SMALL}.items() if "unet" in configs}
TEXT = "encoder_hidden_states"


def shapes(values):
    return {value.name: static_shape(value) for value in values}


@pytest.mark.parametrize("family", MODELS)
def test_both_parts_give_what_the_whole_does(family):
    """In float64; what is apart has the weights of keys and values, and no other."""
    source = random_checkpoint_from_configs(**MODELS[family], seed=4, family=family)
    cut, whole = build(source), build(source, whole=True)
    size = {"batch": 2, "height": 4, "width": 6}
    first, rest = cut.graph("keys_values", batch=2), cut.graph("unet", **size)
    graph = whole.graph("unet", **size)
    for one in (first, rest, graph):
        verify_graph(one)
    rng = np.random.default_rng(0)
    given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes(graph.graph.inputs).items()}
    (expected,) = reference.run(graph, given).values()
    made = reference.run(first, {TEXT: given[TEXT]})
    assert shapes(first.graph.outputs).items() <= shapes(rest.graph.inputs).items()
    assert tuple(made) == cut.between("unet") == cut.between("keys_values") and not whole.between("unet")
    asked = {name: (given | made)[name] for name in shapes(rest.graph.inputs)}
    (found,) = reference.run(rest, asked).values()
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()

    def named(model):
        known = source.components["unet"].weights
        return {name.split(":")[0].removesuffix(".T") for name in model.graph.initializers} & set(known)

    assert not named(first) & named(rest) and named(first) | named(rest) == named(graph)
    of_text = {name for name in named(graph) if ".attn2.to_k." in name or ".attn2.to_v." in name}
    assert of_text <= named(first) and all(".to_k." in name or ".to_v." in name for name in named(first))


@pytest.mark.parametrize("name, family", [("sd2_unet", "sd21"), ("sdxl_unet", "sdxl")])
def test_both_parts_give_what_the_reference_gave(name, family):
    """Against outputs that diffusers gave in float64."""
    raw, salt, arrays = case(name)
    part = FAMILIES[family].parts["unet"]
    network, config = part.architecture, FAMILIES[family].normalize("unet", raw, "test")
    stored = weights(network, config, salt)
    given = {key.removeprefix("in."): array for key, array in arrays.items() if key.startswith("in.")}
    batch, _, height, width = given["sample"].shape
    sizes = {"batch": batch, "height": height, "width": width, "tokens": 77}

    def graph(name, **sizes):
        return network.graphs[name].build(GraphBuilder("unet", stored), config, **sizes)

    made = reference.run(graph("keys_values", batch=batch, tokens=77), {TEXT: given[TEXT]})
    if family == "sdxl":
        pooled = {"pooled": given["text_embeds"], "time_ids": given["time_ids"]}
        made |= reference.run(graph("sizes", batch=batch, ids=6), pooled)
    step = graph("step", **sizes)
    (found,) = reference.run(step, {one: (given | made)[one] for one in shapes(step.graph.inputs)}).values()
    assert np.abs(found - arrays["out.sample"]).max() <= 5e-6 * np.abs(arrays["out.sample"]).max()


@pytest.mark.parametrize("name", ["sd14", "sd21", "sdxl", "sdxl-refiner", "lcm", "sd15-inpaint", "instruct-pix2pix"])
def test_at_full_size_it_runs_once_per_text(name):
    spec = spec_of(build(random_checkpoint(name, 0)))
    (role,) = [step for step in spec.before if getattr(step, "component", "") == "keys_values"]
    (unet,) = spec.loop_roles()
    assert role.every == "text" and {feed.name for feed in role.feed.values()} == {"context"}
    assert TEXT not in unet.feed and {feed.name for feed in unet.feed.values()} >= set(role.keep.values())
    assert len(role.keep) == (11 if name.startswith("sdxl") else 16)


def test_what_it_saves_sdxl():
    """Of a step: a seventh of its weights, and 52 GFLOP per pass."""
    source = random_checkpoint("sdxl", 0)
    first = build(source).graph("keys_values")
    products = [node for node in first.graph if node.op_type == "MatMul"]
    columns = sum(static_shape(node.outputs[0])[-1] for node in products)
    whole = sum(prod(tensor.shape.numpy()) for tensor in source.components["unet"].weights.values())
    assert (len(products), columns) == (11, 166_400)
    assert 0.13 < 2048 * columns / whole < 0.14


def test_attention_to_the_text_alone_is_apart_as_a_whole():
    """SDXS: the first attention of a block looks at the text, too."""
    model = build(random_checkpoint_from_configs(**SMALL["sdxs"], seed=1, family="sdxs"))
    named = [name for name in model.graph("keys_values").graph.initializers if name.endswith(".T")]
    assert any(".attn1.to_v." in name for name in named)
    assert not any(".attn1.to_v." in name for name in model.graph("unet", height=4, width=4).graph.initializers
                   if "down_blocks.0" in name)  # fmt: skip


def test_control_nets_are_given_the_text_itself():
    model = build(with_nets("sdxl", 1))
    pipeline = model.pipeline()
    (loop,) = pipeline["denoise"]
    net, unet = loop["roles"]
    assert net["feed"][TEXT] == {"value": "context"} and TEXT not in unet["feed"]
    assert {"residual_0", "keys_values_0"} <= set(unet["feed"]) and "keys_values_0" not in net["feed"]
    assert model.roles.index("keys_values") == model.roles.index("unet") - 1


# Any network that says how --------------------------------------------------------------------------------


def doubled(b, config, *, batch):
    return b.finish(twice=b.binary("twice", "Add", text := b.input("words", (batch, 3)), text))


def made_up(of="context", every="text", linear=False, **changes):
    """Stable Diffusion's model with a network beside its UNet, that is given a value in each call."""
    family = FAMILIES["sd14"]
    graphs = {
        "all": Graph(None, sizes=("batch",), apart=Apart("first", "second", ("words",), linear)),
        "first": Graph(doubled, sizes=("batch",)),
        "second": Graph(None, sizes=("batch",)),
    }
    network = replace(family.parts["unet"].architecture, graphs=graphs, keys={})
    role = {"run": "look", "feed": {"words": {"value": of}, "timestep": {"value": "timestep"}}, "keep": {"y": "y"}}

    def pipeline(this, configs):
        known = family.pipeline(family, configs)
        (loop,) = known["denoise"]
        encoder, *others = known["before"]
        loop = loop | {"roles": [role | changes.get("role", {}), *loop["roles"]]} | changes.get("loop", {})
        before = [encoder | {"every": every}, *others]
        return known | {"before": before, "denoise": [loop] * changes.get("loops", 1)}

    parts = {**family.parts, "net": replace(family.parts["unet"], architecture=network)}
    roles = {**family.roles, "look": Role("net", "all")}
    roles["unet"] = replace(roles["unet"], graph="condition")  # one that is not there in two
    return replace(family, parts=parts, roles=roles, pipeline=pipeline)


CONFIGS = {name: component.config for name, component in random_checkpoint("sd14", 0).components.items()} | {"net": {}}


@pytest.mark.parametrize("every", ["text", "picture"])
def test_any_network_that_says_how_is_cut_in_two(every):
    family = hoisted(made_up(every=every), CONFIGS)
    pipeline = family.pipeline(family, CONFIGS)
    assert list(family.roles) == ["text_encoder", "unet", "vae_decoder", "vae_encoder", "first", "look"]
    assert family.roles["first"].of == "look" and family.roles["look"].graph == "second"
    assert pipeline["before"][1] == {
        "run": "first", "every": every, "feed": {"words": {"value": "context"}}, "keep": {"twice": "twice"},
    }  # fmt: skip
    look, unet = pipeline["denoise"][0]["roles"]
    assert list(look["feed"].items()) == [("twice", {"value": "twice"}), ("timestep", {"value": "timestep"})]
    assert TEXT in unet["feed"]


def test_a_network_that_two_stretches_run_is_cut_once():
    family = hoisted(made_up(loops=2), CONFIGS)
    pipeline = family.pipeline(family, CONFIGS)
    assert [step["run"] for step in pipeline["before"] if "run" in step].count("first") == 1
    assert [loop["roles"][0]["feed"]["twice"] for loop in pipeline["denoise"]] == [{"value": "twice"}] * 2


def of_two_values():
    """Two stretches of the schedule, whose networks look at other values."""
    family = made_up(loops=2)

    def pipeline(this, configs):
        known = family.pipeline(family, configs)
        first, second = known["denoise"]
        look, *others = second["roles"]
        other = look | {"feed": look["feed"] | {"words": {"value": "image_moments"}}}
        return known | {"denoise": [first, second | {"roles": [other, *others]}]}

    return replace(family, pipeline=pipeline)


STAYS = {
    "it is another in another stretch": of_two_values(),
    "it changes in each call": made_up(of="latents"),
    "it is zeros in a pass": made_up(loop={"passes": [{"text": "prompt", "zeros": ["context"]}]}),
    "zeros may stand for it": made_up(role={"feed": {"words": {"value": "context", "absent": "zeros"}}}),
    "it is not a value": made_up(role={"feed": {"words": {"picture": "image"}}}),
}


@pytest.mark.parametrize("why", STAYS)
def test_what_cannot_run_once_stays_in_the_step(why):
    assert hoisted(STAYS[why], CONFIGS) is STAYS[why]


@pytest.mark.parametrize("alone", [True, False])
def test_zeros_make_zeros_of_what_is_linear(alone):
    """Of a value that another role reads, too, both."""
    passes = [{"text": "prompt", "zeros": ["context"]}, {"text": "prompt"}]
    whole = made_up(linear=True, loop={"passes": passes})

    def pipeline(this, configs):
        known = whole.pipeline(whole, configs)
        (loop,) = known["denoise"]
        return known | {"denoise": [loop | {"roles": loop["roles"][:1] if alone else loop["roles"]}]}

    family = hoisted(replace(whole, pipeline=pipeline), CONFIGS)
    (loop,) = family.pipeline(family, CONFIGS)["denoise"]
    assert loop["passes"] == [{"text": "prompt", "zeros": ["twice"] if alone else ["twice", "context"]}, passes[1]]


@pytest.mark.parametrize("outputs, stays", [(0, True), (64, False), (65, True)])
def test_what_a_pipeline_does_not_hold_stays_in_the_step(outputs, stays):
    family = made_up(role={"feed": {"words": {"value": "context"}}})

    def many(b, config, *, batch):
        text = b.input("words", (batch, 3))
        return b.finish(**{f"part_{number}": b.unary("x", "Neg", text) for number in range(outputs)})

    network = family.parts["net"].architecture
    network = replace(network, graphs=network.graphs | {"first": Graph(many, sizes=("batch",))})
    family = replace(family, parts={**family.parts, "net": replace(family.parts["net"], architecture=network)})
    assert (hoisted(family, CONFIGS) is family) == stays


@pytest.mark.parametrize("depth, found", [(1, True), (0, False)])
def test_a_unet_without_attention_to_the_text_is_whole(depth, found):
    unet = SD1["unet"] | {"transformer_layers_per_block": depth, "mid_block_type": "UNetMidBlock2D"}
    model = build(random_checkpoint_from_configs(**SD1 | {"unet": unet}, seed=1))
    assert ("keys_values" in model.roles) == found == bool(model.between("unet"))
