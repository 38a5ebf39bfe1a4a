"""Numbers of the stages: by hand on small graphs, and the same from a model as from the bundle made of it."""

import json
import shutil

import pytest
from bundle.tiny_bundle import edit_json, tiny_plan, write_tiny
from rewrite.test_rewrite import graph
from tiny_model import TINY

from ondevice.bundle import open_bundle
from ondevice.compiler import Job, Recipe, compile_bundle, report
from ondevice.converters import random_weights
from ondevice.converters.random_weights import random_checkpoint, random_checkpoint_from_configs
from ondevice.errors import BundleError, UsageError
from ondevice.graph.ops import traffic
from ondevice.lower import lower

# 8 of 16 rows are picked and added to themselves; the halves of the sum change places.
PICKS = """(float[16, 4] table, int32[8] ids) => (float[8, 4] y) {
    rows = Gather <axis = 0> (table, ids)
    twice = Add (rows, rows)
    left, right = Split <axis = 0, num_outputs = 2> (twice)
    y = Concat <axis = 0> (right, left)
}"""
ROWS = 8 * 4 * 4  # bytes of [8, 4] in float32


@pytest.fixture(scope="module")
def checkpoint():
    return random_checkpoint_from_configs(**TINY, seed=1)


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "b"
    return open_bundle(compile_bundle(checkpoint, path, Recipe("f32"), sizes=[(10, 6), (6, 6)]))


def picks():
    model = graph(PICKS, table=[[0.0] * 4] * 16)
    for number, node in enumerate(model.graph):
        node.name = f"n{number}"
    return model


def test_a_graph_by_hand():
    of_graph = report.of_graph(picks(), Job("net", {"batch": 1}), "f32", "graph")
    assert [(row.name, row.op, row.flops, row.reads, row.writes) for row in of_graph.rows] == [
        ("n0", "Gather", 0, ROWS + 32, ROWS),  # 8 rows of the table, 8 ids
        ("n1", "Add", 32, ROWS, ROWS),  # one input in both places
        ("n2", "Split", 0, ROWS, ROWS),
        ("n3", "Concat", 0, ROWS, ROWS),
    ]
    assert of_graph.rows[0].inputs == ("f32[16,4]", "i32[8]") and of_graph.rows[0].outputs == ("f32[8,4]",)
    assert (of_graph.weights, of_graph.moved, of_graph.total("flops")) == (16 * 4 * 4, 8 * ROWS + 32, 32)
    half = report.of_graph(picks(), Job("net", {}), "f16", "graph")
    assert (half.weights, half.moved) == (16 * 4 * 2, 4 * ROWS + 32)


def test_its_program_moves_as_much():
    of_program = report.of_program(lower(picks(), "net", storage="f32"), "f32")
    by_op = {entry["op"]: entry for entry in of_program.histogram()}
    assert by_op["Gather"]["bytes"] == 2 * ROWS + 32 and by_op["Add"]["bytes"] == 2 * ROWS
    assert (by_op["Split"]["count"], by_op["Split"]["bytes"]) == (2, 2 * ROWS)  # a copy per part, each half as large
    assert (by_op["Concat"]["count"], by_op["Concat"]["bytes"]) == (2, 2 * ROWS)
    assert of_program.moved == 8 * ROWS + 32


def test_traffic():
    assert traffic("MatMul", [100, 20], [30]) == (120, 30)
    assert traffic("Slice", [100], [30]) == traffic("Identity", [100], [30]) == (30, 30)
    assert traffic("Concat", [20], [100]) == (20, 20)
    assert traffic("Gather", [4, 100], [30]) == (34, 30) == traffic("Gather", [100, 4], [30])


def test_views_move_nothing(checkpoint):
    of_model = report.of_model(checkpoint, "graph", Recipe(), size=(10, 6), component="unet")[0]
    views = [row for row in of_model.rows if row.op in report.VIEWS]
    assert views and not any(row.reads or row.writes or row.flops for row in views)


def test_a_plan_by_hand():
    of_plan = report.of_plan(tiny_plan(8))
    assert [row.op for row in of_plan.rows] == ["Add", "Add", "Gather"]
    assert of_plan.rows[0].inputs == ("f32[8]", "f16[4]") and of_plan.rows[0].outputs == ("f32[1,8]",)
    assert (of_plan.weights, of_plan.arena, of_plan.total("flops")) == (8 + 16 + 4, 1536, 36)
    assert (of_plan.total("reads"), of_plan.total("writes")) == (2 * 40 + 36, 2 * 32 + 16)
    assert of_plan.histogram()[0] == {
        "op": "Add", "kernel": "scale_add", "math": "fp32", "count": 2, "flops": 32, "bytes": 144,
    }  # fmt: skip
    assert [tensor.name for tensor in of_plan.largest()] == ["end", "mid", "x", "y"]
    assert report.of_plan(tiny_plan(8), after="lower").arena is None


@pytest.mark.parametrize("after", report.IN_BUNDLES)
def test_a_bundle_tells_what_its_model_does(checkpoint, bundle, after):
    of_model = report.of_model(checkpoint, after, Recipe("f32"), size=(10, 6))
    of_bundle = report.of_bundle(bundle, after)
    if after == "plan":
        assert [part.to_json(rows=True) for part in of_bundle] == [part.to_json(rows=True) for part in of_model]
    # A bundle's plans are in their final order, and some tensors have taken the bytes of others; what is
    # done is the same.
    assert [part.to_json() | {"largest": []} for part in of_bundle] == [
        part.to_json() | {"largest": []} for part in of_model
    ]
    assert [len(part.largest()) for part in of_model] == [5] * 5


