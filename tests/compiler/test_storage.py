"""What parts of a bundle are stored as, whatever --dtype says."""

import pytest
from tiny_model import TINY

from ondevice.compiler import Job, Recipe
from ondevice.compiler.jobs import band_jobs
from ondevice.compiler.picture import spec_of
from ondevice.compiler.programs import programs
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.target import load_target


@pytest.fixture(scope="module")
def model():
    return build(random_checkpoint_from_configs(**TINY, seed=1))


@pytest.fixture(scope="module")
def lowered(model):
    jobs = [Job("text_encoder", {"batch": 1}), *band_jobs(model, spec_of(model), [(6, 18)], 8)]
    return [compiled.program for compiled in programs(model, Recipe("f16"), jobs)]


def test_the_text_encoder_is_float32(model, lowered):
    """Its rounding would reach every step."""
    text, *stages = lowered
    assert {tensor.dtype for name, tensor in text.tensors.items() if name != "input_ids"} == {"f32"}
    assert all(any(tensor.dtype == "f16" for tensor in stage.tensors.values()) for stage in stages)
    parts = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
    assert [Recipe("f16").storage(model, part) for part in parts] == ["f32", "f16", "f16", "f16"]


def test_pictures_between_stages_are_as_they_are_stored_and_both_ends_float32(lowered):
    _, *stages = lowered
    assert len(stages) > 4 and "latent_sample" in stages[0].inputs and list(stages[-1].outputs) == ["sample"]
    for stage in stages:
        for name in (*stage.inputs, *stage.outputs):
            tensor = stage.tensors[name]
            between = len(tensor.shape) == 4 and name not in ("latent_sample", "sample")
            assert (name, tensor.dtype) == (name, "f16" if between else "f32"), "statistics are float32, too"


@pytest.mark.parametrize("storage", ["f16", "f32"])
@pytest.mark.parametrize("target", ["host", "gpu", "adreno_740", "apple_a16"])
def test_what_runs_once_per_text_is_passed_as_it_is_stored_and_read_where_it_is(model, storage, target):
    """No cast and no copy is between keys and values and the attentions that read parts of their rows."""
    jobs = [Job("keys_values", {"batch": 1}), Job("unet", {"batch": 2, "height": 5, "width": 3})]
    recipe = Recipe(storage, target=load_target(target))
    once, step = [compiled.program for compiled in programs(model, recipe, jobs)]
    ports = model.between("unet")
    assert once.outputs == ports and set(ports) < set(step.inputs)
    assert {program.tensors[name].dtype for program in (once, step) for name in ports} == {storage}
    assert {call.op for call in step.calls if set(call.inputs) & set(ports)} == {"Attention"}
    products = [call.op for call in once.calls if call.op != "Cast"]
    assert products == ["MatMul"] * len(ports) and len(once.calls) - len(products) == (storage == "f16")


def test_weights_of_some_components_alone_are_in_few_bits():
    model = build(open_checkpoint(None, family="demo"))
    jobs = [Job("text_encoder", {"batch": 1}), Job("keys_values", {"batch": 1})]
    for of, expected in (((), [True, True]), (("text_encoder",), [True, False]), (("keys_values",), [False, True])):
        made = [one.program for one in programs(model, Recipe(weights="i8", weights_of=of), jobs)]
        assert ["i8" in {tensor.dtype for tensor in program.tensors.values()} for program in made] == expected
