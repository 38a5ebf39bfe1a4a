"""ControlNets: graphs against what diffusers gave in float64, readers of every layout, and what is refused by name."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from checkpoint_files import DATA, arrays_of, message, write_json, write_safetensors
from control_files import CONFIGS, net_arrays, with_nets
from recipe_weights import case, weights

from ondevice.compiler.picture import spec_of
from ondevice.converters import build
from ondevice.converters.architectures.builder import GraphBuilder, shape_of
from ondevice.converters.architectures.unet_residuals import shapes
from ondevice.converters.families import FAMILIES
from ondevice.converters.families.controlled import NETS, controlled, full_config
from ondevice.converters.random_weights import random_checkpoint
from ondevice.converters.read.controlnets import with_controlnets
from ondevice.errors import UsageError
from ondevice.graph import reference
from ondevice.rewrite import rewrite

BOUND = 5e-6  # of the largest value: as in test_vectors.py
SIZES = {"batch": 1, "height": 8, "width": 12, "tokens": 77}


def run(family, role, config, salt, inputs, **more):
    about = family.roles[role]
    network, graph = family.parts[about.part].architecture, family.graph(role)
    normal = family.normalize(about.part, config, "test")
    sizes = {name: (SIZES | more)[name] for name in graph.sizes}
    model = graph.build(GraphBuilder(role, weights(network, normal, salt)), normal, **sizes)
    return reference.run(model, inputs)


def close(found, expected):
    return found.shape == expected.shape and np.abs(found - expected).max() <= BOUND * np.abs(expected).max()


def given(arrays, *names):
    ports = {name: arrays[f"in.{name}"] for name in ("sample", "timestep", "encoder_hidden_states", *names)}
    return ports | {"control": arrays["in.cond"]}


def test_residuals_and_a_unet_with_them_are_those_of_diffusers():
    family = controlled(FAMILIES["sd15"], NETS[:1])
    raw, salt, arrays = case("controlnet_sd15")
    inputs, found = given(arrays), {}
    for scale, guess in ((1.0, 0.0), (0.5, 0.0), (0.8, 1.0)):
        net = inputs | {"scales": np.float32([[scale, guess]])}
        found[scale] = run(family, "controlnet", raw["controlnet"], salt, net)
    names = [f"down.{i}" for i in range(4)] + ["mid"]
    for number, name in enumerate(names):
        whole, half, guessed = (found[scale][f"residual_{number}"] for scale in (1.0, 0.5, 0.8))
        assert close(whole.transpose(0, 3, 1, 2), arrays[f"out.{name}"]), name
        assert np.abs(half - 0.5 * whole).max() <= 1e-6
        assert close(guessed.mean((1, 2)), arrays[f"out.guess_0.8.{name}"]), name
    ports = {name: inputs[name] for name in ("sample", "timestep", "encoder_hidden_states")} | found[0.5]
    assert close(run(family, "unet", raw["unet"], "sd15/unet", ports)["out_sample"], arrays["out.unet_at_scale_0.5"])


def test_those_of_xl_embed_sizes_by_weights_of_their_own():
    family = controlled(FAMILIES["sdxl"], NETS[:1])
    raw, salt, arrays = case("controlnet_sdxl")
    told = {"pooled": arrays["in.text_embeds"], "time_ids": arrays["in.time_ids"]}
    own = run(family, "controlnet_sizes", raw["controlnet"], salt, told, ids=6)
    found = run(family, "controlnet", raw["controlnet"], salt, given(arrays) | own | {"scales": np.float32([[1, 0]])})
    for number in range(6):
        assert close(found[f"residual_{number}"].mean((1, 2)), arrays[f"out.down.{number}"])
    assert close(found["residual_6"].transpose(0, 3, 1, 2), arrays["out.mid"])
    states = arrays["in.encoder_hidden_states"]
    hidden = {"hidden": states[..., :32], "hidden_2": states[..., 32:]}
    added = run(family, "condition", raw["unet"], "sdxl/unet", told | hidden, hidden=32, ids=6)["added"]
    ports = {name: arrays[f"in.{name}"] for name in ("sample", "timestep", "encoder_hidden_states")}
    unet = run(family, "unet", raw["unet"], "sdxl/unet", ports | found | {"added": added})
    assert close(unet["out_sample"], arrays["out.unet"])


def test_a_net_adds_to_what_others_give_each_pass_by_its_scale():
    model = build(with_nets("sd15", 2))
    chance = np.random.default_rng(3)

    def inputs(net, scales):
        graph = model.graph(net, batch=2, height=3, width=5)
        found = {value.name: chance.standard_normal(shape_of(value)).astype("f4") for value in graph.graph.inputs}
        return graph, found | {"timestep": np.float32([7]), "scales": np.float32(scales)}

    graph, ports = inputs("controlnet", [[0.5, 0], [0, 1]])
    assert {f"sum_{i}" for i in range(5)} <= ports.keys() and list(model.roles)[-3:] == [
        "controlnet_2",
        "keys_values",
        "unet",
    ]
    found = reference.run(graph, ports)
    unscaled = reference.run(graph, ports | {"scales": np.float32([[1, 0], [1, 0]])})
    for i in range(5):
        own = unscaled[f"residual_{i}"] - ports[f"sum_{i}"]
        np.testing.assert_allclose(found[f"residual_{i}"][0], ports[f"sum_{i}"][0] + 0.5 * own[0], atol=1e-5)
        np.testing.assert_allclose(found[f"residual_{i}"][1], ports[f"sum_{i}"][1], atol=1e-6)
        n, c, h, w = shapes(model.config("controlnet"), 2, 3, 5)[i]
        assert found[f"residual_{i}"].shape == (n, h, w, c)  # odd sides are rounded up on the way down
    assert "sum_0" not in {value.name for value in model.graph("controlnet_2", height=3, width=5).graph.inputs}


def test_residuals_cost_no_layout_and_no_fallback():
    """They are channels last inside, and what is given is not for a rule that takes what goes around layers."""
    model = build(with_nets("sd15", 2))
    for role, ports in (("controlnet", 2), ("unet", 2)):  # samples and pictures, or predictions, have channels first
        graph = model.graph(role, batch=2, height=8, width=8)
        outcomes = {outcome.rule: outcome.skipped for outcome in rewrite(graph)}
        assert not outcomes["Residual"] and sum(node.op_type == "Transpose" for node in graph.graph) == ports


@pytest.mark.parametrize("name", ["sd15", "sdxl", "lcm", "sdxs"])
def test_a_net_of_full_size_for_every_kind_of_model(name):
    """Its pipeline is one that a reader takes, of graphs that it has."""
    made = with_controlnets(random_checkpoint(name, 0), ["random", "random"], 0)
    model = build(made)
    spec = spec_of(model)
    assert {role.component for role in spec.roles()} == set(model.roles)
    count = sum(math.prod(tensor.shape.numpy()) for tensor in made.components["controlnet"].weights.values())
    if name == "sd15":
        rows = [json.loads(line) for line in (DATA / "manifests" / "controlnet_sd15.jsonl").read_text().splitlines()]
        stored = {row["name"]: tuple(row["shape"]) for row in rows}
        found = made.components["controlnet"].weights
        assert {name: tuple(tensor.shape.numpy()) for name, tensor in found.items()} == stored
        assert count == 361_279_120
    if name == "sdxl":
        assert round(count / 1e6, 1) == 1251.0
    assert "control_negative_scale" not in spec.numbers if name == "lcm" else "control_negative_scale_2" in spec.numbers


def test_the_golden_pipeline_is_the_familys():
    golden = json.loads((DATA.parent / "golden" / "pipeline" / "control.json").read_text())["pipeline"]
    family = FAMILIES["sd15"]
    configs = {part: family.config(part) for part in family.parts}
    own, nets = controlled(family, NETS[:2]), full_config(family, configs["unet"], configs)
    configs |= {net: own.normalize(net, nets, net) for net in NETS[:2]}
    assert own.pipeline(own, configs) | {"sampler": golden["sampler"]} == golden


def same(found, expected):
    for net in (net for net in NETS if net in expected.components):
        theirs, ours = arrays_of(found, net), arrays_of(expected, net)
        assert list(theirs) == list(ours)
        for name, array in ours.items():
            np.testing.assert_array_equal(theirs[name], array, err_msg=name)


def base(checkpoint):
    """The same without nets."""
    return replace(checkpoint, components={k: v for k, v in checkpoint.components.items() if k not in NETS})


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_every_layout_gives_the_same_weights(family, tmp_path):
    made = with_nets(family)
    config = made.components["controlnet"].config
    named, original = net_arrays(made)
    write_json(tmp_path / "net" / "config.json", config | {"_class_name": "ControlNetModel"})
    write_safetensors(tmp_path / "net" / "diffusion_pytorch_model.safetensors", named)
    write_safetensors(tmp_path / "named.safetensors", named)
    write_safetensors(tmp_path / "plain.safetensors", original)
    whole = {f"control_model.{name}": array for name, array in original.items()}
    write_safetensors(tmp_path / "original.safetensors", whole)
    rest = {"model.diffusion_model.input_blocks.0.0.bias": np.zeros(12, "f2"), "betas": np.zeros(3, "f4")}
    write_safetensors(tmp_path / "with_a_model.safetensors", whole | rest)
    for name in ("net", *(f"{stem}.safetensors" for stem in ("named", "plain", "original", "with_a_model"))):
        found = with_controlnets(base(made), [str(tmp_path / name)])
        same(found, made)
        assert build(found).roles == build(made).roles
    both = with_controlnets(base(made), [str(tmp_path / "net"), str(tmp_path / "plain.safetensors")])
    same(replace(both, components={"controlnet": both.components["controlnet_2"]}), made)
    assert set(NETS[:2]) <= set(build(both).roles)


@pytest.mark.parametrize("down", [["DownBlock2D"] * 2, ["DownBlock2D", "CrossAttnDownBlock2D"]])
def test_files_of_smaller_nets_say_what_they_are(down, tmp_path):
    """XL's nets that attend on fewer levels, or nowhere."""
    mid = {"mid_block_type": "UNetMidBlock2D"} if down[1] == "DownBlock2D" else {}
    changes = {
        "down_block_types": down,
        "transformer_layers_per_block": [1, 1],
        "conditioning_embedding_out_channels": [4, 6],
    }
    made = with_nets("sdxl", **changes, **mid)
    for number, arrays in enumerate(net_arrays(made)):
        path = tmp_path / f"{number}.safetensors"
        write_safetensors(path, arrays)
        same(with_controlnets(base(made), [str(path)]), made)


