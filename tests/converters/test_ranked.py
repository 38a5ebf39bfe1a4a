"""Graphs of ranks: what all of them give together is what the whole graph gives."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_weights import case, checkpoint

from ondevice.converters import build
from ondevice.converters.architectures.builder import COLUMNS, ROWS, Cut, GraphBuilder, shape_of
from ondevice.converters.architectures.layers import attention, geglu, linear, resnet
from ondevice.converters.architectures.mmdit_blocks import gated
from ondevice.converters.families import FAMILIES
from ondevice.errors import UsageError
from ondevice.graph.ranks import SUM, WHOLE, Rank
from ondevice.graph.reference import run
from ondevice.rewrite.functions import add_functions

RANKS = st.sampled_from([2, 3, 4])


class Names(dict):
    """Weights by name, made when they are asked for: `shapes` says of what shape."""

    def __init__(self, shapes):
        rng = np.random.default_rng(1)
        super().__init__(
            {
                name: ir.tensor(rng.standard_normal(shape).astype(np.float32), name=name)
                for name, shape in shapes.items()
            }
        )


def outputs(make, shapes, inputs, ranks):
    """(what `make` gives of the whole, what it gives for each rank) with float64 arithmetic; `SumRanks` gives a rank
    its own part, so that the sum of all is what is summed."""

    def one(rank):
        b = GraphBuilder("test", Names(shapes), rank=rank)
        made = make(b, {name: b.input(name, value.shape) for name, value in inputs.items()})
        model = b.finish(y=made)
        add_functions(model)
        return run(model, inputs)["y"], [node.op_type for node in model.graph].count(SUM)

    (whole, none), parts = one(WHOLE), [one(Rank(number, ranks)) for number in range(ranks)]
    assert none == 0 and {sums for _, sums in parts} == {1}
    return whole, [part for part, _ in parts]


def close(whole, parts):
    np.testing.assert_allclose(sum(parts), whole, rtol=0, atol=1e-5 * np.abs(whole).max())


@settings(max_examples=12, deadline=None)
@given(ranks=RANKS, heads=st.integers(1, 2), width=st.integers(1, 5), tokens=st.integers(1, 6), batch=st.integers(1, 2))
def test_attention_by_heads(ranks, heads, width, tokens, batch):
    heads, channels = heads * ranks, heads * ranks * width
    x = np.random.default_rng(0).standard_normal((batch, tokens, channels)).astype(np.float32)
    shapes = {f"to_{part}.weight": (channels, channels) for part in "qkv"}
    shapes |= {"to_v.bias": (channels,), "to_out.weight": (channels, channels), "to_out.bias": (channels,)}

    def make(b, given):
        q, k = (linear(b, f"to_{part}", given["x"], channels, bias=False, cut=COLUMNS) for part in "qk")
        v = linear(b, "to_v", given["x"], channels, cut=COLUMNS)
        mixed = attention(b, "attn", q, k, v, heads // b.rank.of)
        return b.summed("attn", linear(b, "to_out", mixed, channels, cut=ROWS))

    close(*outputs(make, shapes, {"x": x}, ranks))


@settings(max_examples=12, deadline=None)
@given(ranks=RANKS, width=st.integers(1, 7), tokens=st.integers(1, 5))
def test_feed_forward(ranks, width, tokens):
    width *= ranks
    x = np.random.default_rng(0).standard_normal((1, tokens, width)).astype(np.float32)
    shapes = {"ff.proj.weight": (8 * width, width), "ff.proj.bias": (8 * width,)}
    shapes |= {"out.weight": (width, 4 * width), "out.bias": (width,)}

    def make(b, given):
        y = linear(b, "out", geglu(b, "ff", given["x"]), width, cut=ROWS)
        return b.summed("ff", b.binary("ff", "Add", y, given["x"]) if b.first else y)

    close(*outputs(make, shapes, {"x": x}, ranks))


@settings(max_examples=8, deadline=None)
@given(ranks=RANKS, groups=st.integers(1, 2), wide=st.integers(1, 3), wider=st.booleans(), timed=st.booleans())
def test_resnet_by_groups(ranks, groups, wide, wider, timed):
    groups *= ranks
    channels = groups * wide
    out = 2 * channels if wider else channels
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((2, channels, 3, 4)).astype(np.float32)}
    inputs |= {"time": rng.standard_normal((1, 5)).astype(np.float32)} if timed else {}
    shapes = {f"r.norm1.{leaf}": (channels,) for leaf in ("weight", "bias")}
    shapes |= {f"r.norm2.{leaf}": (out,) for leaf in ("weight", "bias")}
    shapes |= {"r.conv1.weight": (out, channels, 3, 3), "r.conv1.bias": (out,), "r.conv2.weight": (out, out, 3, 3)}
    shapes |= {"r.conv2.bias": (out,), "r.time_emb_proj.weight": (out, 5), "r.time_emb_proj.bias": (out,)}
    shapes |= {"r.conv_shortcut.weight": (out, channels, 1, 1), "r.conv_shortcut.bias": (out,)}
    close(*outputs(lambda b, x: resnet(b, "r", x["x"], out, groups, 1e-5, x.get("time")), shapes, inputs, ranks))


def test_a_gated_sum_adds_what_goes_around_once():
    inputs = {name: np.full((1, 2, 3), value, np.float32) for name, value in (("x", 5), ("gate", 2), ("y", 3))}
    inputs["gate"] = inputs["gate"][:, :1]
    whole, parts = outputs(lambda b, x: gated(b, "g", x["x"], x["gate"], x["y"]), {}, inputs, 2)
    assert (whole == 11).all() and (parts[0] == 11).all() and (parts[1] == 6).all()  # each has its own y


@pytest.mark.parametrize("parts, axis, expected", [(1, 0, [0, 1, 2]), (2, 0, [0, 3]), (1, 1, [0, 6, 12, 18, 24, 30])])
def test_a_share_of_a_weight(parts, axis, expected):
    """The first of two ranks' rows, of each part of them, or columns; under a name of its own."""
    stored = np.arange(6 * 6, dtype=np.float32).reshape(6, 6) if axis else np.arange(6, dtype=np.float32)
    b = GraphBuilder("test", {"w": ir.tensor(stored, name="w")}, rank=Rank(0, 2 if parts == 1 else 3))
    value = b.weight("w", *stored.shape, cut=Cut(axis, parts))
    made = value.const_value.numpy()
    assert (made[:, 0] if axis else made).tolist() == expected and shape_of(value) == made.shape
    assert value.name == ("w:1of2" if parts == 1 else "w:1of3x2")


