"""Stable Diffusion 2.x and XL as diffusers saves them: every graph of the folder equals its module, and diffusers finds
the folder's weights in the single file that our names make of them."""

import json

import numpy as np
import pytest
from checkpoint_files import arrays_of
from family_files import original
from graph_session import GraphSession
from parity.modules import TEXT, UNET, VAE, relative_error, torch_module
from parity.test_components import normal, run

from ondevice.base.paths import MODELS
from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.converters.read.checkpoint import open_checkpoint

pytestmark = pytest.mark.parity
BOUND = 1e-5
TOKENS = TEXT | {"vocab_size": 49408, "bos_token_id": 0, "eos_token_id": 2}
SECOND = TOKENS | {
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "hidden_act": "gelu",
    "projection_dim": 12,
}
WIDE = UNET | {"use_linear_projection": True, "attention_head_dim": [3, 5, 7]}
XL = WIDE | {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 3],
    "cross_attention_dim": 44,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 6,
    "projection_class_embeddings_input_dim": 48,
}


def modules_of(family):
    """diffusers' and transformers' modules by component, small, each with weights of its own."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    modules = {"vae": torch_module("vae", VAE, 3), "unet": torch_module("unet", XL if family == "sdxl" else WIDE, 4)}
    torch.manual_seed(6)
    first = TOKENS if family == "sdxl" else TOKENS | {"hidden_act": "gelu"}
    modules["text_encoder"] = transformers.CLIPTextModel(transformers.CLIPTextConfig(**first)).eval()
    if family == "sdxl":
        modules["text_encoder_2"] = transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(**SECOND)
        ).eval()
    return modules


@pytest.fixture(scope="module", params=["sd21", "sdxl"])
def saved(request, tmp_path_factory):
    """(family, modules, the folder that diffusers writes of them)."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    family, folder = request.param, tmp_path_factory.mktemp(request.param) / "m"
    modules, root = modules_of(family), MODELS / family
    parts = dict(modules)
    for name in FAMILIES[family].tokenizers:
        held = folder.parent / name
        held.mkdir()
        for file, data in FAMILIES[family].tokenizer(name).items():
            (held / file).write_bytes(data)
        parts[name] = transformers.CLIPTokenizer.from_pretrained(held)
    config = json.loads((root / "scheduler" / "scheduler_config.json").read_text())
    parts["scheduler"] = getattr(diffusers, config["_class_name"]).from_config(config)
    if family == "sdxl":
        pipe = diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        pipe = diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.save_pretrained(folder)
    return family, modules, folder


def graph(model, role, inputs, **sizes):
    built = model.graph(role, **sizes)
    return run(built, {value.name: inputs[value.name] for value in built.graph.inputs})


def test_a_folder_that_diffusers_wrote(saved):
    torch = pytest.importorskip("torch")
    family, modules, folder = saved
    model = build(open_checkpoint(folder, family=family), whole=True)
    ids = np.random.default_rng(0).integers(1, 49000, (1, 77)).astype(np.int32)
    ids[0, 30:] = 49407
    sample, latent = normal(1, 1, 4, 12, 8), normal(2, 1, 4, 5, 3)
    given, tokens = {"input_ids": ids}, torch.tensor(ids, dtype=torch.long)
    text, added = normal(3, 1, 77, 44 if family == "sdxl" else 20), None
    with torch.no_grad():
        if family == "sdxl":
            hidden = modules["text_encoder"](tokens, output_hidden_states=True).hidden_states[-2].numpy()
            second = modules["text_encoder_2"](tokens, output_hidden_states=True)
            assert relative_error(graph(model, "text_encoder", given), hidden) <= BOUND
            assert relative_error(graph(model, "text_encoder_2", given), second.hidden_states[-2].numpy()) <= BOUND
            times = {
                "time_ids": np.array([[1024, 768, 0, 16, 1024, 768]], np.float32),
                "hidden": text[..., :20],
                "hidden_2": text[..., 20:],
            }
            pooled = second.text_embeds.numpy()
            added = {"text_embeds": torch.tensor(pooled), "time_ids": torch.tensor(times["time_ids"])}
            condition = model.graph("condition")
            condition.graph.outputs[:] = condition.graph.outputs[::-1]  # `run` gives the first
            given["added"] = run(condition, times | {"pooled": pooled})
            encoder = model.graph("text_encoder_2")
            encoder.graph.outputs[:] = encoder.graph.outputs[::-1]
            assert relative_error(run(encoder, {"input_ids": ids}), pooled) <= BOUND
        else:
            hidden = modules["text_encoder"](tokens).last_hidden_state.numpy()
            assert relative_error(graph(model, "text_encoder", given), hidden) <= BOUND
        unet = modules["unet"](
            torch.tensor(sample), torch.tensor(981.0), torch.tensor(text), added_cond_kwargs=added
        ).sample.numpy()
        picture = modules["vae"].decode(torch.tensor(latent)).sample
        moments = modules["vae"].encode(picture).latent_dist.parameters.numpy()
    given |= {"sample": sample, "timestep": np.array([981], np.float32), "encoder_hidden_states": text}
    assert relative_error(graph(model, "unet", given, height=12, width=8), unet) <= BOUND
    assert (
        relative_error(graph(model, "vae_decoder", {"latent_sample": latent}, height=5, width=3), picture.numpy())
        <= BOUND
    )
    assert relative_error(graph(model, "vae_encoder", {"sample": picture.numpy()}, height=5, width=3), moments) <= BOUND


