"""Changes of the tiny bundle, each with how its refusal begins ("" where it is harmless):
the rows of refused.json, and a few more."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bundle.setting import setting

PLAN = "plans/tiny_width8.json"


PLAN_CHANGES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda plan: [], "is a list of 0 (expected an object)"),
    (setting("arena", to=...), "arena is missing"),
    (
        setting("needs", to=["wings"]),
        'needs[0] asks for "wings", which this version does not know; install a newer ondevice',
    ),
    (setting("needs", to=["half"] * 17), "needs is a list of 17 (expected a list of 0..16)"),
    (setting("needs", to=["half", "subgroups"]), ""),
    (setting("operands", 0, "kind", to="image2d"), 'operands[0].kind is "image2d", which `needs` does not say'),
    (setting("operands", 0, "kind", to="buffer"), ""),
    (setting("arena", to=512), "operands[2].offset is 512 (expected a multiple of 512 with 32 bytes before 512)"),
    (setting("arena", to=1032), "operands[5].offset is 1024 (expected a multiple of 512 with 16 bytes before 1032)"),
    (setting("arena", to=2048), "arena is 2048 (expected 1536 as in bundle.json)"),
    (setting("component", to="unet"), "component is unet (expected tiny as in bundle.json)"),
    (setting("component", to="a b"), 'component is "a b" (expected an identifier)'),
    (setting("sizes", "width", to=0), 'sizes["width"] is 0 (expected 1..65536)'),
    (setting("dtype", to="f8"), 'dtype is "f8" (expected one of: f16, f32, i32, i8, u4x2)'),
    (setting("dtype", to="f32"), "dtype is f32 (expected f16 as in bundle.json)"),
    (setting("inputs", to=[7]), "inputs[0] is 7 (expected 0..6)"),
    (setting("inputs", to=[True]), "inputs[0] is true (expected 0..6)"),
    (setting("inputs", to=[0, 0]), "inputs[1] is 0 (expected each operand once)"),
    (setting("inputs", to=[1]), 'inputs[0] is 1 (expected an operand of the arena, not the weight "tiny/bias")'),
    (setting("outputs", to=[]), "outputs is a list of 0 (expected a list of 1..64)"),
    (setting("inputs", to=[]), 'dispatches[0].operands[0] reads "x" before anything writes it'),
    (setting("inputs", to=[0, 2]), ""),  # harmless: `mid` is given and overwritten
    (setting("inputs", to=[0, 3]), 'operands[3] ("end") overlaps operands[0] ("x") while both are needed'),
    (setting("outputs", to=[5, 3]), ""),  # harmless: `end` lives to the end
    (setting("outputs", to=[5, 0]), 'operands[3] ("end") overlaps operands[0] ("x") while both are needed'),
    (setting("kernels", 0, "name", to="evil"), 'kernels[0].name is "evil" (expected one of: pick, scale_add)'),
    (setting("kernels", 0, "defines", to={"1A": 1}), 'kernels[0].defines is "1A" (expected an identifier)'),
    (setting("kernels", 0, "defines", to={"A\n": 1}), 'kernels[0].defines is "A\\n" (expected an identifier)'),
    (
        setting("kernels", 0, "defines", "F16", to=1.0),
        'kernels[0].defines["F16"] is 1.0 (expected -2147483648..2147483647)',
    ),
    (setting("kernels", 0, "defines", "F16", to=1 << 31), 'kernels[0].defines["F16"] is 2147483648 (expected'),
    (setting("kernels", 0, "outputs", to=0), "kernels[0].outputs is 0 (expected 1..64)"),
    (setting("kernels", 0, "inputs", to=3), "dispatches[0].operands is a list of 3 (expected a list of 4)"),
    (setting("kernels", 0, "scalars", to="ix"), 'kernels[0].scalars is "ix" (expected one letter a scalar, i or f)'),
    (setting("kernels", 0, "scalars", to="ii"), "dispatches[0].scalars[1] is 2.0 (expected -2147483648..2147483647)"),
    (setting("kernels", 0, "scalars", to="ff"), ""),  # 8 is a float32 too; only the kernel knows
    (
        setting("operands", 0, "dtype", to="f64"),
        'operands[0].dtype is "f64" (expected one of: f16, f32, i32, i8, u4x2)',
    ),
    (setting("operands", 0, "dtype", to="f16"), "operands[0].bytes is 32 (expected 16 for f16[8])"),
    (setting("operands", 0, "shape", to=[9]), "operands[0].bytes is 32 (expected 36 for f32[9])"),
    (setting("operands", 0, "shape", to=[0]), "operands[0].shape[0] is 0 (expected 1..2147483647)"),
    (setting("operands", 0, "shape", to=[2] * 9), "operands[0].shape is a list of 9 (expected a list of 0..8)"),
    (
        setting("operands", 0, "shape", to=[1 << 30, 1 << 30]),
        "operands[0].shape is [1073741824, 1073741824] (expected at most",
    ),
    (setting("operands", 0, "offset", to=-512), "operands[0].offset is -512 (expected 0..1099511627776)"),
    (
        setting("operands", 0, "offset", to=256),
        "operands[0].offset is 256 (expected a multiple of 512 with 32 bytes before 1536)",
    ),
    (setting("operands", 0, "offset", to=1536), "operands[0].offset is 1536 (expected a multiple of 512"),
    (setting("operands", 0, "offset", to=...), "operands[0] has both or none of offset and weight (expected one)"),
    (setting("operands", 0, "weight", to="picked"), "operands[0] has both or none of offset and weight (expected one)"),
    (setting("operands", 0, "name", to=""), 'operands[0].name is "" (expected 1..512 printable characters)'),
    (setting("operands", 0, "name", to="a\nb"), 'operands[0].name is "a\\nb" (expected 1..512 printable characters)'),
    (setting("operands", 2, "name", to="x"), 'operands[2].name is "x", as in operands[0] (expected another)'),
    (
        setting("operands", 1, "weight", to="none"),
        'operands[1].weight is "none" (expected a key of the weights of bundle.json)',
    ),
    (
        setting("operands", 1, "weight", to="picked"),
        'operands[1].weight is "picked", stored as i32[4] (expected f16[4])',
    ),
    (
        setting("operands", 1, "shape", to=[2, 2]),
        'operands[1].weight is "tiny/bias", stored as f16[4] (expected f16[2, 2])',
    ),
    (lambda plan: plan["operands"].append(plan["operands"][1] | {"name": "again"}), ""),  # a weight counts once
    (setting("operands", 2, "offset", to=0), 'operands[2] ("mid") overlaps operands[0] ("x") while both are needed'),
    (setting("operands", 5, "offset", to=0), 'operands[5] ("y") overlaps operands[3] ("end") while both are needed'),
    (setting("operands", 5, "offset", to=512), ""),  # harmless: `mid` is no longer needed
    (setting("dispatches", 0, "kernel", to=2), "dispatches[0].kernel is 2 (expected 0..1)"),
    (setting("dispatches", 0, "operands", 2, to=99), "dispatches[0].operands[2] is 99 (expected 0..6)"),
    (setting("dispatches", 0, "operands", 2, to=-1), "dispatches[0].operands[2] is -1 (expected 0..6)"),
    (
        setting("dispatches", 0, "operands", 2, to=1),
        'dispatches[0].operands[2] writes the weight "tiny/bias" (expected an operand of the arena)',
    ),
    (setting("dispatches", 0, "operands", 2, to=0), 'dispatches[0].operands[2] writes "x", which it also uses'),
    (setting("dispatches", 0, "operands", 0, to=2), 'dispatches[0].operands[0] reads "mid" before anything writes it'),
    (setting("dispatches", 2, "operands", 3, to=2), 'outputs[0] is "y", which nothing writes'),
    (setting("dispatches", 0, "scalars", 1, to=None), "dispatches[0].scalars[1] is null (expected a finite float32)"),
    (setting("dispatches", 0, "scalars", 1, to=1e39), "dispatches[0].scalars[1] is 1e+39 (expected a finite float32)"),
    (setting("dispatches", 0, "scalars", 1, to=10**400), "dispatches[0].scalars[1] is 1000"),
    (setting("dispatches", 0, "scalars", 0, to=1 << 31), "dispatches[0].scalars[0] is 2147483648 (expected"),
    (setting("dispatches", 0, "scalars", to=[8]), "dispatches[0].scalars is a list of 1 (expected a list of 2)"),
    (
        setting("dispatches", 0, "grid", to=[9, 1, 1]),
        "dispatches[0].grid is [9, 1, 1] (expected multiples of the group [4, 1, 1])",
    ),
    (setting("dispatches", 0, "grid", to=[0, 1, 1]), "dispatches[0].grid[0] is 0 (expected 1..2147483647)"),
    (setting("dispatches", 0, "grid", to=[8, 3, 1]), ""),  # less than a group an element
    (setting("dispatches", 0, "grid", to=[8, 11, 1]), "dispatches[0].grid has 88 work-items (expected at most 80)"),
    (setting("dispatches", 0, "grid", to=[8, 1, 11]), "dispatches[0].grid has 88 work-items (expected at most 80)"),
    (
        setting("dispatches", 0, "grid", to=[4, 2**30, 2**30]),
        "dispatches[0].grid has 4611686018427387904 work-items (expected at most 80)",
    ),
    (
        setting("dispatches", 0, "grid", to=[2**22, 2**21, 2**21]),  # as many as 64 bits show as none
        "dispatches[0].grid has 18446744073709551616 work-items (expected at most 80)",
    ),
    (setting("dispatches", 0, "grid", to=[8, 1]), "dispatches[0].grid is a list of 2 (expected a list of 3)"),
    (setting("dispatches", 0, "group", to=[1025, 1, 1]), "dispatches[0].group[0] is 1025 (expected 1..1024)"),
    (
        setting("dispatches", 0, "group", to=[64, 32, 1]),
        "dispatches[0].group has 2048 work-items (expected at most 1024)",
    ),
    (setting("dispatches", 0, "flops", to=-1), "dispatches[0].flops is -1 (expected 0..9007199254740992)"),
    (setting("dispatches", 0, "node", to=7), "dispatches[0].node is 7 (expected 1..512 printable characters)"),
    (setting("dispatches", 0, "op", to=...), "dispatches[0].op is missing"),
    (setting("dispatches", 0, to="go"), 'dispatches[0] is "go" (expected an object)'),
    (setting("later_field", to={"x": 1}), ""),  # a later minor version may add fields
    (setting("arena", to=-1), "arena is -1 (expected 0..1099511627776)"),
    (setting("arena", to=2**40 + 512), "arena is 1099511628288 (expected 0..1099511627776)"),
    (setting("arena", to=1536.0), "arena is 1536.0 (expected 0..1099511627776)"),
    (setting("operands", to={}), "operands is an object of 0 (expected a list of 0..65536)"),
    (setting("kernels", to={}), "kernels is an object of 0 (expected a list of 0..4096)"),
    (setting("dispatches", to={}), "dispatches is an object of 0 (expected a list of 0..65536)"),
    (setting("inputs", to=[-1]), "inputs[0] is -1 (expected 0..6)"),
    (setting("outputs", to=[-1]), "outputs[0] is -1 (expected 0..6)"),
    (setting("outputs", to=[7]), "outputs[0] is 7 (expected 0..6)"),
    (setting("sizes", to=[]), "sizes is a list of 0 (expected an object of at most 8)"),
    (setting("sizes", to={"a b": 1}), 'sizes is "a b" (expected an identifier)'),
    (setting("sizes", "width", to=65_537), 'sizes["width"] is 65537 (expected 1..65536)'),
    (setting("operands", 0, "bytes", to=0), "operands[0].bytes is 0 (expected 1..1099511627776)"),
    (setting("operands", 0, "bytes", to=2**40 + 1), "operands[0].bytes is 1099511627777 (expected 1..1099511627776)"),
    (setting("operands", 0, "bytes", to=32.0), "operands[0].bytes is 32.0 (expected 1..1099511627776)"),
    (
        setting("operands", 0, "offset", to=2**40 + 512),
        "operands[0].offset is 1099511628288 (expected 0..1099511627776)",
    ),
    (setting("operands", 0, "offset", to=0.0), "operands[0].offset is 0.0 (expected 0..1099511627776)"),
    (
        setting("operands", 1, "weight", to=[]),
        "operands[1].weight is a list of 0 (expected a key of the weights of bundle.json)",
    ),
    (setting("kernels", 0, "defines", to=[]), "kernels[0].defines is a list of 0 (expected an object of at most 64)"),
    (setting("kernels", 0, "defines", "F16", to=-(2**31) - 1), 'kernels[0].defines["F16"] is -2147483649 (expected'),
    (setting("kernels", 0, "inputs", to=-1), "kernels[0].inputs is -1 (expected 0..64)"),
    (setting("kernels", 0, "inputs", to=65), "kernels[0].inputs is 65 (expected 0..64)"),
    (setting("kernels", 0, "inputs", to=2.0), "kernels[0].inputs is 2.0 (expected 0..64)"),
    (setting("kernels", 0, "outputs", to=65), "kernels[0].outputs is 65 (expected 1..64)"),
    (
        setting("kernels", 0, "scalars", to=[]),
        "kernels[0].scalars is a list of 0 (expected one letter a scalar, i or f)",
    ),
    (setting("kernels", 0, "scalars", to="i" * 65), 'kernels[0].scalars is "iiii'),
    (setting("dispatches", 0, "kernel", to=-1), "dispatches[0].kernel is -1 (expected 0..1)"),
    (setting("dispatches", 0, "scalars", to="ab"), 'dispatches[0].scalars is "ab" (expected a list of 2)'),
    (setting("dispatches", 0, "scalars", 0, to=-(2**31) - 1), "dispatches[0].scalars[0] is -2147483649 (expected"),
    (
        setting("dispatches", 0, "scalars", 1, to=-1e39),
        "dispatches[0].scalars[1] is -1e+39 (expected a finite float32)",
    ),
    (
        setting("dispatches", 0, "grid", to=[2**31, 1, 1]),
        "dispatches[0].grid[0] is 2147483648 (expected 1..2147483647)",
    ),
    (setting("dispatches", 0, "grid", to=[8, 1, 0]), "dispatches[0].grid[2] is 0 (expected 1..2147483647)"),
    (
        setting("dispatches", 0, "grid", to=[8, 2, 1], also=(setting("dispatches", 0, "group", to=[4, 4, 1]),)),
        "dispatches[0].grid is [8, 2, 1]",
    ),
    (
        setting("dispatches", 0, "grid", to=[8, 1, 2], also=(setting("dispatches", 0, "group", to=[4, 1, 4]),)),
        "dispatches[0].grid is [8, 1, 2]",
    ),
    (setting("dispatches", 0, "group", to=[4, 1, 0]), "dispatches[0].group[2] is 0 (expected 1..1024)"),
    (
        setting("dispatches", 0, "group", to=[64, 1, 32]),
        "dispatches[0].group has 2048 work-items (expected at most 1024)",
    ),
    (
        setting("dispatches", 0, "group", to=[1, 64, 32]),
        "dispatches[0].group has 2048 work-items (expected at most 1024)",
    ),
    (
        setting("dispatches", 0, "flops", to=2**53 + 1),
        "dispatches[0].flops is 9007199254740993 (expected 0..9007199254740992)",
    ),
    (setting("dispatches", 0, "op", to=""), 'dispatches[0].op is "" (expected 1..512 printable characters)'),
]


WEIGHT = partial(setting, "weights", "tiny/bias")
RULE = partial(setting, "components", "tiny", "rewrite", "rules", 0)
MANIFEST_CHANGES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda manifest: [], 'is not the manifest of a bundle (got format a list of 0, expected "ondevice-bundle")'),
    (setting("format", to="zip"), 'is not the manifest of a bundle (got format "zip", expected "ondevice-bundle")'),
    (setting("version", to="3.0"), "has format 3.0 (expected 2.x). Fix: install a newer ondevice"),
    (
        setting("version", to="1.3"),
        "has format 1.3 (expected 2.x). Fix: convert the checkpoint again; --force replaces this one",
    ),
    (setting("version", to="2.0"), ""),
    (setting("version", to="2.7"), ""),  # a later minor version is read
    (setting("components", "tiny", "rewrite", to=...), ""),  # not every writer knows it
    (setting("components", "tiny", "rewrite", to=[]), 'components["tiny"].rewrite is a list of 0 (expected an object)'),
    (
        setting("components", "tiny", "rewrite", "nodes", to=[5]),
        'components["tiny"].rewrite.nodes is a list of 1 (expected a list of 2)',
    ),
    (
        setting("components", "tiny", "rewrite", "nodes", 1, to=-1),
        'components["tiny"].rewrite.nodes[1] is -1 (expected 0..9007199254740992)',
    ),
    (RULE("rule", to="a b"), 'components["tiny"].rewrite.rules[0].rule is "a b" (expected an identifier)'),
    (RULE("family", to=7), 'components["tiny"].rewrite.rules[0].family is 7 (expected a file name of letters'),
    (RULE("applied", to=True), 'components["tiny"].rewrite.rules[0].applied is true (expected 0..9007199254740992)'),
    (
        RULE("skipped", to={"": 1}),
        'components["tiny"].rewrite.rules[0].skipped is "" (expected 1..512 printable characters)',
    ),
    (
        RULE("skipped", to={"why": 0}),
        'components["tiny"].rewrite.rules[0].skipped["why"] is 0 (expected 1..9007199254740992)',
    ),
    (
        RULE("skipped", to={str(i): 1 for i in range(65)}),
        'components["tiny"].rewrite.rules[0].skipped is an object of 65 (expected',
    ),
    (
        setting("components", "tiny", "rewrite", "rules", to=[0] * 257),
        'components["tiny"].rewrite.rules is a list of 257 (expected',
    ),
    (RULE("off", to=0), 'components["tiny"].rewrite.rules[0].off is 0 (expected true or false)'),
    (RULE("off", to=...), 'components["tiny"].rewrite.rules[0].off is missing'),
    (setting("version", to=1.0), "version is 1.0 (expected MAJOR.MINOR)"),
    (setting("version", to="1.0\n"), 'version is "1.0\\n" (expected MAJOR.MINOR)'),
    (setting("producer", to=None), "producer is null (expected 1..512 printable characters)"),
    (setting("model", "family", to=...), "model.family is missing"),
    (setting("components", "tiny", "dtype", to="f64"), 'components["tiny"].dtype is "f64" (expected one of'),
    (setting("components", to={}), 'plans[0].component is "tiny" (expected nothing here)'),
    (setting("plans", to=[]), "plans is a list of 0 (expected a list of 1..1024)"),
    (setting("plans", 1, "sizes", to={"width": 8}), "plans[1] is a second plan of tiny at {'width': 8}"),
    (setting("plans", 1, "file", to=PLAN), f'plans[1].file is "{PLAN}", as in plans[0] (expected another)'),
    (
        setting("plans", 0, "file", to="bundle.json"),
        'plans[0].file is "bundle.json" (expected a file of plans/ in files)',
    ),
    (
        setting("plans", 0, "file", to="plans/../bundle.json"),
        'plans[0].file is "plans/../bundle.json" (expected a file of plans/ in files)',
    ),
    (setting("plans", 0, "arena", to=-1), "plans[0].arena is -1 (expected 0..1099511627776)"),
    (setting("plans", 0, "weight_bytes", to=1), "uses 28 bytes of weights (expected 1 as in bundle.json)"),
    (setting("kernels", to=["pick", "pick"]), 'kernels names "pick" twice'),
    (setting("kernels", to=["pick", "PICK"]), 'kernels names "PICK" twice'),
    (setting("kernels", 1, to="other"), 'kernels[1] is "other", but kernels/other.cl is not in files'),
    (setting("kernels", 0, to="../bundle.json"), 'kernels[0] is "../bundle.json" (expected a file name of letters'),
    (setting("preludes", 0, to="cuda"), 'preludes[0] is "cuda", but kernels/prelude/cuda.h is not in files'),
    (
        setting("tokenizers", "tiny", "files", 0, to=".hidden"),
        'tokenizers["tiny"].files[0] is ".hidden" (expected a file name of letters',
    ),
    (
        setting("tokenizers", "tiny", "files", 0, to="x"),
        'tokenizers["tiny"].files[0] is "x", but tokenizers/tiny/x is not in files',
    ),
    (
        setting("tokenizers", "tiny", "kind", to="word"),
        'tokenizers["tiny"].kind is "word" (expected one of: bpe, unigram)',
    ),
    (setting("tokenizers", "tiny", "length", to=0), 'tokenizers["tiny"].length is 0 (expected 1..65536)'),
    (setting("tokenizers", to={"a b": {}}), 'tokenizers is "a b" (expected an identifier)'),
    (setting("pipeline", to=[]), "pipeline is a list of 0 (expected an object)"),
    (setting("pipeline", to=...), "pipeline is missing"),
    (setting("samplers", 0, to=5), "samplers[0] is 5 (expected a file name of letters"),
    (setting("files", "scheduler/scheduler_config.json", to=...), "files has no scheduler/scheduler_config.json"),
    (WEIGHT("dtype", to="q4"), 'weights["tiny/bias"].dtype is "q4" (expected one of: f16, f32, i32, i8, u4x2)'),
    (WEIGHT("bytes", to=16), 'weights["tiny/bias"].bytes is 16 (expected 8 for f16[4])'),
    (WEIGHT("offset", to=2), 'weights["tiny/bias"].offset is 2 (expected a multiple of 512 with 8 bytes before 1536)'),
    (
        WEIGHT("offset", to=1536),
        'weights["tiny/bias"].offset is 1536 (expected a multiple of 512 with 8 bytes before 1536)',
    ),
    (
        WEIGHT("file", to="weights/none.bin"),
        'weights["tiny/bias"].file is "weights/none.bin" (expected a file of weights/ in files)',
    ),
    (WEIGHT("file", to=[]), 'weights["tiny/bias"].file is a list of 0 (expected a file of weights/ in files)'),
    (
        setting("files", "weights/tiny-000.bin", "bytes", to=520),
        'weights["picked"].offset is 512 (expected a multiple of 512 with 16 bytes before 520)',
    ),
    (
        setting("files", "../../etc/passwd", to={}),
        'files names "../../etc/passwd" (expected a path of at most three plain names',
    ),
    (setting("files", "/etc/passwd", to={}), 'files names "/etc/passwd" (expected a path of at most three'),
    (setting("files", "a//b", to={}), 'files names "a//b" (expected a path of at most three'),
    (setting("files", "a\\b", to={}), 'files names "a\\\\b" (expected a path of at most three'),
    (setting("files", "C:b", to={}), 'files names "C:b" (expected a path of at most three'),
    (setting("files", "a\0", to={}), 'files names "a\\u0000" (expected a path of at most three'),
    (setting("files", "Bundle.json", to={}), 'files names "Bundle.json" (expected a path of at most three'),
    (
        setting("files", "kernels/pick.cl", "sha256", to="0"),
        'files["kernels/pick.cl"].sha256 is "0" (expected 64 hexadecimal digits)',
    ),
    (
        setting("files", "kernels/pick.cl", "bytes", to=1.5),
        'files["kernels/pick.cl"].bytes is 1.5 (expected 0..1099511627776)',
    ),
    (setting("files", "Kernels/pick.cl", to={"bytes": 1, "sha256": "0" * 64}), 'files names "Kernels/pick.cl" twice'),
    (setting("producer", to="a" * 513), 'producer is "aaaa'),
    (setting("components", to=[]), "components is a list of 0 (expected an object of at most 1024)"),
    (setting("components", "a b", to={"dtype": "f16"}), 'components is "a b" (expected an identifier)'),
    (setting("components", "tiny", "dtype", to=[]), 'components["tiny"].dtype is a list of 0 (expected one of'),
    (setting("components", "tiny", to=[]), 'components["tiny"] is a list of 0 (expected an object)'),
    (setting("model", to=[]), "model is a list of 0 (expected an object of at most 256)"),
    (setting("model", "source", to=7), "model.source is 7 (expected 1..512 printable characters)"),
    (setting("kernels", to={}), "kernels is an object of 0 (expected a list of 0..4096)"),
    (setting("preludes", to=["opencl"] * 17), "preludes is a list of 17 (expected a list of 0..16)"),
    (
        setting(
            "kernels",
            0,
            to="pick.one",
            also=(setting("files", "kernels/pick.one.cl", to={"bytes": 1, "sha256": "0" * 64}),),
        ),
        'kernels[0] is "pick.one" (expected an identifier)',
    ),
    (setting("weights", to=[]), "weights is a list of 0 (expected an object of at most 65536)"),
    (setting("weights", "a\nb", to={}), 'weights is "a\\nb" (expected 1..512 printable characters)'),
    (WEIGHT("shape", to=[0]), 'weights["tiny/bias"].shape[0] is 0 (expected 1..2147483647)'),
    (WEIGHT("shape", to=[2**31]), 'weights["tiny/bias"].shape[0] is 2147483648 (expected 1..2147483647)'),
    (WEIGHT("bytes", to=0), 'weights["tiny/bias"].bytes is 0 (expected 1..1099511627776)'),
    (WEIGHT("bytes", to=2**40 + 1), 'weights["tiny/bias"].bytes is 1099511627777 (expected 1..1099511627776)'),
    (WEIGHT("bytes", to=8.0), 'weights["tiny/bias"].bytes is 8.0 (expected 1..1099511627776)'),
    (
        WEIGHT("file", to="kernels/pick.cl"),
        'weights["tiny/bias"].file is "kernels/pick.cl" (expected a file of weights/ in files)',
    ),
    (WEIGHT("offset", to=-512), 'weights["tiny/bias"].offset is -512 (expected 0..1099511627776)'),
    (WEIGHT("offset", to=2**40 + 512), 'weights["tiny/bias"].offset is 1099511628288 (expected 0..1099511627776)'),
    (WEIGHT("offset", to=0.0), 'weights["tiny/bias"].offset is 0.0 (expected 0..1099511627776)'),
    (setting("plans", 0, "sizes", to={"a b": 1}), 'plans[0].sizes is "a b" (expected an identifier)'),
    (setting("plans", 0, "sizes", to={"width": 0}), 'plans[0].sizes["width"] is 0 (expected 1..65536)'),
    (setting("plans", 0, "file", to=[]), "plans[0].file is a list of 0 (expected a file of plans/ in files)"),
    (
        setting("plans", 0, "file", to="kernels/pick.cl"),
        'plans[0].file is "kernels/pick.cl" (expected a file of plans/ in files)',
    ),
    (setting("plans", 0, "arena", to=2**40 + 1), "plans[0].arena is 1099511627777 (expected 0..1099511627776)"),
    (setting("plans", 0, "weight_bytes", to=-1), "plans[0].weight_bytes is -1 (expected 0..1099511627776)"),
    (
        setting("plans", 0, "weight_bytes", to=2**40 + 1),
        "plans[0].weight_bytes is 1099511627777 (expected 0..1099511627776)",
    ),
    (setting("plans", 0, "weight_bytes", to=28.0), "plans[0].weight_bytes is 28.0 (expected 0..1099511627776)"),
    (setting("files", to=[]), "files is a list of 0 (expected an object of at most 16384)"),
    (setting("files", "a/b/c/d", to={}), 'files names "a/b/c/d" (expected a path of at most three'),
    (
        setting("files", "kernels/pick.cl", "bytes", to=-1),
        'files["kernels/pick.cl"].bytes is -1 (expected 0..1099511627776)',
    ),
    (
        setting("files", "kernels/pick.cl", "bytes", to=2**40 + 1),
        'files["kernels/pick.cl"].bytes is 1099511627777 (expected 0..1099511627776)',
    ),
]