def refusal(checkpoint, path):
    return message(lambda: with_controlnets(checkpoint, [str(path)]))


def test_nets_of_other_models_are_refused_by_name(tmp_path):
    wide = replace_config(base(with_nets("sd15")), "unet", cross_attention_dim=768)
    write_json(tmp_path / "xl" / "config.json", {"_class_name": "ControlNetModel"} | xl_config())
    arrays = {name: np.zeros(shape, "f2") for name, shape in xl_weights()}
    write_safetensors(tmp_path / "xl" / "diffusion_pytorch_model.safetensors", arrays)
    write_safetensors(tmp_path / "xl.safetensors", arrays)
    fix = "Fix: use a ControlNet that was trained for Stable Diffusion 1.x."
    assert refusal(wide, tmp_path / "xl") == (
        f"--controlnet {tmp_path}/xl: this is a ControlNet of Stable Diffusion XL, not of Stable Diffusion 1.x: the "
        f"controlnet's cross_attention_dim is not the unet's (got 2048, expected 768). {fix}"
    )
    assert refusal(wide, tmp_path / "xl.safetensors") == (
        f"--controlnet {tmp_path}/xl.safetensors: this is a ControlNet of Stable Diffusion XL, not of Stable Diffusion "
        f"1.x (by the shapes of its weights). {fix}"
    )


