"""Parts of rows that kernels read where they are, methods that go by bands, and norms of two parts:
right numbers, and honest traffic."""

import dataclasses

import numpy as np
import pytest
from rewrite.graphs import by_onnxruntime, feed, fused_ops, graph, on_device

from ondevice.lower import lower
from ondevice.rewrite import rewrite
from ondevice.target import load_target

ATTEND = """s = Reshape(q, h) qt = Transpose<perm=[0,2,1,3]>(s) qs = Mul(qt, c)
    t = Reshape(k, h) kt = Transpose<perm=[0,2,3,1]>(t) ks = Mul(kt, c)
    m = MatMul(qs, ks) p = Softmax<axis=-1>(m) u = Reshape(v, h) vt = Transpose<perm=[0,2,1,3]>(u)
    o = MatMul(p, vt) ot = Transpose<perm=[0,2,1,3]>(o) y = Reshape(ot, j)"""
HEADS = "int64[4] h = {{0, -1, 2, 4}}, int64[3] j = {{{}}}, float c = {{0.7}}"
PARTS = {  # the rows that are split, under what shape an attention reads each part, what it gives
    "rows as they are": ("3,24", "1,3,8"),
    "one row": ("1,24", "1,1,8"),
    "rows cut in two": ("3,48", "1,6,8"),
    "one row cut in four": ("1,96", "1,4,8"),
}


@pytest.mark.device
@pytest.mark.parametrize("rows, shape", PARTS.values(), ids=PARTS)
def test_parts_of_rows_under_another_shape(rows, shape):
    text = f"""(float[{rows}] x) => (float[{shape}] y) <int64[3] r = {{{shape}}}, {HEADS.format(shape)}> {{
        n = Neg(x) a, b, d = Split<axis=1, num_outputs=3>(n) q = Reshape(a, r) k = Reshape(b, r)
        v = Reshape(d, r) {ATTEND} }}"""
    model = graph(text)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs)
    rewrite(model)
    assert sum("Attention" in op for op in fused_ops(model)) == 1
    np.testing.assert_allclose(on_device(model, inputs), expected, rtol=1e-4, atol=1e-5)


INTS = "<int64[1] two = {2}, int64[1] five = {5}, int64[1] one = {1}>"
CUT = "s = Slice(b, two, five, one) p = MatMul(s, w) y = Add(p, c)"
TWICE = {  # where the rows stand of which the last three are cut
    "columns of wider rows": "m = Neg(x) a, b = Split<axis=2, num_outputs=2>(m) z = Neg(a)",
    "rows beside others": "m = MatMul(x, v) b = Add(m, c) k = MatMul(e, v) l = Add(k, c) z = Concat<axis=1>(l, b)",
}


