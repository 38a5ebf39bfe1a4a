"""ONNX files of free batch, height and width: what they give is what the static graph of each size gives."""

import collections

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from checkpoint_files import ROLES, tiny_checkpoint
from family_files import TINY as FAMILIES_TINY
from onnx_files import change, make_dynamic, parsed, write_onnx_folder
from recipe_weights import case
from recipe_weights import checkpoint as checkpoint_of_recipe
from tiny_model import TINY

from ondevice import Pipeline
from ondevice.compiler.jobs import Job
from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.errors import GraphError, UsageError
from ondevice.export.manifest import read_manifest
from ondevice.export.onnx.dynamic import SAMPLES, freed
from ondevice.export.onnx.half import halve
from ondevice.export.onnx.quantized import quantize
from ondevice.export.onnx.writer import write
from ondevice.export.options import FORMATS, Options
from ondevice.export.writing import export
from ondevice.rewrite import rewrite

# batch, height and width in latent units: odd, and no multiples of what a UNet divides by
PLACES = ((1, 3, 5), (3, 8, 6))
DEEP = TINY["unet"] | {
    "block_out_channels": [6, 12, 18],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"],
}
ODD = {"block_out_channels": [9, 24], "attention_head_dim": 3}  # an odd width ends a time embedding in a zero
MODELS = {
    "sd15-inpaint": TINY | {"unet": DEEP | {"in_channels": 9}},
    "lcm": TINY | {"unet": TINY["unet"] | ODD | {"time_cond_proj_dim": 9}},
    "sdxl": FAMILIES_TINY["sdxl"],
}


def static(model, role, without=(), change=None, **sizes):
    graph = model.graph(role, **{key: size for key, size in sizes.items() if key == "batch" or model.sized(role)})
    rewrite(graph, without=[*without, *FORMATS["onnx"].without])
    if change:
        change(graph)
    return graph


def session(model):
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])


def feeds(graph):
    rng = np.random.default_rng(0)
    found = {}
    for value in graph.graph.inputs:
        shape, dtype = value.shape.numpy(), value.dtype.numpy()
        found[value.name] = (rng.integers(0, 50, shape) if dtype == np.int32 else rng.standard_normal(shape)).astype(
            dtype
        )
    return found


@pytest.mark.parametrize(
    "family, without", [("sd15-inpaint", ()), ("sd15-inpaint", ("all",)), ("lcm", ("all",)), ("sdxl", ())]
)
def test_free_graphs_give_what_static_ones_do(family, without):
    model = build(random_checkpoint_from_configs(**MODELS[family], seed=1, family=family), published=True)
    for role in model.roles:
        free = freed([static(model, role, without, **sizes) for sizes in SAMPLES], role)
        proto = ir.to_proto(free)
        onnx.checker.check_model(proto, full_check=True)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        runs = session(free)
        for batch, height, width in PLACES:
            fixed = static(model, role, without, batch=batch, height=height, width=width)
            given = feeds(fixed)
            for ours, theirs in zip(runs.run(None, given), session(fixed).run(None, given), strict=True):
                assert ours.shape == theirs.shape
                assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max(), f"{role} at {batch, height, width}"


@pytest.mark.parametrize("change", [halve, quantize])
@pytest.mark.parametrize("without", [(), ("all",)], ids=["fused", "plain"])
def test_other_types_have_free_sizes_too(change, without):
    model = build(random_checkpoint_from_configs(**MODELS["lcm"], seed=1, family="lcm"), published=True)
    for role in ("unet", "guidance_waves"):  # an odd width: there zeros of float16 are repeated for every picture
        free = freed([static(model, role, without, change, **sizes) for sizes in SAMPLES], role)
        kinds = {value.dtype for value in free.graph.initializers.values()}
        assert role != "unet" or {halve: ir.DataType.FLOAT16, quantize: ir.DataType.INT8}[change] in kinds
        fixed = static(model, role, without, change, batch=2, height=7, width=4)
        given = feeds(fixed)
        (ours,), (theirs,) = (session(graph).run(None, given) for graph in (free, fixed))
        assert ours.dtype == theirs.dtype and np.abs(ours - theirs).max() <= 2e-3 * np.abs(theirs).max()


