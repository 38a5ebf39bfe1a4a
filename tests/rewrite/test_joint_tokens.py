"""Attention over the tokens of two streams: what is joined stands where the attention reads it as soon as it is made,
what comes out of it is read where it stands, and gates are steps of products."""

import numpy as np
import pytest
from rewrite.graphs import by_onnxruntime, feed, fused_ops, graph, on_device, ops

from ondevice.lower import lower
from ondevice.rewrite import rewrite
from ondevice.target import load_target

TOKENS, HEADS, D = (3, 2), 2, 4  # of both streams
WIDTH = HEADS * D
rng = np.random.default_rng(3)


def made(*shape):
    return rng.standard_normal(shape, dtype=np.float32)


def joint(n, normed="", bias=True, last="", results=""):
    """(text, weights) of a block: products of both streams, norms of `normed` parts' heads, attention over all tokens,
    and of each stream a gated product with its residual. `last` is said beside, and gives `results`."""
    weights, nodes, ends = {"c": np.float32(0.7), "i": np.float32(1e-6)}, [], {}
    for part in "qkv":
        for stream in "xe":
            name = f"{part}{stream}"
            weights |= {f"w{name}": made(WIDTH, WIDTH), f"b{name}": made(WIDTH)}
            nodes.append(f"m{name} = MatMul({stream}, w{name}) l{name} = Add(m{name}, b{name})")
            if not bias:
                nodes[-1] = f"l{name} = MatMul({stream}, w{name})"
                del weights[f"b{name}"]
            ends[name] = f"l{name}"
            if part in normed:
                weights[f"g{name}"] = made(D)
                nodes.append(
                    f"h{name} = Reshape(l{name}, hs) p{name} = Mul(h{name}, h{name}) a{name} = ReduceMean(p{name}, ax) "
                    f"o{name} = Add(a{name}, i) r{name} = Sqrt(o{name}) d{name} = Div(h{name}, r{name}) "
                    f"s{name} = Mul(d{name}, g{name}) n{name} = Reshape(s{name}, t{stream})"
                )
                ends[name] = f"n{name}"
        nodes.append(f"{part} = Concat<axis=1>({ends[f'{part}x']}, {ends[f'{part}e']})")
    nodes.append(
        "s = Reshape(q, hs) qt = Transpose<perm=[0,2,1,3]>(s) qs = Mul(qt, c) t = Reshape(k, hs) "
        "kt = Transpose<perm=[0,2,3,1]>(t) ks = Mul(kt, c) m = MatMul(qs, ks) p = Softmax<axis=-1>(m) "
        "u = Reshape(v, hs) vt = Transpose<perm=[0,2,1,3]>(u) o = MatMul(p, vt) ot = Transpose<perm=[0,2,1,3]>(o) "
        f"all = Reshape(ot, j) tox = Slice(all, zero, first, one) toe = Slice(all, first, last, one) {last}"
    )
    for stream, out in zip("xe", "yz", strict=True):
        weights |= {f"wo{stream}": made(WIDTH, WIDTH), f"bo{stream}": made(WIDTH)}
        nodes.append(f"mo{stream} = MatMul(to{stream}, wo{stream}) lo{stream} = Add(mo{stream}, bo{stream})")
        nodes.append(f"go{stream} = Mul(g{stream}, lo{stream}) {out} = Add({stream}, go{stream})")
    first, last_ = TOKENS[0], sum(TOKENS)
    ints = {"hs": (0, -1, HEADS, D), "j": (n, last_, WIDTH), "zero": (0,), "first": (first,), "last": (last_,)}
    ints |= {"one": (1,), "ax": (-1,), "tx": (n, first, WIDTH), "te": (n, last_ - first, WIDTH)}
    sizes = ", ".join(f"int64[{len(v)}] {name} = {{{', '.join(map(str, v))}}}" for name, v in ints.items())
    given = [f"float[{n},{tokens},{WIDTH}] {name}" for name, tokens in zip("xe", TOKENS, strict=True)]
    given += [f"float[{n},1,{WIDTH}] g{name}" for name in "xe"]
    given += [f"float{list(w.shape) if w.ndim else ''} {name}" for name, w in weights.items()]
    outs = f"float[{n},{first},{WIDTH}] y, float[{n},{last_ - first},{WIDTH}] z{results}"
    return f"({', '.join(given)}) => ({outs}) <{sizes}> {{ {' '.join(nodes)} }}", weights


