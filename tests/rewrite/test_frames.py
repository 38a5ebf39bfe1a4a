"""Networks over frames: with channels last a clip's frames in a column are the bytes of its pictures, so that nothing
is moved between what works on pictures and what works over time; and what plans of Stable Video Diffusion come to."""

import collections

import numpy as np
import onnx_ir as ir
import pytest
from rewrite.graphs import by_onnxruntime, feed, fused_ops, on_device, ops
from rewrite.test_pictures import Net

from ondevice.converters.architectures.architecture import Architecture
from ondevice.converters.architectures.autoencoder_kl_temporal import AUTOENCODER_KL_TEMPORAL
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.architectures.frames import along_time, as_pictures, attention_over_time, temporal_resnet
from ondevice.converters.architectures.unet_temporal import UNET_TEMPORAL
from ondevice.lower import lower
from ondevice.plan import plan
from ondevice.rewrite import rewrite
from ondevice.target import load_target


def over_time(b, x):
    """[clips, c, frames, pixels] through a convolution over three frames."""
    return b.op("t", "Conv", [x, b.made("t.weight", 6, 6, 3, 1)], tuple(map(int, x.shape)), pads=(1, 0, 1, 0))


def clip(build):
    """Two clips of three pictures of 5x4, between two convolutions."""
    b = Net()
    x = b.conv("first", b.input("x", (6, 6, 5, 4)), 6)
    return b.finish(out=b.conv("last", build(b, x), 6))


def there_and_back(b, x):
    return as_pictures(b, "back", over_time(b, along_time(b, "there", x, 2)), 5, 4)


def with_residual(b, x):
    there = along_time(b, "there", x, 2)
    return as_pictures(b, "back", b.binary("sum", "Add", there, over_time(b, there)), 5, 4)


@pytest.mark.parametrize("build, op", [(there_and_back, "ConvNhwc"), (with_residual, "ConvNhwcAdd")])
def test_frames_in_a_column_are_not_moved(build, op):
    model = clip(build)
    inputs = feed(model)
    before = by_onnxruntime(model, inputs)
    rewrite(model)
    assert fused_ops(model) == {"ConvNhwcBias": 2, op: 1} and ops(model)["Transpose"] == 2  # the graph's edges
    np.testing.assert_allclose(by_onnxruntime(model, inputs), before, rtol=1e-5, atol=1e-5)
    after = ops(model)
    assert not any(outcome.applied for outcome in rewrite(model)) and ops(model) == after


def read_twice(b, x):
    """What stands between the two moves is read by another, too."""
    apart = b.reshape("there", x, 2, 3, 6, 20)
    y = b.transpose("back", over_time(b, b.transpose("there", apart, 0, 2, 1, 3)), 0, 2, 1, 3)
    return b.reshape("back", b.binary("sum", "Add", y, apart), 6, 6, 5, 4)


def other_cut(b, x):
    """Frames and channels are cut where pictures do not end."""
    return b.reshape(
        "back", over_time(b, b.transpose("there", b.reshape("there", x, 3, 4, 6, 10), 0, 2, 1, 3)), 6, 6, 5, 4
    )


def other_pictures(b, x):
    """The way back is to other pictures than the way there was from."""
    y = b.transpose("back", over_time(b, along_time(b, "there", x, 2)), 0, 2, 1, 3)
    return b.transpose("turn", b.reshape("back", y, 6, 6, 2, 10), 0, 1, 3, 2)


@pytest.mark.parametrize("build", [read_twice, other_cut, other_pictures])
def test_other_moves_keep_their_meaning(build):
    model = clip(build)
    inputs = feed(model)
    before = by_onnxruntime(model, inputs)
    rewrite(model)
    np.testing.assert_allclose(by_onnxruntime(model, inputs), before, rtol=1e-5, atol=1e-5)