@pytest.mark.device
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("made", TWICE.values(), ids=TWICE)
def test_rows_that_are_cut_twice(made, n):
    weights = dict(
        zip("wvc", np.split(np.random.default_rng(2).standard_normal((25, 16), dtype=np.float32), (8, 24)), strict=True)
    )
    weights |= {"w": weights["w"][:, :8], "v": weights["v"][:, :8], "c": weights["c"][0, :8]}
    rows = 5 if "Split" in made else 7
    text = f"""(float[{n},5,16] x, float[{n},2,16] e, float[8,8] w, float[16,8] v, float[8] c) =>
        (float[{n},3,8] y, float[{n},{rows},8] z) {INTS} {{ {made} {CUT} }}"""
    model = graph(text, **weights)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs, every=True)
    rewrite(model)
    for got, wanted in zip(on_device(model, inputs, every=True), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.device
@pytest.mark.parametrize("n", [1, 2])
def test_every_other_row_is_not_read_as_rows_in_a_row(n):
    text = f"""(float[{n},5,16] x, float[16,8] v, float[8] c) => (y)
        <int64[1] zero = {{0}}, int64[1] five = {{5}}, int64[1] one = {{1}}, int64[1] two = {{2}}> {{
        m = Neg(x) s = Slice(m, zero, five, one, two) p = MatMul(s, v) y = Add(p, c) }}"""
    weights = np.random.default_rng(2).standard_normal((17, 8), dtype=np.float32)
    model = graph(text, v=weights[:16], c=weights[16])
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs)
    rewrite(model)
    np.testing.assert_allclose(on_device(model, inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.device
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    "joined", ["p = Concat<axis=1>(b, l, b) q = Neg(l)", "p = Concat<axis=1>(l, b) q = Concat<axis=1>(b, l)"]
)
def test_rows_that_are_joined_twice(joined, n):
    """By one op, and by two: they stand in one of the places, and are copied to the other."""
    weights = {"v": np.random.default_rng(2).standard_normal((16, 8), dtype=np.float32), "c": np.ones(8, np.float32)}
    model = graph(
        f"""(float[{n},5,16] x, float[{n},2,16] e, float[16,8] v, float[8] c) => (y, z) {{
        m = MatMul(x, v) b = Add(m, c) k = MatMul(e, v) l = Add(k, c) {joined} y = Neg(p) z = Exp(q) }}""",
        **weights,
    )
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs, every=True)
    rewrite(model)
    assert fused_ops(model) == {"LinearBias": 2}
    for got, wanted in zip(on_device(model, inputs, every=True), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.device
@pytest.mark.parametrize(
    "tokens, after, shape",
    [
        (2, "r = Reshape(l, s) z = Neg(r)", "4,8"),
        (1, "q = MatMul(x, v) t = Add(q, c) z = Mul(t, l)", "2,5,8"),
    ],
)
def test_rows_of_items_that_stand_apart_are_read_by_others(tokens, after, shape):
    """Under another shape, and as the gates of another product: each item's own."""
    text = f"""(float[2,5,16] x, float[2,{tokens},16] e, float[16,8] v, float[8] c) =>
        (float[2,{5 + tokens},8] y, float[{shape}] z) <int64[2] s = {{4, 8}}> {{
        m = MatMul(x, v) b = Add(m, c) k = MatMul(e, v) l = Add(k, c) p = Concat<axis=1>(b, l) y = Neg(p) {after} }}"""
    weights = np.random.default_rng(2).standard_normal((17, 8), dtype=np.float32)
    model = graph(text, v=weights[:16], c=weights[16])
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs, every=True)
    rewrite(model)
    assert ("LinearBiasGate" in fused_ops(model)) == (tokens == 1)
    for got, wanted in zip(on_device(model, inputs, every=True), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.device
@pytest.mark.parametrize("target", ["host", "adreno_740", "mali_g715", "apple_a16"])
def test_rows_that_begin_within_a_row(target):
    """The last twelve of 22 numbers as three rows of four: kernels that read rows by their numbers cannot read them."""
    text = """(float[1,22] x, float[4,8] w, float[8] c) => (y) <int64[2] of = {10, 12}, int64[3] r = {1, 3, 4}> {
        n = Neg(x) a, b = Split<axis=1>(n, of) s = Reshape(b, r) p = MatMul(s, w) y = Add(p, c) }"""
    weights, chosen = np.random.default_rng(2).standard_normal((5, 8), dtype=np.float32), load_target(target)
    model = graph(text, w=weights[:4], c=weights[4])
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs)
    rewrite(model)
    np.testing.assert_allclose(on_device(model, inputs, chosen), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.device
def test_a_part_that_stays_float32_is_cast_for_who_reads_halves():
    """What sine is computed from is float32 whatever the storage; an attention beside it reads halves."""
    text = f"""(float[1,3,24] x) => (float[1,3,8] y, float[1,3,8] z) <{HEADS.format("1,3,8")}> {{
        n = Neg(x) q, k, v = Split<axis=2, num_outputs=3>(n) z = Sin(q) {ATTEND} }}"""
    model = graph(text)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs, every=True)
    rewrite(model)
    assert sum("Attention" in op for op in fused_ops(model)) == 1
    for got, wanted in zip(on_device(model, inputs, storage="f16", every=True), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-2, atol=1e-2)


def read(program, kernel):
    calls = [call for call in program.calls if call.kernel == kernel]
    return [call.reads for call in calls], [call.writes for call in calls]


def in_bands(model, kernels, **bounds):
    """By kernel: (bytes read, bytes written) by each call, with room for all and with room for a few bands."""
    whole, few = (dataclasses.replace(load_target("gpu"), **{"scratch": size, **bounds}) for size in (1 << 30, 1 << 11))
    rewrite(model)
    return {
        kernel: tuple(read(lower(model, "net", target=target), kernel) for target in (whole, few)) for kernel in kernels
    }


def test_bands_of_an_attention_read_and_write_no_more_than_their_part():
    model = graph(
        "(float[1,20,8] q, float[1,20,8] k, float[1,20,8] v) => (float[1,20,8] y) "
        f"<{HEADS.format('1,20,8')}> {{ {ATTEND} }}"
    )
    program = in_bands(model, ("attention_scores", "attention_mix"), flash={"max_head": 1})
    for kernel, (whole, bands) in program.items():
        assert len(whole[0]) == 1 and len(bands[0]) == 2, kernel
        assert (sum(whole[0]), sum(whole[1])) == (sum(bands[0]), sum(bands[1])), kernel