CASES = {"plain": {}, "normalized": {"normed": "qk"}, "all normalized": {"normed": "qkv"}}
WAYS = [("host", case, n) for case in CASES for n in (1, 2)]
WAYS += [(target, "normalized", 2) for target in ("gpu", "adreno_740", "mali_g715", "apple_a16")]


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_meaning_stays(case, n):
    text, weights = joint(n, **case)
    model = graph(text, **weights)
    inputs = feed(model)
    before = by_onnxruntime(model, inputs, every=True)
    rewrite(model)
    found = fused_ops(model)
    normed = len(case.get("normed", "")) * 2
    assert found == {"LinearBias": 2, "LinearBiasGateAdd": 2, "Attention": 1} | ({"RmsNorm": normed} if normed else {})
    for got, wanted in zip(by_onnxruntime(model, inputs, every=True), before, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    after = ops(model)
    assert not any(outcome.applied for outcome in rewrite(model)) and ops(model) == after


@pytest.mark.device
@pytest.mark.parametrize("target, case, n", WAYS)
def test_nothing_is_copied(target, case, n):
    text, weights = joint(n, **CASES[case])
    model, chosen = graph(text, **weights), load_target(target)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs, every=True)
    rewrite(model)
    program = lower(model, "net", target=chosen)
    kernels = [call.kernel for call in program.calls]
    assert not [name for name in kernels if name in ("strided_copy", "gated_add", "binary")], kernels
    for got, wanted in zip(on_device(model, inputs, chosen, every=True), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.device
@pytest.mark.parametrize("without", ["projections", "modulation", "bias", "residual", "rms_norm", "attention", "all"])
def test_each_rule_may_be_missing(without):
    text, weights = joint(2, normed="qk")
    model = graph(text, **weights)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs, every=True)
    rewrite(model, without=[without])
    for got, wanted in zip(on_device(model, inputs, every=True), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.device
@pytest.mark.parametrize(
    "last, results",
    [
        ("w = Neg(lqx)", f", float[2,{TOKENS[0]},{WIDTH}] w"),
        ("w = Neg(tox)", f", float[2,{TOKENS[0]},{WIDTH}] w"),
        ("w = Neg(q)", f", float[2,{sum(TOKENS)},{WIDTH}] w"),
        ("", f", float[2,{TOKENS[1]},{WIDTH}] toe"),
        ("", f", float[2,{TOKENS[1]},{WIDTH}] lve"),
        ("", f", float[2,{sum(TOKENS)},{WIDTH}] k"),
    ],
)
def test_others_may_read_what_is_joined_and_what_is_cut(last, results):
    text, weights = joint(2, last=last, results=results)
    model = graph(text, **weights)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs, every=True)
    rewrite(model)
    for got, wanted in zip(on_device(model, inputs, every=True), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-5)


def test_traffic_counts_parts_as_parts():
    """A product that writes rows of a buffer writes no more than these; one that reads rows reads no more."""
    text, weights = joint(2)
    model = graph(text, **weights)
    rewrite(model)
    program = lower(model, "net")
    calls = [call for call in program.calls if call.op == "Linear"]
    assert [call.writes for call in calls] == [2 * tokens * width * 4 for width in (24, 8) for tokens in TOKENS]
    for call, tokens in zip(calls[2:], TOKENS, strict=True):
        rows, gates = 2 * tokens * WIDTH * 4, 2 * WIDTH * 4
        weights = sum(program.tensors[name].nbytes for name in call.inputs if name in program.weights)
        assert call.reads == weights + gates + 2 * rows  # what it multiplies, and the residual


APART = {  # what is joined of a, b of one product and c, d of another, and along which axis these are parts of it
    "other columns": (2, "y = Concat<axis=1>(a, d) z = Concat<axis=1>(b, c)", (4, 4)),
    "beside each other": (2, "y = Concat<axis=2>(a, c) z = Concat<axis=2>(b, d)", (2, 8)),
    "along another axis": (0, "y = Concat<axis=0>(a, c) z = Concat<axis=0>(b, d)", (2, 8)),
    "rows": (1, "y = Concat<axis=1>(a, c) z = Concat<axis=1>(b, d)", (2, 8)),
}


@pytest.mark.parametrize("axis, joined, shape", APART.values(), ids=APART)
def test_others_stay_apart(axis, joined, shape):
    weights = {"v": made(8, 8), "w": made(8, 8)}
    text = f"""(float[2,2,8] x, float[2,2,8] e, float[8,8] v, float[8,8] w) => (y, z) {{
        m = MatMul(x, v) a, b = Split<axis={axis}, num_outputs=2>(m)
        k = MatMul(e, w) c, d = Split<axis={axis}, num_outputs=2>(k) {joined} }}"""
    model = graph(text, **weights)
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs, every=True)
    assert expected[0].shape[1:] == shape
    rewrite(model)
    for got, wanted in zip(by_onnxruntime(model, inputs, every=True), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.device
@pytest.mark.parametrize("n", [1, 2])
def test_a_sum_that_is_joined_adds_its_own_rows(n):
    """A residual stands in a tensor of its own, and not where the sum goes."""
    weights = {name: made(*shape) for name, shape in (("wx", (8, 8)), ("bx", (8,)), ("we", (8, 8)), ("be", (8,)))}
    given = [f"float[{n},3,8] x", f"float[{n},2,8] e", f"float[{n},2,8] r"]
    given += [f"float{list(w.shape)} {name}" for name, w in weights.items()]
    model = graph(
        f"({', '.join(given)}) => (float[{n},5,8] y) {{ mx = MatMul(x, wx) lx = Add(mx, bx) me = MatMul(e, we) "
        "le = Add(me, be) se = Add(le, r) all = Concat<axis=1>(lx, se) y = Neg(all) }",
        **weights,
    )
    inputs = feed(model)
    expected = by_onnxruntime(model, inputs)
    rewrite(model)
    assert fused_ops(model) == {"LinearBias": 1, "LinearBiasAdd": 1}
    np.testing.assert_allclose(on_device(model, inputs), expected, rtol=1e-4, atol=1e-5)
