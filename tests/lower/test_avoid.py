"""Programs that are wrong on a device: files that list them, and plans that have none of them."""

import hashlib
import json
from dataclasses import replace

import pytest
from rewrite.graphs import graph as from_text

from ondevice.errors import NoKernelError, UsageError
from ondevice.lower import lower
from ondevice.lower.kernel_file import load_all
from ondevice.target import load_target
from ondevice.target.avoid import AvoidedProgram, dump_avoided, parse_avoided, read_avoided

KERNELS = load_all()
PHONE = load_target("adreno_740")
ROWS = from_text(
    "(float[2,64,320] x, float[320] w, float[320] b) => (float[2,64,320] y) "
    "{ a = Neg(x) y = LayerNormalization(a, w, b) }"
)
DEVICE = {"name": "Adreno (TM) 740", "driver": "512.676"}


def avoiding(tmp_path, *calls, texts=None):
    """The phone's target without the programs of these calls."""
    programs = [
        AvoidedProgram(call.kernel, hashlib.sha256(text.encode()).hexdigest(), call.defines, "wrong")
        for call in calls
        for text in [(texts or {}).get(call.kernel, KERNELS[call.kernel].text)]
    ]
    path = tmp_path / "avoid.json"
    path.write_bytes(dump_avoided(DEVICE, programs))
    return replace(PHONE, avoided=[read_avoided(path)])


def kernels(program):
    return [call.kernel for call in program.calls if call.op == "LayerNormalization"]


def test_another_way_is_taken(tmp_path):
    first = lower(ROWS, "test", storage="f16", target=PHONE)
    assert kernels(first) == ["layer_norm_local"]
    (call,) = (call for call in first.calls if call.op == "LayerNormalization")
    target = avoiding(tmp_path, call)
    second = lower(ROWS, "test", storage="f16", target=target)
    assert kernels(second) == ["layer_norm"]
    node = next(node.name for node in ROWS.graph if node.op_type == "LayerNormalization")
    assert f"test: {node} avoids layer_norm_local: it is wrong on Adreno (TM) 740 (avoid.json)" in second.fallbacks
    # what is built otherwise is another program, as is another text
    assert kernels(lower(ROWS, "test", storage="f32", target=target)) == ["layer_norm_local"]
    other = avoiding(tmp_path, call, texts={"layer_norm_local": "another text"})
    assert kernels(lower(ROWS, "test", storage="f16", target=other)) == ["layer_norm_local"]
    assert other.avoided[0].stale({name: kernel.text for name, kernel in KERNELS.items()}) == ["layer_norm_local"]


def test_where_no_way_is_left(tmp_path):
    calls = []
    for _ in range(2):
        calls += [
            call
            for call in lower(ROWS, "test", target=avoiding(tmp_path, *calls)).calls
            if call.op == "LayerNormalization"
        ]
    words = (
        r"no kernel fits \(.*layer_norm_local: it is wrong on Adreno \(TM\) 740 \(avoid.json\).*layer_norm: it is "
        r"wrong on .*Fix: convert with another --target or --dtype, or without --avoid\."
    )
    with pytest.raises(NoKernelError, match=words):
        lower(ROWS, "test", target=avoiding(tmp_path, *calls))


GOOD = {
    "format": "ondevice-avoid",
    "version": 1,
    "device": {"name": "x"},
    "programs": [{"kernel": "softmax", "sha256": "0" * 64, "defines": {"V": 4, "F16": 1}, "why": "off"}],
}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"format": "ondevice-bundle"}, "it is not a list of programs to avoid"),
        ({"version": 2}, "its version is another than 1"),
        ({"device": {"name": ""}}, "`device.name` is not a name"),
        ({"device": None}, "`device.name` is not a name"),
        ({"programs": {}}, "`programs` is not a list"),
        ({"programs": [3]}, "programs[0].kernel is not a kernel's name"),
        ({"programs": [GOOD["programs"][0] | {"kernel": "../x"}]}, "programs[0].kernel"),
        ({"programs": [GOOD["programs"][0] | {"sha256": "A" * 64}]}, "programs[0].sha256"),
        ({"programs": [GOOD["programs"][0] | {"defines": {"V": 4.0}}]}, "programs[0].defines has"),
        ({"programs": [GOOD["programs"][0] | {"defines": {"V": 1 << 31}}]}, "programs[0].defines has"),
        ({"programs": [GOOD["programs"][0] | {"defines": {"V 1": 1}}]}, "programs[0].defines has"),
    ],
)
def test_a_damaged_file_is_refused(changes, words, tmp_path):
    path = tmp_path / "x.json"
    assert parse_avoided(json.dumps(GOOD).encode(), path).programs["softmax", (("F16", 1), ("V", 4))].why == "off"
    with pytest.raises(UsageError) as refused:
        parse_avoided(json.dumps(GOOD | changes).encode(), path)
    assert words in str(refused.value) and "Fix: " in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b"\xff", b"[]"])
def test_what_is_no_json_is_refused(data, tmp_path):
    with pytest.raises(UsageError, match="it is not"):
        parse_avoided(data, tmp_path / "x.json")