def test_a_file_of_other_types_takes_every_size(tmp_path):
    """As the writer makes it: types first, then free sizes."""
    model, job = build(tiny_checkpoint()), Job("vae_decoder", {"batch": 1, "height": 3, "width": 5})
    graph, *others = (static(model, job.component, ("all",), **sizes) for sizes in SAMPLES)
    entry = write(graph, job, tmp_path, Options("fp16", "int8"), others)
    assert entry.sizes == {} and entry.inputs["latent_sample"].dtype == "float16"
    runs = onnxruntime.InferenceSession(tmp_path / entry.files[0], providers=["CPUExecutionProvider"])
    for batch, height, width in PLACES:
        (picture,) = runs.run(None, {"latent_sample": np.ones((batch, 4, height, width), np.float16)})
        assert picture.dtype == np.float16 and picture.shape == (batch, 3, 2 * height, 2 * width)


@pytest.fixture(scope="module")
def checkpoint():
    return tiny_checkpoint()


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """A plain export of free sizes."""
    options = Options(without=["all"], flags={"dynamic": True})
    return export(checkpoint, tmp_path_factory.mktemp("free") / "g", FORMATS["onnx"], options, sizes=[(10, 6)])


def test_a_folder_says_what_is_free(folder):
    entries = {entry.component: entry for entry in read_manifest(folder, tuple(FORMATS)).entries}
    assert [entry.sizes for entry in entries.values()] == [{}] * 4
    unet, encoder = entries["unet"], entries["vae_encoder"]
    assert unet.inputs["sample"].shape == unet.shapes["sample"] == unet.shapes["out_sample"] == (0, 4, 0, 0)
    assert unet.shapes["timestep"] == (1,) and unet.shapes["encoder_hidden_states"] == (0, 77, 20)
    assert entries["text_encoder"].shapes["input_ids"] == (0, 77)
    assert encoder.shapes["sample"] == (0, 3, 0, 0) and encoder.shapes["latent_parameters"] == (0, 8, 0, 0)
    ports = {name: onnx.load(folder / name / "model.onnx", load_external_data=False).graph for name in entries}
    names = {
        name: [
            [dim.dim_param for dim in value.type.tensor_type.shape.dim] for value in (graph.input[0], graph.output[0])
        ]
        for name, graph in ports.items()
    }
    picture, latents = (["batch_size", "", f"{of}_height", f"{of}_width"] for of in ("sample", "latent"))
    assert names["unet"] == [["batch_size", "", "height", "width"]] * 2
    assert names["vae_decoder"] == [latents, picture] and names["vae_encoder"] == [picture, latents]


@pytest.mark.parametrize("role", ROLES)
def test_a_plain_export_is_a_checkpoint_again(folder, checkpoint, role):
    opened = open_checkpoint(folder, family="sd14")
    for batch, height, width in PLACES:
        ours, theirs = (
            static(build(c, whole=True), role, batch=batch, height=height, width=width) for c in (checkpoint, opened)
        )
        assert collections.Counter(n.op_type for n in theirs.graph) == collections.Counter(
            n.op_type for n in ours.graph
        )
        given = feeds(ours)
        (mine,), (again,) = (session(model).run(None, given) for model in (ours, theirs))
        assert np.abs(mine - again).max() <= 1e-5 * np.abs(mine).max()


