"""Layers that the components share, written as torch.onnx writes them at opset 18:
primitives only, ready for the fusion rules."""

from __future__ import annotations

import math

import onnx_ir as ir

from ondevice.converters.architectures.builder import COLUMNS, ROWS, Cut, GraphBuilder, shape_of


def linear(
    b: GraphBuilder,
    scope: str,
    x: ir.Value,
    out: int,
    bias: bool = True,
    scale: float = 1.0,
    scales: tuple[float, float] | None = None,
    cut: Cut | None = None,
) -> ir.Value:
    """[..., in] -> [..., out]: MatMul with the transposed weight, then Add; weight and bias times `scale`, or each
    times one of `scales`.

    Of several ranks each has a share where the weight is `cut`: by COLUMNS it computes its part of `out`; by ROWS it is
    given its part of `in`, and what comes out is its part of a sum, to which the first adds the bias.
    """
    (of_weight, of_bias), by = scales or (scale, scale), cut if cut is not None and cut.axis == 0 else None
    _, width, biased = b.shared(out, shape_of(x)[-1], cut)
    y = b.matmul(scope, x, b.transposed(f"{scope}.weight", out, width, of_weight, cut))
    return b.binary(scope, "Add", y, b.weight(f"{scope}.bias", out, scale=of_bias, cut=by)) if bias and biased else y


def gemm(b: GraphBuilder, scope: str, x: ir.Value, out: int, cut: Cut | None = None) -> ir.Value:
    """[rows, in] -> [rows, out], as exporters write a Linear on a matrix; `cut` by COLUMNS as `linear` has it."""
    rows, width = shape_of(x)
    own, width, _ = b.shared(out, width, cut)
    inputs = [x, b.weight(f"{scope}.weight", out, width, cut=cut), b.weight(f"{scope}.bias", out, cut=cut)]
    return b.op(scope, "Gemm", inputs, (rows, own), alpha=1.0, beta=1.0, transA=0, transB=1)


def silu(b: GraphBuilder, scope: str, x: ir.Value) -> ir.Value:
    return b.binary(scope, "Mul", x, b.unary(scope, "Sigmoid", x))


def gelu(b: GraphBuilder, scope: str, x: ir.Value) -> ir.Value:
    """x * (erf(x / sqrt 2) + 1) * 0.5."""
    erf = b.unary(scope, "Erf", b.binary(scope, "Div", x, b.full(2**0.5)))
    half = b.binary(scope, "Mul", b.binary(scope, "Add", erf, b.full(1.0)), b.full(0.5))
    return b.binary(scope, "Mul", x, half)


def gelu_tanh(b: GraphBuilder, scope: str, x: ir.Value) -> ir.Value:
    """x * 0.5 * (tanh(sqrt(2 / pi) * (x + 0.044715 x^3)) + 1)."""
    cube = b.binary(scope, "Mul", b.binary(scope, "Mul", x, x), x)
    inner = b.binary(scope, "Add", x, b.binary(scope, "Mul", cube, b.full(0.044715)))
    tanh = b.unary(scope, "Tanh", b.binary(scope, "Mul", inner, b.full((2 / math.pi) ** 0.5)))
    return b.binary(scope, "Mul", b.binary(scope, "Mul", x, b.full(0.5)), b.binary(scope, "Add", tanh, b.full(1.0)))


def quick_gelu(b: GraphBuilder, scope: str, x: ir.Value) -> ir.Value:
    """x * sigmoid(1.702 x)."""
    return b.binary(scope, "Mul", x, b.unary(scope, "Sigmoid", b.binary(scope, "Mul", x, b.full(1.702))))


