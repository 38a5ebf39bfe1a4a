"""Core ML packages as Apple's Swift package looks for them, the UNet whole and in two."""

import json

import family_files
import numpy as np
import pytest
from tiny_model import TINY

from ondevice.compiler.jobs import largest_jobs
from ondevice.compiler.programs import fused_graphs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.export.coreml.halves import halves
from ondevice.export.coreml.tools import features, models
from ondevice.export.manifest import read_manifest
from ondevice.export.options import FORMATS, Options
from ondevice.export.runner import feeds
from ondevice.export.runtimes import mil
from ondevice.export.writing import export

COREML = FORMATS["coreml"]
SIZES = {"sd14": (10, 6), "sdxl": (20, 12)}


@pytest.fixture(scope="module", params=SIZES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def checkpoint(family):
    configs = {"sd14": TINY, "sdxl": family_files.TINY["sdxl"]}[family]
    return random_checkpoint_from_configs(seed=1, family=family, **configs)


@pytest.fixture(scope="module")
def folder(family, checkpoint, tmp_path_factory):
    options = Options(dtype="fp32", flags={"split-unet": True})
    return export(checkpoint, tmp_path_factory.mktemp("coreml") / "split", COREML, options, sizes=[SIZES[family]])


def described(package):
    """{name: (shape, dtype)} of its inputs, and of its outputs."""
    model = models.Model.FromString((package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    arrays = features.ArrayFeatureType.ArrayDataType
    return [
        {
            one.name: (tuple(one.type.multiArrayType.shape), arrays.Name(one.type.multiArrayType.dataType))
            for one in ports
        }
        for ports in (model.description.input, model.description.output)
    ]


def test_a_folder_is_what_swift_looks_for(family, folder):
    names = {"TextEncoder", "UnetChunk1", "UnetChunk2", "VAEDecoder", "VAEEncoder"}
    names |= {"TextEncoder2"} if family == "sdxl" else set()
    assert {path.stem for path in folder.glob("*.mlpackage")} >= names
    assert not (folder / "Unet.mlpackage").exists()
    assert (folder / "merges.txt").read_bytes().endswith(b"\n")
    assert json.loads((folder / "vocab.json").read_text()) == json.loads((folder / "tokenizer/vocab.json").read_text())
    width, height = (side // 2 for side in SIZES[family])
    unet = next(entry for entry in read_manifest(folder, tuple(FORMATS)).entries if entry.component == "unet")
    _, tokens, context = unet.shapes["encoder_hidden_states"]
    inputs, _ = described(folder / "UnetChunk1.mlpackage")
    assert inputs["sample"] == ((2, 4, height, width), "FLOAT32") and inputs["timestep"] == ((2,), "FLOAT32")
    assert inputs["encoder_hidden_states"] == ((2, context, 1, tokens), "FLOAT32")
    _, outputs = described(folder / "UnetChunk2.mlpackage")
    assert list(outputs) == ["noise_pred"]
    for text in (folder / f"{name}.mlpackage" for name in names if name.startswith("TextEncoder")):
        inputs, outputs = described(text)
        assert inputs == {"input_ids": ((1, tokens), "FLOAT32")}
        assert {"last_hidden_state", "hidden_embeds", "pooled_outputs"} <= outputs.keys()
    for entry in read_manifest(folder, tuple(FORMATS)).entries:
        if entry.component.startswith("text_encoder"):
            states = sorted(int(name.rpartition("_")[2]) for name in entry.outputs if name.startswith("hidden_states_"))
            assert entry.outputs[f"hidden_states_{states[-2]}"].name == "hidden_embeds"
    assert [[*ports] for ports in described(folder / "VAEDecoder.mlpackage")] == [["z"], ["image"]]
    assert [[*ports] for ports in described(folder / "VAEEncoder.mlpackage")] == [["x"], ["latent"]]


def test_the_second_chunk_needs_what_the_first_gives_and_the_inputs(folder):
    """Swift gives it both, and no more."""
    (takes, gives), (needs, _) = (described(folder / f"UnetChunk{number}.mlpackage") for number in (1, 2))
    assert set(gives) <= set(needs) <= {*takes, *gives} and len(gives) > 1
    assert all(dtype == "FLOAT32" for _, dtype in gives.values())


def test_two_chunks_are_the_whole(family, checkpoint, folder, tmp_path):
    whole = export(checkpoint, tmp_path / "whole", COREML, Options(dtype="fp32"), sizes=[SIZES[family]])
    rng, found = np.random.default_rng(0), []
    given = None
    for out in (whole, folder):
        entry = next(e for e in read_manifest(out, tuple(FORMATS)).entries if e.component == "unet")
        given = given or {name: rng.standard_normal(entry.shapes[name]).astype(np.float32) for name in entry.inputs}
        found.append(mil.load(out, entry).run(feeds(entry, given))["noise_pred"])
    assert found[0].std() > 0
    np.testing.assert_array_equal(*found)


def test_chunks_have_half_of_the_weights(family, checkpoint):
    model = build(checkpoint, published=True)
    jobs = [job for job in largest_jobs(model, SIZES[family]) if job.component == "unet"]
    (fused,) = fused_graphs(model, Recipe(without=COREML.without), jobs)
    sizes = [
        sum(
            v.const_value.size
            for v in {v for node in part for v in node.inputs if v is not None and v.const_value is not None}
        )
        for part in halves(fused.graph.graph)
    ]
    assert 0.4 < sizes[0] / sum(sizes) < 0.6