def replace_config(checkpoint, part, **changes):
    component = checkpoint.components[part]
    return replace(
        checkpoint, components=checkpoint.components | {part: replace(component, config=component.config | changes)}
    )


def xl_config():
    unet = CONFIGS["sdxl"]["unet"] | {"cross_attention_dim": 2048}
    own = {name: unet[name] for name in unet if name not in ("up_block_types",)}
    return own | {"conditioning_embedding_out_channels": [4, 6]}


def xl_weights():
    family = controlled(FAMILIES["sdxl"], NETS[:1])
    network = family.parts["controlnet"].architecture
    return network.weights(network.normalize(xl_config(), "test")).items()


CLASSES = {
    "T2IAdapter": "a T2I adapter",
    "ControlNetXSAdapter": "a ControlNet-XS",
    "ControlNetUnionModel": "a ControlNet Union",
    "SparseControlNetModel": "a SparseCtrl, for films",
    "SD3ControlNetModel": "a ControlNet of Stable Diffusion 3",
    "UNet2DConditionModel": "a UNet",
}


@pytest.mark.parametrize("name", CLASSES)
def test_folders_of_something_else_are_refused_by_name(name, tmp_path):
    write_json(tmp_path / "net" / "config.json", {"_class_name": name})
    assert refusal(base(with_nets("sd15")), tmp_path / "net") == (
        f"--controlnet {tmp_path}/net: this is {CLASSES[name]}, and no ControlNet that can be used here (its "
        f"config.json says {name}). Fix: use a ControlNet (ControlNetModel of diffusers)."
    )