def test_ranks_have_the_ports_of_the_whole_and_half_its_weights():
    model = build(checkpoint(FAMILIES["sdxl"], case("sdxl_e2e")[0]["scheduler"]), ranks=2)
    assert model.shares("unet") == ("unet_1of2", "unet_2of2") and not model.shares("vae_decoder")
    sizes = {"batch": 2, "height": 8, "width": 8}
    whole, *ranks = (model.graph(name, **sizes).graph for name in ("unet", "unet_1of2", "unet_2of2"))

    def ports(graph):
        return [(value.name, value.shape) for value in (*graph.inputs, *graph.outputs)]

    def weights(graph):
        return sum(np.prod(value.shape.numpy()) for value in graph.initializers.values())

    assert [ports(rank) for rank in ranks] == [ports(whole)] * 2
    assert all(weights(rank) < 0.75 * weights(whole) for rank in ranks)
    sums = [[shape_of(node.outputs[0]) for node in rank if node.op_type == SUM] for rank in ranks]
    assert sums[0] == sums[1] and len(sums[0]) == 44


@pytest.mark.parametrize(
    "family, case_name, ranks, said",
    [
        ("sdxl", "sdxl_e2e", 1000, "--parallel: not a number of ranks (got 1000, expected 2 to 8). Fix: use tensor:2."),
        ("sdxl", "sdxl_e2e", 3, "--parallel: unet: its norms have 8 groups, which 3 cannot share. Fix: leave it out; "),
        (
            "sd3",
            "sd3_e2e",
            3,
            "--parallel: transformer: attention has 4 heads, which 3 cannot share. Fix: leave it out; ",
        ),
    ],
)
def test_what_cannot_be_shared_is_said(family, case_name, ranks, said):
    with pytest.raises(UsageError) as caught:
        build(checkpoint(FAMILIES[family], case(case_name)[0]["scheduler"]), ranks=ranks)
    assert str(caught.value).startswith(said)