def test_published_graphs_are_the_modules(saved):
    torch = pytest.importorskip("torch")
    family, modules, folder = saved
    runtime = GraphSession(build(open_checkpoint(folder, family=family), published=True))
    ids = np.random.default_rng(5).integers(0, 49408, (1, 77)).astype(np.int32)
    for name, module in modules.items():
        if name.startswith("text_encoder"):
            with torch.no_grad():
                expected = module(torch.tensor(ids, dtype=torch.long), output_hidden_states=True)
            given = runtime.run(name, {"input_ids": ids}, batch=1)
            states = {f"hidden_states_{count}": value for count, value in enumerate(expected["hidden_states"])}
            assert given.keys() == {*states, *expected.keys()} - {"hidden_states"}
            for port, array in given.items():
                value = (states[port] if port in states else expected[port]).numpy()
                assert relative_error(array, value) <= BOUND, (name, port)
    text = normal(2, 2, 77, modules["unet"].config.cross_attention_dim)
    taken = {"sample": normal(1, 2, 4, 8, 4), "timestep": np.float32([981]), "encoder_hidden_states": text}
    added = {"text_embeds": normal(3, 2, 12), "time_ids": np.float32([[64, 96, 0, 8, 64, 96]] * 2)}
    added = added if family == "sdxl" else {}
    kwargs = {"added_cond_kwargs": {name: torch.tensor(array) for name, array in added.items()}}
    with torch.no_grad():
        expected = modules["unet"](*map(torch.tensor, taken.values()), **kwargs).sample.numpy()
    given = runtime.run("unet", taken | added, batch=2, height=8, width=4)
    assert relative_error(given["out_sample"], expected) <= BOUND


def test_diffusers_finds_the_same_weights_in_our_single_file(saved):
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("diffusers.loaders.single_file_utils")
    family, modules, folder = saved
    found, about = open_checkpoint(folder, family=family), FAMILIES[family]
    file = {name: torch.tensor(array) for name, array in original(found, about).items()}
    file = {
        name: value[..., None, None] if ".mid.attn_1." in name and value.ndim == 2 else value
        for name, value in file.items()
    }
    states = {
        "unet": files.convert_ldm_unet_checkpoint(dict(file), dict(modules["unet"].config)),
        "vae": files.convert_ldm_vae_checkpoint(dict(file), dict(modules["vae"].config)),
    }
    clip = "text_encoder_2" if family == "sdxl" else "text_encoder"
    states[clip] = files.convert_open_clip_checkpoint(modules[clip], dict(file), prefix=about.parts[clip].prefix)
    if family == "sdxl":
        states["text_encoder"] = files.convert_ldm_clip_checkpoint(
            dict(file), remove_prefix=about.parts["text_encoder"].prefix
        )
    for part, state in states.items():
        theirs = {about.parts[part].architecture.canonical(name): value.numpy() for name, value in state.items()}
        expected = arrays_of(found, part)
        assert not expected.keys() - theirs.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(theirs[name], array, err_msg=name)