FILES = {
    "adapter.body.0.resnets.0.block1.weight": "a T2I adapter, not a whole checkpoint",
    "task_embedding": "a ControlNet Union",
    "down_blocks.0.ctrl_to_base.0.weight": "a ControlNet-XS",
    "lllite_unet_input_blocks_4_1_proj_in.down.0.weight": "a ControlNet-LLLite",
    "lora_controlnet": "a Control-LoRA, which is no whole ControlNet",
    "down_blocks.0.motion_modules.0.norm.weight": "a motion module (AnimateDiff), not a whole checkpoint",
    "output_blocks.0.0.in_layers.0.weight": "a UNet alone",
}


OF_NETS = ("task_embedding", "down_blocks.0.ctrl_to_base.0.weight", "down_blocks.0.motion_modules.0.norm.weight")


@pytest.mark.parametrize("name", FILES)
def test_files_of_something_else_are_refused_by_name(name, tmp_path):
    path = tmp_path / "x.safetensors"
    beside = ["controlnet_cond_embedding.conv_in.bias"] * (name in OF_NETS)
    write_safetensors(path, {one: np.zeros((3, 3), "f2") for one in (name, *beside)})
    said = refusal(base(with_nets("sd15")), path)
    assert said.startswith(f"--controlnet {path}: this is {FILES[name]} (it has weights named ")
    assert said.endswith(", and no ControlNet. Fix: give a ControlNet of Stable Diffusion 1.x.")


@pytest.mark.parametrize(
    "changes, what",
    [
        (
            {"conditioning_embedding_out_channels": [4, 6, 8]},
            "number of pixels per latent, by its conditioning_embedding",
        ),
        (
            {"block_out_channels": [12, 12]},
            "the controlnet's block_out_channels is not the unet's (got [12, 12], expected",
        ),
        ({"layers_per_block": 2}, "the controlnet's layers_per_block is not the unet's (got [2, 2], expected [1, 1])"),
        ({"in_channels": 9}, "the controlnet's in_channels is not the vae's latent_channels (got 9, expected 4)"),
        ({"global_pool_conditions": True}, "config key 'global_pool_conditions' is not supported (got True"),
        ({"controlnet_conditioning_channel_order": "bgr"}, "'controlnet_conditioning_channel_order' is not supported"),
        ({"attention_head_dim": [3]}, "config key 'attention_head_dim' has 1 entries and block_out_channels has 2"),
    ],
)
def test_configs_that_do_not_fit(changes, what, tmp_path):
    made = with_nets("sd15")
    config = made.components["controlnet"].config | {"_class_name": "ControlNetModel"} | changes
    write_json(tmp_path / "net" / "config.json", config)
    family = controlled(FAMILIES["sd15"], NETS[:1])
    if "supported" not in what and "entries" not in what:
        network = family.parts["controlnet"].architecture
        arrays = {n: np.zeros(s, "f2") for n, s in network.weights(network.normalize(config, "test")).items()}
        write_safetensors(tmp_path / "net" / "diffusion_pytorch_model.safetensors", arrays)
    assert what in refusal(base(made), tmp_path / "net")


def test_flags_that_cannot_be_had(tmp_path):
    tiny = base(with_nets("sd15"))
    for given, seed, what in (
        (["a/b/c"], None, "there is no such file or folder, and it is no hub id (expected a ControlNet)"),
        (["random"], None, "there is no such file or folder, and it is no hub id (expected a ControlNet)"),
    ):
        assert what in message(lambda given=given, seed=seed: with_controlnets(tiny, given, seed))
    with pytest.raises(UsageError, match=r"too many ControlNets \(got 5, expected at most 4\)"):
        with_controlnets(tiny, ["random"] * 5, 0)
    with pytest.raises(UsageError, match="an exported graph takes no ControlNet"):
        with_controlnets(replace(tiny, graphs={"unet": None}), ["random"], 0)