def test_stages_follow_each_other(checkpoint):
    graphs, fused, lowered, planned = (
        report.of_model(checkpoint, after, Recipe(), size=(10, 6)) for after in report.STAGES
    )
    for before, after in zip(graphs, fused, strict=True):
        assert len(after.rows) < len(before.rows) and after.moved < before.moved and after.weights <= before.weights
    assert [part.moved for part in lowered] == [part.moved for part in planned]
    plain = report.of_model(checkpoint, "rewrite", Recipe(without=("all",)), size=(10, 6))
    # keys and values of the text: weights are joined whatever is left out
    assert [part.to_json() | {"after": ""} for part in plain if part.component != "keys_values"] == [
        part.to_json() | {"after": ""} for part in graphs if part.component != "keys_values"
    ]


def test_the_unet_is_the_one_that_guidance_runs(checkpoint, bundle):
    for parts in (
        report.of_model(checkpoint, "plan", Recipe(), size=(6, 6)),
        report.of_bundle(bundle, "plan", size=(6, 6)),
    ):
        assert {part.component: dict(part.sizes) for part in parts} == {
            "text_encoder": {"batch": 1},
            "keys_values": {"batch": 1},
            "unet": {"batch": 2, "height": 3, "width": 3},
            "vae_decoder": {"batch": 1, "height": 3, "width": 3},
            "vae_encoder": {"batch": 1, "height": 3, "width": 3},
        }


def test_what_a_picture_needs(checkpoint):
    parts = {part.component: part for part in report.of_model(checkpoint, "plan", Recipe(), size=(10, 6))}
    need = report.picture_memory(list(parts.values()), checkpoint)
    encoder = parts.pop("vae_encoder")
    weights = sum(part.weights for part in parts.values())
    arena = max(part.arena for part in parts.values())
    assert need["text to image"] == {"arena": arena, "weights": weights, "total": arena + weights}
    assert need["image to image"]["weights"] == weights + encoder.weights
    assert need["image to image"]["arena"] == max(arena, encoder.arena)
    edited = random_checkpoint("instruct-pix2pix", 0)  # which draws nothing without a picture
    assert report.picture_memory([*parts.values(), encoder], edited)["a picture"] == need["image to image"]


@pytest.mark.parametrize("after", report.STAGES)
def test_no_weight_is_read(monkeypatch, after):
    def refuse(seed, component, name, shape):
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(random_weights, "_values", refuse)
    parts = report.of_model(random_checkpoint("sd14", 0), after, Recipe())
    assert sum(part.weights for part in parts) > 2e9
    unet = next(part for part in parts if part.component == "unet")
    least = 1.0e12 if after in ("lower", "plan") else 1.5e12  # of two passes; Winograd's kernels multiply less
    assert least < unet.total("flops") < least + 0.2e12


def test_a_bundle_at_a_size_it_has_not(bundle):
    with pytest.raises(BundleError, match=r"has no plan for 64x64 \(it has 10x6, 6x6\)\. Fix: .*--size 64x64"):
        report.of_bundle(bundle, "plan", size=(64, 64))


def test_a_component_that_has_not_that_size_is_left_out(bundle, tmp_path):
    shutil.copytree(bundle.path, tmp_path / "b")
    few = [
        p
        for p in json.loads((tmp_path / "b" / "bundle.json").read_text())["plans"]
        if "encoder_b1_3x5" not in p["file"]
    ]
    edit_json(tmp_path / "b", "bundle.json", lambda manifest: manifest | {"plans": few})
    cut = open_bundle(tmp_path / "b")
    names = {size: [part.component for part in report.of_bundle(cut, "plan", size=size)] for size in ((10, 6), (6, 6))}
    assert names == {
        (10, 6): ["text_encoder", "keys_values", "unet", "vae_decoder"],
        (6, 6): ["text_encoder", "keys_values", "unet", "vae_decoder", "vae_encoder"],
    }


def test_a_bundle_has_no_graph(bundle):
    with pytest.raises(UsageError, match=r"a bundle holds no graph.*`ondevice show sd14 --after graph`"):
        report.of_bundle(bundle, "graph")


def test_skipped_matches_of_a_bundle_are_fallbacks(tmp_path):
    path = write_tiny(tmp_path / "t")
    assert report.of_bundle(open_bundle(path), "plan")[0].fallbacks == [
        "tiny: FirstRule left 3 alone: the axis is not the last"
    ]
    edit_json(path, "bundle.json", lambda manifest: manifest["components"]["tiny"].pop("rewrite") and None)
    assert report.of_bundle(open_bundle(path), "plan")[0].fallbacks == []


def test_text_says_the_same_as_json():
    of_plan = report.of_plan(tiny_plan(1000))
    head, counts, *table = report.to_text(of_plan, rows=True).splitlines()
    assert head == "tiny after plan, width=1000, f16"
    assert counts == "  3 dispatches, 0.0 GFLOP, 0.0 MB moved (0.0 read, 0.0 written), 0.0 MB weights, 0.0 MB arena"
    assert table[0].split() == ["op", "kernel", "count", "GFLOP", "MB", "moved"]
    line = "Add scale_add 1000x1x1/4x1x1 f32[1000], f16[4] -> f32[1,1000] 2,000 flop 4,008 B in 4,000 B out  /first/Add"
    assert table[-3].split(maxsplit=1) == ["0", line]
    assert json.loads(json.dumps(of_plan.to_json(rows=True)))["rows"][0]["name"] == "/first/Add"


def test_columns():
    assert report.columns([("a", "b", "n"), ("x", "", "10"), ("yy", "", "9")]) == ["a    n", "x   10", "yy   9"]
    assert report.columns([("a", "b")]) == ["a  b"]
