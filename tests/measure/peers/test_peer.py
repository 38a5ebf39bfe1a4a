"""The table of peers, what all of them compute, and a worker's own side."""

import importlib.metadata
import io
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from tiny_model import TINY

from ondevice.bundle.in_memory import MemoryBundle, weight_sources
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Job, Recipe
from ondevice.compiler.programs import programs
from ondevice.converters import build
from ondevice.converters.component import Component
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.source import Source
from ondevice.errors import PeerError, UsageError
from ondevice.graph.inputs import inputs_of
from ondevice.lower.kernel_file import load_all
from ondevice.measure.peers import litert, onnxruntime_cpu, ours, peer, worker
from ondevice.measure.peers.figures import difference
from ondevice.measure.peers.peer import PEERS, STAMP, Loaded, Peer, Task, named, package_digest, stamp
from ondevice.target import AUTO, load_target

DEMO = Source("demo")
TASK = Task(DEMO, "vae_decoder", {"batch": 1, "height": 3, "width": 2})


def test_names():
    assert [peer.name for peer in named(None)] == list(PEERS) and [peer.name for peer in named("torch,ours")] == [
        "torch",
        "ours",
    ]
    for wrong, why in (
        ("ours,tvm", "there is no peer tvm (expected some of ours, "),
        ("ours,ours", "each peer once"),
        ("", "each peer once"),
    ):
        with pytest.raises(UsageError) as caught:
            named(wrong)
        assert "--only: " in str(caught.value) and why in str(caught.value)


def test_nothing_heavy_is_imported_to_look_at_a_peer():
    for one in PEERS.values():
        assert stamp(one)["sources"]
    assert not {"ncnn", "openvino", "pnnx"} & sys.modules.keys()


def test_who_reads_the_same_files_converts_alike():
    assert stamp(PEERS["onnxruntime"]) == stamp(PEERS["openvino"]) == stamp(PEERS["openvino-default"])


def test_other_weights_or_sizes_are_another_task(tmp_path):
    others = [
        Task(DEMO, "vae_decoder", {"batch": 1, "height": 4, "width": 2}),
        Task(DEMO, "text_encoder", {"batch": 1}),
        Task(replace(DEMO, random_weights=1), "vae_decoder", TASK.sizes),
        Task(replace(DEMO, random_weights=2), "vae_decoder", TASK.sizes),
    ]
    assert len({task.key() for task in (TASK, *others)}) == 5
    TASK.write(tmp_path / "task.json")
    assert Task.read(tmp_path / "task.json") == TASK


BIAS, MATRIX = "decoder.conv_in.bias", "decoder.conv_in.weight"


def test_the_key_is_that_of_the_weights_and_of_where_they_are_from(monkeypatch):
    checkpoint = random_checkpoint_from_configs(**TINY, seed=1)
    vae = checkpoint.components["vae"]

    def key(component="vae", weights=vae.weights, config=vae.config, **changes):
        other = replace(
            checkpoint, components=checkpoint.components | {component: Component(config, weights)}, **changes
        )
        monkeypatch.setattr(Task, "checkpoint", lambda self: other)
        return TASK.key()

    def changed(name):
        values = vae.weights[name].numpy().copy()
        values.flat[-1] += 1
        return vae.weights | {name: ir.tensor(values, name=name)}

    renamed = {name.replace("conv_in.", "conv_first."): tensor for name, tensor in vae.weights.items()}
    others = [
        key(weights=changed(BIAS)),
        key(weights=renamed),
        key(config=vae.config | {"x": 1}),
        key(source="b"),
        key(family="b"),
    ]
    assert len({key(), *others}) == 6
    # All training moves biases; a matrix is not read, which would take longer than most conversions. Nor is
    # another component.
    unread = ir.LazyTensor(
        lambda: pytest.fail("it was read"), dtype=ir.DataType.FLOAT, shape=vae.weights[MATRIX].shape, name=MATRIX
    )
    assert key() == key(weights=vae.weights | {MATRIX: unread}) == key("unet", weights={}, config={})


