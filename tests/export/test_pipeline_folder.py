"""A folder of ONNX files has what optimum's pipelines look for: classes, configs, scheduler, tokenizers, port names."""

import json

import onnx
import pytest
from family_files import TINY
from tiny_model import TINY as SD1

from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.converters.onnx_import import read_onnx_folder
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.source import with_clip_skip
from ondevice.export.manifest import read_manifest
from ondevice.export.options import FORMATS, Options
from ondevice.export.writing import export
from ondevice.graph.verify import verify_graph

SIZE = (10, 6)
PARTS = {"sd14": SD1 | {"text_encoder": SD1["text_encoder"] | {"vocab_size": 49408}}, **TINY}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """`exported(family, ...)`: its folder, written once."""
    folders = {}

    def written(family, size=SIZE, skipped=0, **chosen):
        key = family, size, skipped, *chosen.items()
        if key not in folders:
            source = with_clip_skip(random_checkpoint_from_configs(seed=2, family=family, **PARTS[family]), skipped)
            out = tmp_path_factory.mktemp("folders") / family
            folders[key] = export(source, out, FORMATS["onnx"], Options(**chosen), sizes=[size])
        return folders[key]

    return written


def read(folder, *names):
    return json.loads(folder.joinpath(*names).read_text())


def names(folder, component):
    graph = onnx.load(folder / component / "model.onnx", load_external_data=False).graph
    return [[value.name for value in values] for values in (graph.input, graph.output)]


def test_classes_of_stable_diffusion_1(exported):
    nothing = [None, None]
    assert read(exported("sd14"), "model_index.json") == {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.35.2",
        "feature_extractor": nothing,
        "image_encoder": nothing,
        "safety_checker": nothing,
        "requires_safety_checker": False,
        "text_encoder": ["transformers", "CLIPTextModel"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "PNDMScheduler"],
    }


@pytest.mark.parametrize(
    "family, name, zeros, score, first",
    [
        ("sdxl", "StableDiffusionXLPipeline", True, False, ["transformers", "CLIPTextModel"]),
        ("sdxl-refiner", "StableDiffusionXLImg2ImgPipeline", False, True, [None, None]),
    ],
)
def test_classes_of_stable_diffusion_xl(family, name, zeros, score, first, exported):
    index = read(exported(family), "model_index.json")
    assert (index["_class_name"], index["text_encoder"]) == (name, first)
    assert index["text_encoder_2"] == ["transformers", "CLIPTextModelWithProjection"]
    assert (index["force_zeros_for_empty_prompt"], index["requires_aesthetics_score"]) == (zeros, score)


def test_configs_are_those_of_the_graphs(exported):
    folder = exported("sdxl", skipped=1, sampler="ddim")
    unet, text = read(folder, "unet", "config.json"), read(folder, "text_encoder_2", "config.json")
    assert unet["_class_name"] == "UNet2DConditionModel" and unet["sample_size"] == [3, 5]
    assert read(exported("sd14", size=(8, 8)), "unet", "config.json")["sample_size"] == 4
    # a layer fewer, and one state per layer and the first
    assert text["num_hidden_layers"] == 2 and "clip_skip" not in text
    states = ["hidden_states.0", "hidden_states.1", "hidden_states.2"]
    assert names(folder, "text_encoder_2") == [["input_ids"], ["text_embeds", "last_hidden_state", *states]]
    assert names(folder, "unet")[0] == ["sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"]
    vae = read(folder, "vae_decoder", "config.json")
    assert vae == read(folder, "vae_encoder", "config.json") and vae["force_upcast"] is False
    assert read(folder, "scheduler", "scheduler_config.json")["_class_name"] == "DDIMScheduler"
    assert not (folder / "context" / "config.json").exists()


def test_a_text_is_as_long_as_the_text_encoder_says(exported):
    assert read(exported("sd14"), "tokenizer", "tokenizer_config.json")["model_max_length"] == 7
    assert read(exported("sdxl"), "tokenizer_2", "tokenizer_config.json")["model_max_length"] == 77


def test_the_manifest_calls_ports_as_the_files_do(exported):
    folder = exported("sdxl")
    found = read_manifest(folder, tuple(FORMATS))
    for entry in found.entries:
        ports = [[port.name for port in table.values()] for table in (entry.inputs, entry.outputs)]
        assert ports == names(folder, entry.component)
    text = next(entry for entry in found.entries if entry.component == "text_encoder")
    assert text.outputs["hidden_states_1"].name == "hidden_states.1"


def test_plain_graphs_can_be_converted_again(exported):
    model = build(read_onnx_folder(exported("sd14", without=("all",)), FAMILIES["sd14"]))
    for role in model.roles:
        verify_graph(model.graph(role, batch=2 if role == "unet" else 1, height=3, width=5))
