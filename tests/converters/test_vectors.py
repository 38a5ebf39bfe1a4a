"""Every network of the families beside Stable Diffusion 1.x, against outputs that diffusers and transformers gave in float64."""

import numpy as np
import pytest
from recipe_weights import case, weights

from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.families import FAMILIES
from ondevice.graph import reference

BOUND = 5e-6  # of the largest value: sines and cosines, and the vectors themselves, are rounded to float32

# (case, family, role) -> {input of the graph: array of the case}, {output: array}
CASES = {
    ("sd2_text_encoder", "sd21", "text_encoder"): (["input_ids"], {"last_hidden_state": "last_hidden_state"}),
    ("sd2_unet", "sd21", "unet"): (["sample", "timestep", "encoder_hidden_states"], {"out_sample": "sample"}),
    ("sd2_vae", "sd21", "vae_decoder"): ({"latent_sample": "latent"}, {"sample": "sample"}),
    ("sd2_vae", "sd21", "vae_encoder"): ({"sample": "pixels"}, {"latent_parameters": "moments"}),
}


def run(family, role, raw, salt, inputs):
    """The role's outputs for a config, with the recipe's weights."""
    about, graph = family.roles[role], family.graph(role)
    network = family.parts[about.part].architecture
    config = family.normalize(about.part, raw, "test")
    sizes = {"batch": max(len(array) for array in inputs.values())} | {"tokens": 77}
    picture = next((array.shape for array in inputs.values() if array.ndim == 4), None)
    if picture:
        scale = network.scale(config) if picture[1] == 3 else 1
        sizes |= {"height": picture[2] // scale, "width": picture[3] // scale}
    model = graph.build(GraphBuilder(role, weights(network, config, salt)), config, **{name: sizes[name] for name in graph.sizes})
    return reference.run(model, inputs)


@pytest.mark.parametrize("key", CASES, ids=lambda key: f"{key[0]}-{key[2]}")
def test_networks_give_what_the_reference_gave(key):
    (name, family, role), (inputs, outputs) = key, CASES[key]
    raw, salt, arrays = case(name)
    inputs = inputs if isinstance(inputs, dict) else {name: name for name in inputs}
    found = run(FAMILIES[family], role, raw, salt, {port: arrays[f"in.{array}"] for port, array in inputs.items()})
    assert set(found) == set(outputs)
    for port, array in outputs.items():
        expected = arrays[f"out.{array}"]
        assert found[port].shape == expected.shape
        assert np.abs(found[port] - expected).max() <= BOUND * np.abs(expected).max(), port