def geglu(b: GraphBuilder, scope: str, x: ir.Value) -> ir.Value:
    """Value times GELU(gate), both from one linear layer, each 4 times as wide as `x`; of several ranks each has a
    share of both."""
    width = 4 * shape_of(x)[-1]
    shape = (*shape_of(x)[:-1], width // b.rank.of)
    wide = linear(b, f"{scope}.proj", x, 2 * width, cut=Cut(0, parts=2))
    value, gate = b.op(scope, "Split", [wide], shape, shape, axis=-1, num_outputs=2)
    return b.binary(scope, "Mul", value, gelu(b, scope, gate))


def layer_norm(b: GraphBuilder, scope: str, x: ir.Value, epsilon: float) -> ir.Value:
    """Over the last axis."""
    width = shape_of(x)[-1]
    inputs = [x, b.weight(f"{scope}.weight", width), b.weight(f"{scope}.bias", width)]
    return b.op(scope, "LayerNormalization", inputs, shape_of(x), axis=-1, epsilon=epsilon)


def rms_norm(b: GraphBuilder, scope: str, x: ir.Value, epsilon: float) -> ir.Value:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis: nothing is taken off, nothing added."""
    *rows, width = shape_of(x)
    mean = b.op(scope, "ReduceMean", [b.binary(scope, "Mul", x, x), b.ints(-1)], (*rows, 1), keepdims=1)
    root = b.unary(scope, "Sqrt", b.binary(scope, "Add", mean, b.full(epsilon)))
    return b.binary(scope, "Mul", b.binary(scope, "Div", x, root), b.weight(f"{scope}.weight", width))


def group_norm(
    b: GraphBuilder, scope: str, x: ir.Value, groups: int, epsilon: float, cut: Cut | None = None
) -> ir.Value:
    """[n, c, ...]: as instance normalisation over groups, then one scale and one shift per channel. Of several ranks
    each has whole groups where it is `cut` by COLUMNS; `groups` are those of all."""
    shape = shape_of(x)
    groups, _, _ = b.shared(groups, groups, cut)
    channels = shape[1] * (b.rank.of if cut else 1)
    grouped = b.reshape(scope, x, 0, groups, -1)
    inputs = [grouped, b.full(1.0, groups), b.full(0.0, groups)]
    normal = b.op(scope, "InstanceNormalization", inputs, shape_of(grouped), epsilon=epsilon)
    wide = b.reshape(scope, normal, *shape)
    channel = (shape[1], *(1,) * (len(shape) - 2))
    scaled = b.binary(scope, "Mul", wide, b.weight(f"{scope}.weight", channels, view=channel, cut=cut))
    return b.binary(scope, "Add", scaled, b.weight(f"{scope}.bias", channels, view=channel, cut=cut))


def attention(
    b: GraphBuilder,
    scope: str,
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    heads: int,
    mask: ir.Value | None = None,
    scaling: float | None = None,
) -> ir.Value:
    """softmax(scaling * q k^T + mask) v over [n, tokens, heads * d], where scaling is 1 / sqrt d if none is given. Its
    root sits on both sides, as exporters of scaled dot-product attention put it, which also keeps half-precision scores
    small. The mask is [1, heads, queries, keys], or has 1 in the place of the second or of the third."""
    n, tokens, width = shape_of(q)
    scale = b.full((width // heads) ** -0.25 if scaling is None else scaling**0.5)

    def split(value: ir.Value, *perm: int) -> ir.Value:
        return b.transpose(scope, b.reshape(scope, value, 0, -1, heads, width // heads), *perm)

    left = b.binary(scope, "Mul", split(q, 0, 2, 1, 3), scale)
    right = b.binary(scope, "Mul", split(k, 0, 2, 3, 1), scale)
    scores = b.matmul(scope, left, right)
    if mask is not None:
        scores = b.binary(scope, "Add", scores, mask)
    weights = b.op(scope, "Softmax", [scores], shape_of(scores), axis=-1)
    mixed = b.matmul(scope, weights, split(v, 0, 2, 1, 3))
    return b.reshape(scope, b.transpose(scope, mixed, 0, 2, 1, 3), n, tokens, width)


def repeated(b: GraphBuilder, scope: str, x: ir.Value, count: int) -> ir.Value:
    """[rows, ...] -> [count, ...]: each row as often as it takes, one after another."""
    rows, *rest = shape_of(x)
    wide = b.reshape(scope, x, rows, 1, *rest)
    wide = b.op(scope, "Expand", [wide, b.ints(rows, count // rows, *rest)], (rows, count // rows, *rest))
    return b.reshape(scope, wide, count, *rest)


def resnet(
    b: GraphBuilder,
    scope: str,
    x: ir.Value,
    out: int,
    groups: int,
    epsilon: float,
    time: ir.Value | None = None,
    scale: float = 1.0,
) -> ir.Value:
    """GroupNorm-SiLU-conv twice, with the time embedding (SiLU applied) added between, and a residual.

    `x` is held times `scale`, and so is what comes out: the first norm does not see it but for its epsilon
    (vae_layers.py). `time` is [n, width], or has a row for as many of x one after another. Several ranks share what is
    between the first convolution and the second, with whole groups of the second norm each.
    """
    normal = silu(b, f"{scope}.norm1", group_norm(b, f"{scope}.norm1", x, groups, epsilon * scale**2))
    y = b.conv(f"{scope}.conv1", normal, out, cut=COLUMNS)
    if time is not None:
        shift, rows = gemm(b, f"{scope}.time_emb_proj", time, out, COLUMNS), shape_of(x)[0]
        if shape_of(time)[0] not in (1, rows):
            shift = repeated(b, f"{scope}.time_emb_proj", shift, rows)
        shift = b.op(f"{scope}.time_emb_proj", "Unsqueeze", [shift, b.ints(2, 3)], (*shape_of(shift), 1, 1))
        y = b.binary(scope, "Add", y, shift)
    normal = silu(b, f"{scope}.norm2", group_norm(b, f"{scope}.norm2", y, groups, epsilon, COLUMNS))
    y = b.conv(f"{scope}.conv2", normal, out, scales=(scale, scale), cut=ROWS)
    if not b.first:
        return b.summed(scope, y)
    if shape_of(x)[1] != out:
        x = b.conv(f"{scope}.conv_shortcut", x, out, 1, scales=(1.0, scale))
    return b.summed(scope, b.binary(scope, "Add", x, y))