@pytest.mark.device
@pytest.mark.parametrize("name", ["gpu", "adreno_740", "apple_a16"])
@pytest.mark.parametrize("rows", ["2,20,8", "1,17,8"])
def test_parts_of_a_heads_queries(name, rows):
    """Of a target whose buffers have a size: queries of two pictures and two heads, of one projection, in parts."""
    shape = ",".join([*rows.split(",")[:2], "24"])
    text = f"""(float[{shape}] x) => (float[{rows}] y) <{HEADS.format(rows)}> {{
        q, k, v = Split<axis=2, num_outputs=3>(x) {ATTEND} }}"""
    model = graph(text)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs)
    target = load_target(name)
    limits = dataclasses.replace(target.limits, allocation=1 << 28)
    target = dataclasses.replace(target, scratch=20 * 4 * 7, limits=limits, flash={"max_head": 1})
    rewrite(model)
    program = lower(model, "net", target=target)
    scores = [tensor.shape for name, tensor in program.tensors.items() if ":scores." in name]
    pictures, queries, _ = map(int, rows.split(","))
    assert len(scores) == pictures * 2 * 3 and sum(shape[1] for shape in scores) == pictures * 2 * queries
    np.testing.assert_allclose(on_device(model, inputs, target), expected, rtol=1e-5, atol=1e-5)


def test_bands_of_winograd_read_and_write_no_more_than_their_part():
    w, b = np.ones((32, 32, 3, 3), np.float32), np.ones(32, np.float32)
    model = graph(
        "(float[1,32,16,16] x, float[32,32,3,3] w, float[32] b) => (float[1,32,16,16] y) "
        "{ y = Conv<pads=[1,1,1,1]>(x, w, b) }",
        w=w,
        b=b,
    )
    program = in_bands(model, ("winograd_input",), winograd={})
    (whole, bands), given = program["winograd_input"], 32 * 16 * 16 * 4
    assert len(whole[0]) == 1 and whole[0][0] == given
    assert len(bands[0]) > 4 and given - len(bands[0]) < sum(bands[0]) <= given, "bytes of a band are rounded down"


@pytest.mark.device
def test_bands_of_tiles_whose_patches_work_items_share():
    """More patches than a CPU's scratch holds: two commands for each band, of which each writes its own pixels."""
    taps = np.random.default_rng(0).standard_normal((70, 40, 3, 3), dtype=np.float32)
    text = "(float[2,40,13,18] x, float[70,40,3,3] w) => (float[2,70,13,18] y) { y = Conv<pads=[1,1,1,1]>(x, w) }"
    model, host = graph(text, w=taps), load_target("host")
    rewrite(model)
    cramped = dataclasses.replace(host, scratch=1_000_000, winograd={"groups": 2})
    calls = [call for call in lower(model, "net", target=cramped).calls if call.kernel.startswith("winograd")]
    assert [call.kernel for call in calls] == ["winograd_blocks", "winograd_strips"] * 2, "40 tiles, 24 at a time"
    got = on_device(model, feed(model), cramped)
    want = on_device(model, feed(model), host, without=("winograd",))
    assert np.sqrt(((got - want) ** 2).mean() / (want**2).mean()) < 4e-6, "Winograd's own error in float32"


@pytest.mark.device
def test_a_norm_of_two_parts_of_a_large_picture():
    """The two commands that a large picture takes on a CPU read one part only."""
    text = """(float[1,16,66,66] x, float[1,16,66,66] z, float[2] o, float[2] e, float[32,1,1] w, float[32,1,1] b)
    => (float[1,8,66,66] y)
        <int64[3] s = {0, 2, -1}, int64[4] j = {1, 32, 66, 66}> {
        u = Conv<kernel_shape=[1,1]>(x, f) v = Conv<kernel_shape=[1,1]>(z, f) i = Concat<axis=1>(u, v) a = Reshape(i, s)
        n = InstanceNormalization(a, o, e) r = Reshape(n, j) m = Mul(r, w) l = Add(m, b)
        y = Conv<kernel_shape=[1,1]>(l, g) }"""
    rng = np.random.default_rng(1)
    weights = {
        name: rng.standard_normal(shape, dtype=np.float32) for name, shape in {"w": (32, 1, 1), "b": (32, 1, 1)}.items()
    }
    weights |= {
        "f": rng.standard_normal((16, 16, 1, 1), dtype=np.float32),
        "g": rng.standard_normal((8, 32, 1, 1), dtype=np.float32),
    }
    text = text.replace("float[2] o", "float[16,16,1,1] f, float[8,32,1,1] g, float[2] o")
    model = graph(text, o=np.ones(2, np.float32), e=np.zeros(2, np.float32), **weights)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs)
    rewrite(model)
    assert any("GroupNormNhwc" in op for op in fused_ops(model)), fused_ops(model)
    program = lower(model, "net")
    assert any(len(set(call.inputs)) == 4 for call in program.calls if call.op == "GroupNormNhwc"), [
        call.op for call in program.calls
    ]
    np.testing.assert_allclose(on_device(model, inputs), expected, rtol=1e-3, atol=1e-3)