def test_a_conversion_is_done_again_with_other_packages_or_sources(monkeypatch, tmp_path):
    ncnn = replace(PEERS["ncnn"], packages=("numpy",), to_convert=("pytest", "no_such_package"))
    before = stamp(ncnn)
    assert before["versions"] == {"pytest": pytest.__version__}, "what it runs on changes nothing that was converted"
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{name} 2")
    assert stamp(ncnn) == before | {"versions": {"pytest": "pytest 2"}}
    assert ncnn.versions() == {"numpy": "numpy 2", "pytest": "pytest 2"}


def test_a_task_names_files_whole(tmp_path, monkeypatch):
    """A worker has another working directory; a name on the hub is none of a file."""
    (tmp_path / "m.safetensors").write_text("")
    monkeypatch.chdir(tmp_path)
    given = Source("sd15", checkpoint="m.safetensors", vae="owner/name", ema=True)
    assert given.resolved() == replace(given, checkpoint=str(tmp_path.resolve() / "m.safetensors"))


def test_any_change_of_the_package_is_another_stamp(tmp_path, monkeypatch):
    for folder in ("ondevice/lower", "converters", "shaders/prelude"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(peer, "_FOLDERS", {name: tmp_path / name for name in ("ondevice", "converters", "shaders")})
    (tmp_path / "ondevice" / "lower" / "a.py").write_text("x = 1")
    seen = {package_digest.__wrapped__()}
    for name, text in (
        ("ondevice/lower/a.py", "x = 2"),
        ("ondevice/lower/b.py", ""),
        ("converters/a.py", ""),
        ("shaders/prelude/p.h", ""),
    ):
        (tmp_path / name).write_text(text)
        seen.add(package_digest.__wrapped__())
    assert len(seen) == 5
    (tmp_path / "ondevice" / "lower" / "__pycache__").mkdir()
    (tmp_path / "ondevice" / "lower" / "__pycache__" / "a.pyc").write_text("")
    assert package_digest.__wrapped__() in seen, "what Python makes of it is none of it"
    shutil.rmtree(tmp_path / "shaders")
    with pytest.raises(PeerError, match="the package's folder shaders is missing"):
        package_digest.__wrapped__()


def test_inputs_are_the_same_every_time():
    for component, sizes in (("unet", {"batch": 1, "height": 4, "width": 4}), ("text_encoder", {"batch": 1})):
        once, again = (inputs_of(Task(DEMO, component, sizes).graph()) for _ in range(2))
        assert once.keys() == again.keys() and all((once[name] == again[name]).all() for name in once)
    assert once["input_ids"].dtype == np.int32 and once["input_ids"].max() > 300


def test_differences():
    got = difference(np.float32([1, 2]), np.float32([1, -4]), "x")
    assert (got.max_abs, got.rms, got.scale) == (6.0, pytest.approx(18**0.5), 4.0)
    assert difference(np.float32([1]), np.float32([1, 1]), "x").max_abs == float("inf")


class Doubler:
    """A peer's module."""

    def convert(self, task, folder, option):
        (folder / "made").write_text(f"{task.component} {option}")

    def load(self, folder, inputs, threads, option):
        assert (folder / "made").read_text() == "vae_decoder twice" and threads == 2
        return Loaded(lambda: 2 * inputs["latent_sample"], once_s=0.5)


@pytest.fixture
def doubler(monkeypatch, tmp_path):
    peer = Peer("doubler", "", "onnxruntime_cpu", "doubled", "twice")
    monkeypatch.setitem(PEERS, "doubler", peer)
    monkeypatch.setattr(Peer, "load_module", lambda self: Doubler())
    TASK.write(tmp_path / "task.json")
    np.savez(tmp_path / "inputs.npz", latent_sample=np.float32([[1, 2]]))
    return tmp_path


def test_a_worker_converts_then_serves(doubler):
    worker.convert("doubler", doubler)
    assert json.loads((doubler / "doubled" / STAMP).read_text()) == stamp(PEERS["doubler"])
    answers = io.StringIO()
    requests = io.StringIO(f"save {doubler}/x.npy\nrun\nsave {doubler}/x.npy\nmemory\ndance\n")
    worker.serve("doubler", doubler, 2, requests, answers)
    loaded, early, ran, saved, memory, wrong = map(json.loads, answers.getvalue().splitlines())
    assert (
        loaded["loaded"] >= 0
        and loaded["once"] == 0.5
        and ran["seconds"] > 0
        and ran["cpu_seconds"] >= 0
        and memory["peak"] > 1 << 20
    )
    assert (
        "not a request" in early["error"] and "not a request: 'dance'" in wrong["error"] and "x.npy" in saved["saved"]
    )
    np.testing.assert_array_equal(np.load(doubler / "x.npy"), [[2, 4]])


def test_a_failed_conversion_leaves_nothing(doubler, monkeypatch):
    monkeypatch.setattr(Doubler, "convert", lambda self, task, folder, option: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.convert("doubler", doubler)
    assert not (doubler / "doubled").exists() and len(list(doubler.iterdir())) == 2


def test_a_bundle_in_memory_is_the_written_one(tmp_path):
    ours.convert(TASK, tmp_path, "f16")
    written = open_bundle(tmp_path / "bundle", verify=True)
    kernels = load_all()
    (compiled,) = programs(
        build(TASK.checkpoint()), Recipe("f16", target=load_target(AUTO)), [Job(TASK.component, TASK.sizes)]
    )
    plan = compiled.plan()
    memory = MemoryBundle([plan], weight_sources(compiled.program), kernels)
    assert memory.plan("vae_decoder", **TASK.sizes) == plan == written.plan("vae_decoder", **TASK.sizes)
    for key in {operand.weight for operand in plan.operands} - {None}:
        (shard, start, size), (other, begin, same) = memory.weight(key), written.weight(key)
        assert (
            size == same
            and (memory.shard(shard)[start : start + size] == written.shard(other)[begin : begin + size]).all()
        )
    kernel = plan.kernels[0]
    strip = [
        source.split() for source in (held.source(kernel.file, "opencl", kernel.defines) for held in (memory, written))
    ]
    assert (
        strip[0] == strip[1] and memory.shard(shard).ctypes.data % 4096 == 0 and not memory.shard(shard).flags.writeable
    )


def test_litert_takes_and_gives_what_others_do(tmp_path):
    row, results = PEERS["litert"], []
    assert not row.missing() and row.versions()["ai_edge_litert"]
    for name, module in (("litert", litert), ("onnx", onnxruntime_cpu)):
        (tmp_path / name).mkdir()
        module.convert(TASK, tmp_path / name, "")
        results.append(module.load(tmp_path / name, inputs_of(TASK.graph()), 1, "").run())
    found = difference(*results, "onnxruntime")
    assert results[0].shape == results[1].shape and found.max_abs < 1e-5 * found.scale


def test_ours_computes_once_per_text_what_others_do_in_each_run(tmp_path):
    task = Task(DEMO, "unet", {"batch": 1, "height": 8, "width": 6})
    given, loaded = inputs_of(task.graph()), {}
    assert list(given) == ["sample", "timestep", "encoder_hidden_states"]
    for name, module, option in (("ours", ours, "f32"), ("onnx", onnxruntime_cpu, "")):
        (tmp_path / name).mkdir()
        module.convert(task, tmp_path / name, option)
        loaded[name] = module.load(tmp_path / name, given, 1, option)
    assert [entry.component for entry in open_bundle(tmp_path / "ours" / "bundle").plans] == ["keys_values", "unet"]
    assert loaded["ours"].once_s > 0 == loaded["onnx"].once_s
    first, again = loaded["ours"].run(), loaded["ours"].run()
    found = difference(first, loaded["onnx"].run(), "onnxruntime")
    assert found.max_abs < 1e-5 * found.scale and np.array_equal(first, again)
