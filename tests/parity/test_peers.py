"""The other runtimes compute what onnxruntime does on the plain graph:
a comparison of times is one of the same work."""

import numpy as np
import pytest

from ondevice.converters.source import Source
from ondevice.graph.inputs import inputs_of
from ondevice.measure.peers.peer import PEERS, Task

pytestmark = pytest.mark.parity
SIZES = {
    "text_encoder": {"batch": 1},
    "unet": {"batch": 1, "height": 8, "width": 8},
    "vae_decoder": {"batch": 1, "height": 4, "width": 4},
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """`outputs(peer, component)`: what it makes of the demo model."""
    kept = {}

    def run(name, component):
        if (name, component) not in kept:
            peer, task = PEERS[name], Task(Source("demo"), component, SIZES[component])
            for package in (*peer.packages, *peer.to_convert):
                pytest.importorskip(package)
            folder, module = tmp_path_factory.mktemp(name), peer.load_module()
            module.convert(task, folder, peer.option)
            kept[name, component] = np.array(module.load(folder, inputs_of(task.graph()), 1, peer.option).run())
        return kept[name, component]

    return run


@pytest.mark.parametrize("component", SIZES)
@pytest.mark.parametrize("name, bound", [("torch", 1e-5), ("ncnn", 1e-4), ("openvino", 1e-4)])
def test_a_peer_computes_the_same(outputs, name, bound, component):
    got, expected = outputs(name, component), outputs("onnxruntime", component)
    assert (
        got.size == expected.size
        and np.abs(got.reshape(expected.shape) - expected).max() <= bound * np.abs(expected).max()
    )