@pytest.mark.device
@pytest.mark.parametrize("frames", [1, 5])
def test_a_block_over_time_on_a_device(frames):
    """A resnet over time, and attention whose tokens are a pixel's frames: widths and counts that fill no vector."""
    b, clips, made = Net(), 2, np.random.default_rng(1)
    x = b.conv("first", b.input("x", (clips * frames, 6, 3, 5)), 6)
    shapes = {f"r.norm{n}.{leaf}": (6,) for n in (1, 2) for leaf in ("weight", "bias")}
    shapes |= {f"r.conv{n}.weight": (6, 6, 3, 1, 1) for n in (1, 2)} | {f"r.conv{n}.bias": (6,) for n in (1, 2)}
    shapes |= {"r.time_emb_proj.weight": (6, 7), "r.time_emb_proj.bias": (6,), "a.to_out.0.bias": (6,)}
    shapes |= {f"a.{name}.weight": (6, 6) for name in ("to_q", "to_k", "to_v", "to_out.0")}
    b._weights |= {name: ir.tensor(made.standard_normal(shape).astype("f4") / 3) for name, shape in shapes.items()}
    y = temporal_resnet(b, "r", x, clips, 3, 1e-5, 0.3, b.input("time", (clips, 7)))
    rows = b.reshape("rows", b.transpose("rows", y, 0, 2, 3, 1), clips * frames, 15, 6)
    model = b.finish(out=attention_over_time(b, "a", rows, clips, 2))
    inputs = feed(model)
    before = by_onnxruntime(model, inputs)
    rewrite(model)
    assert ops(model)["ondevice::Attention"] == 1 and ops(model)["Transpose"] == 1
    assert {"ConvNhwcBiasShift", "ConvNhwcBiasAdd"} <= set(fused_ops(model))
    np.testing.assert_allclose(on_device(model, inputs), before, rtol=2e-5, atol=2e-5)


@pytest.mark.device
@pytest.mark.parametrize(
    "channels, target", [(16, "host"), (3, "host"), (16, "host-bf16"), (16, "adreno_740"), (16, "gpu")]
)
def test_rows_of_more_pixels_than_two_factors_have_bits(channels, target):
    """A frame of 256x448 pixels is a row, whose square is beyond 32 bits."""
    pixels, rng = 46_400, np.random.default_rng(2)
    b = GraphBuilder("net", {})
    taps = rng.standard_normal((channels, channels, 3, 1)).astype(np.float32) / 4
    inputs = [b.input("x", (1, channels, 2, pixels)), b.constant("taps", taps)]
    model = b.finish(y=b.op("t", "Conv", inputs, (1, channels, 2, pixels), pads=(1, 0, 1, 0), strides=(1, 1)))
    x = rng.standard_normal((1, channels, 2, pixels)).astype(np.float32)
    first, second = x[0].transpose(1, 0, 2)
    products = [taps[:, :, tap, 0] @ frame for tap, frame in ((1, first), (2, second), (0, first), (1, second))]
    wanted = np.stack([products[0] + products[1], products[2] + products[3]], 1)[np.newaxis]
    asked = load_target(target).asked("bf16") if "bf16" in target else load_target(target)
    rewrite(model)
    assert fused_ops(model) == {"ConvNhwc": 1}
    found = on_device(model, {"x": x}, asked)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.1 if "bf16" in target else 2e-5)


# Full size ------------------------------------------------------------------------------------------------------------

VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
}
STEP = {"batch": 1, "frames": 14, "height": 32, "width": 56}
# network, its config, graph, sizes -> dispatches, ops that the graph comes to, MB of the arena, GFLOP
PLANS = {
    "a step of 14 frames of 256x448": (UNET_TEMPORAL, {}, "step", STEP, 1057, 160.7, 5257),
    "what is made of a picture once": (UNET_TEMPORAL, {}, "looks", {"batch": 1}, 99, 0.2, 0.1),
    "two frames decoded": (AUTOENCODER_KL_TEMPORAL, VAE, "decoder", STEP | {"frames": 2}, 196, 239.6, 1063),
}


def unread(network: Architecture, config):
    """Weights whose values nobody reads, but for numbers."""

    def one(name, shape):
        return ir.LazyTensor(
            lambda: ir.tensor(np.zeros(shape, np.float32)), dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name
        )

    return {name: one(name, shape) for name, shape in network.weights(config).items()}


@pytest.mark.parametrize("network, raw, graph, sizes, dispatches, arena, work", PLANS.values(), ids=PLANS)
def test_plans_at_full_size(network, raw, graph, sizes, dispatches, arena, work):
    config, target = network.normalize(raw, "test"), load_target("host")
    model = network.graphs[graph].build(GraphBuilder("net", unread(network, config)), config, **sizes)
    rewrite(model)
    found = plan(lower(model, "net", storage="f16", target=target), storage="f16")
    counts = collections.Counter(dispatch.op for dispatch in found.dispatches)
    assert len(found.dispatches) == dispatches and counts["Transpose"] in (0, 2)
    assert found.arena / 1e6 == pytest.approx(arena, abs=0.1)
    assert sum(dispatch.flops for dispatch in found.dispatches) / 1e9 == pytest.approx(work, rel=0.01)
    if graph == "step":
        assert {name: counts[name] for name in ("Attention", "GatedAdd", "Mul", "Expand")} == {
            "Attention": 32, "GatedAdd": 16, "Mul": 0, "Expand": 1,
        }  # fmt: skip