def test_one_folder_draws_at_every_size(tmp_path):
    """XL, with all passes of guidance at once and with one, against a folder of one size."""
    model, how = (
        checkpoint_of_recipe(FAMILIES["sdxl"], case("sdxl_e2e")[0]["scheduler"]),
        {"num_inference_steps": 2, "seed": 1},
    )
    options = Options(flags={"dynamic": True})
    free = Pipeline.from_export(export(model, tmp_path / "free", FORMATS["onnx"], options, sizes=[(24, 40)]))
    assert free("a horse", **how).pixels.shape == (40, 24, 3)
    fixed = Pipeline.from_export(export(model, tmp_path / "fixed", FORMATS["onnx"], sizes=[(56, 16)]))
    for guidance in (1.0, 5.0):
        asked = how | {"guidance_scale": guidance, "width": 56, "height": 16}
        ours, theirs = (pipeline("a horse", **asked).latents for pipeline in (free, fixed))
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def at_samples(text, **constants):
    """A graph of one node at SAMPLES."""
    return [
        parsed(
            text.format(pixels=sizes["height"] * sizes["width"], **sizes), **{k: f(sizes) for k, f in constants.items()}
        )
        for sizes in SAMPLES
    ]


@pytest.mark.parametrize(
    "text, constants, message",
    [
        (
            "(float[9,{height}] x, int64[1] to, int64[1] i) => (float[9,{batch}] y) {{ y = Slice (x, i, to, i) }}",
            {"to": lambda sizes: [sizes["batch"] + 1], "i": lambda sizes: [1]},
            r"^net: node .*\(Slice\): it reads a constant that is another one at another size, which no free size can",
        ),
        (
            "(float[{height},{width}] x, int64[1] to) => (float[{pixels}] y) {{ y = Reshape (x, to) }}",
            {"to": lambda sizes: [sizes["height"] * sizes["width"]]},
            r"\(Reshape\): y has a size of 12545 and 57921 and 82497",
        ),
        (
            "(float[1,{height}] x, int64[2] to) => (float[{batch},{height}] y) {{ y = Expand (x, to) }}",
            {"to": lambda sizes: [sizes["batch"], sizes["height"]]},
            r"\(Expand\): it has a size of 2 and 3 and 5",
        ),
        (
            "(float[1,2,3,4,5] x) => (float[1,2,3,4,5] y) {{ y = Softmax <axis = -{batch}> (x) }}",
            {},
            r"\(Softmax\): its axis is another at another size",
        ),
    ],
)
def test_what_no_size_explains_is_refused(text, constants, message):
    with pytest.raises(GraphError, match=message):
        freed(at_samples(text, **constants), "net")


def test_graphs_that_are_not_alike_are_refused():
    one, two = "y = Neg (x)", "z = Neg (x) y = Neg (z)"
    models = [parsed(f"(float[2] x) => (float[2] y) {{ {nodes} }}") for nodes in (one, "y = Sqrt (x)", two)]
    with pytest.raises(GraphError, match=r"^net: its graphs have 1 and 1 and 2 nodes.*Fix: leave --dynamic out"):
        freed(models, "net")
    with pytest.raises(GraphError, match=r"\(Neg\): it has another meaning at another size"):
        freed([models[0], models[1], models[0]], "net")


def test_only_onnx_has_free_sizes(tmp_path):
    with pytest.raises(UsageError, match=r"^--dynamic: it is not of TFLite files\. Fix: leave --dynamic out\.$"):
        export(tiny_checkpoint(), tmp_path / "g", FORMATS["tflite"], Options(flags={"dynamic": True}))


def test_a_checkpoint_of_one_size_is_refused(tmp_path):
    folder = write_onnx_folder(tmp_path / "fixed", tiny_checkpoint())
    for what in (r"text_encoder: its input input_ids is fixed to ", r"node .*: its inputs .* do not fit "):
        fixed = open_checkpoint(folder, family="sd14")
        with pytest.raises(
            GraphError, match=f"{what}.* Fix: export it again with dynamic axes, or leave --dynamic out"
        ):
            export(fixed, tmp_path / "g", FORMATS["onnx"], Options(flags={"dynamic": True}), sizes=[(12, 16)])
        for path in folder.glob("*/model.onnx"):
            change(path, make_dynamic)
