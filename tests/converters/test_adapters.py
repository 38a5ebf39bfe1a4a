"""Adapters in every layout of files: what they do to weights, and what they are refused for."""

import gzip
import json

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from checkpoint_files import DATA, message, safetensors_bytes, write_safetensors
from recipe_weights import case, uniform, weights

from ondevice.bundle.changed import change_of
from ondevice.bundle.format import Checker
from ondevice.bundle.made_file import dump_modules, parse_modules
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.component import Checkpoint, Component
from ondevice.converters.families import FAMILIES
from ondevice.converters.random_weights import random_checkpoint
from ondevice.converters.read.adapter_names import modules_of, spellings
from ondevice.converters.read.adapters import read_adapter, split_scale, with_adapters, with_carried
from ondevice.converters.source import Source
from ondevice.errors import UsageError
from ondevice.graph import reference

SD15 = FAMILIES["sd15"]
ABOUT, _, ARRAYS = case("lora")
SALTS = {"unet": "sd15/unet", "text_encoder": "lora/text_encoder"}


@pytest.fixture(scope="module")
def checkpoint():
    components = {}
    for part, salt in SALTS.items():
        config = SD15.normalize(part, ABOUT[part], "test")
        components[part] = Component(config, weights(SD15.parts[part].architecture, config, salt))
    tokenizers = {"tokenizer": SD15.tokenizer()}
    return Checkpoint(components, {}, tokenizers, "sd15", "test")


def adapter(checkpoint, name):
    """{(part, module): (down, up, alpha)} of one of the recorded adapters."""
    about, found = ABOUT["adapters"][name], {}
    modules = [(part, module) for part in ("unet", "text_encoder") for module in about[part]]
    for (part, module), rank, alpha in zip(modules, about["ranks"], about["alphas"], strict=True):
        shape = checkpoint.components[part].weights[f"{module}.weight"].shape.numpy()
        down = np.float32(0.5) * uniform(f"lora/{name}", f"{part}.{module}.down", (rank, *shape[1:]))
        ones = (1, 1) if len(shape) == 4 else ()
        up = np.float32(0.5) * uniform(f"lora/{name}", f"{part}.{module}.up", (shape[0], rank, *ones))
        found[part, module] = (down, up, alpha)
    return found


def kohya(terms, alphas=None):
    heads, found = {"unet": "lora_unet_", "text_encoder": "lora_te_"}, {}
    for place, ((part, module), (down, up, alpha)) in enumerate(terms.items()):
        name = heads[part] + module.replace(".", "_")
        alpha = np.float32(alpha if alphas is None else alphas[place])
        found |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha}
    return found


def dotted(terms, down=".lora_A.weight", up=".lora_B.weight"):
    return {
        f"{part}.{module}{ending}": array
        for (part, module), pair in terms.items()
        for ending, array in zip((down, up), pair, strict=False)
    }


def processors(terms):
    found = {}
    for (part, module), (down, up, _) in terms.items():
        head, name = module.removesuffix(".0").rsplit(".", 1)
        at = f"{part}.{head}.processor.{name}_lora"
        found |= {f"{at}.down.weight": down, f"{at}.up.weight": up}
    return found


def run(checkpoint, part):
    """The float64 result of one of the two networks on the recorded inputs."""
    role, network = {"unet": "unet", "text_encoder": "text_encoder"}[part], SD15.parts[part].architecture
    component = checkpoint.components[part]
    sizes = {"batch": 1, "height": 8, "width": 12, "tokens": 77}
    graph = SD15.graph(role)
    model = graph.build(
        GraphBuilder(role, component.weights), component.config, **{name: sizes[name] for name in graph.sizes}
    )
    assert network.weights(component.config).keys() == component.weights.keys()
    if part == "text_encoder":
        return reference.run(model, {"input_ids": ARRAYS["in.ids"]})["last_hidden_state"]
    inputs = {name: ARRAYS[f"in.{name}"] for name in ("sample", "encoder_hidden_states")}
    return reference.run(model, inputs | {"timestep": np.float32([741])})["out_sample"]


@pytest.mark.parametrize(
    "name, files",
    [
        ("kohya_a", {"a": 1.0}),
        ("locon_c", {"c": 1.0}),
        ("fused_a0.3_b0.7_scale0.5", {"a": 0.15, "b": 0.35}),
        ("formula_alphas_2_3_4", {"a": 1.0}),
    ],
)
def test_networks_give_what_the_reference_gave(checkpoint, tmp_path, name, files):
    given = []
    for file, scale in files.items():
        terms = adapter(checkpoint, file)
        counts = {part: sum(one == part for one, _ in terms) for part in SALTS}
        by_place = [2 + place % 3 for count in counts.values() for place in range(count)]
        arrays = kohya(terms, by_place if "alphas" in name else None)
        write_safetensors(tmp_path / f"{file}.safetensors", arrays)
        given.append(f"{tmp_path / file}.safetensors:{scale}")
    changed = with_adapters(checkpoint, given)
    assert not changed.notes and len(changed.adapters) == len(files)
    for part, short in (("unet", "unet"), ("text_encoder", "text")):
        expected, base = ARRAYS[f"out.{name}.{short}"], ARRAYS[f"out.base.{short}"]
        found = run(changed, part)
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        assert np.abs(expected - base).max() > 1e-2 * np.abs(base).max(), "it changes something"


LAYOUTS = {
    "peft": dotted,
    "older": lambda terms: dotted(terms, ".lora.down.weight", ".lora.up.weight"),
    "linear layers": lambda terms: dotted(terms, ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    "peft's own": lambda terms: {
        f"base_model.model.{name.replace('.weight', '.default.weight')}": array for name, array in dotted(terms).items()
    },
    "without text_model": lambda terms: {name.replace("text_model.", ""): one for name, one in dotted(terms).items()},
    "processors": processors,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_without_alpha_say_the_same(checkpoint, tmp_path, layout):
    """The rank is the alpha there: nothing is divided."""
    terms = adapter(checkpoint, "a")
    if layout == "processors":
        terms = {key: term for key, term in terms.items() if key[1].endswith(("to_q", "to_k", "to_v", "to_out.0"))}
    write_safetensors(tmp_path / "a.safetensors", LAYOUTS[layout](terms))
    changed = with_adapters(checkpoint, [f"{tmp_path / 'a.safetensors'}:0.5"])
    assert changed.adapters == (f"a.safetensors at 0.5: {len(terms)} of {len(terms)} applied",)
    for part, module in [next(iter(terms)), list(terms)[-1]]:
        down, up, _ = terms[part, module]
        base = checkpoint.components[part].weights[f"{module}.weight"].numpy()
        found = changed.components[part].weights[f"{module}.weight"].numpy()
        np.testing.assert_allclose(found, base + 0.5 * up @ down, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "config, factor",
    [
        ({"r": 4, "lora_alpha": 8}, 8 / 4),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 8 / 2),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 2}}, 2 / 4),
    ],
)
@pytest.mark.parametrize("place", ["beside", "metadata"])
def test_peft_says_its_alpha(checkpoint, tmp_path, config, factor, place):
    module = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    down, up = np.ones((4, 32), np.float32), np.ones((32, 4), np.float32)
    arrays = {f"unet.{module}.lora_A.weight": down, f"unet.{module}.lora_B.weight": up}
    path = tmp_path / "adapter_model.safetensors"
    write_safetensors(path, arrays)
    if place == "beside":
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    else:
        text = json.dumps({f"unet.{name}": value for name, value in config.items()})
        header = {"__metadata__": {"lora_adapter_metadata": text}}
        for name, array, at in zip(arrays, arrays.values(), (0, down.nbytes), strict=True):
            offsets = [at, at + array.nbytes]
            header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
        path.write_bytes(safetensors_bytes(header, down.tobytes() + up.tobytes()))
    changed = with_adapters(checkpoint, [str(tmp_path if place == "beside" else path)])
    weight = f"{module}.weight"
    change = changed.components["unet"].weights[weight].numpy() - checkpoint.components["unet"].weights[weight].numpy()
    np.testing.assert_allclose(change, 4 * factor, rtol=1e-5)


def test_products_of_two_adapters_and_factors_of_kernels(checkpoint, tmp_path):
    """LoHa, CP and whole differences. Reference: LyCORIS' hada_weight, make_weight_cp and rebuild_tucker."""
    rng = np.random.default_rng(0)
    conv, linear = "down_blocks.0.resnets.0.conv1", "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2"
    shapes = {name: checkpoint.components["unet"].weights[f"{name}.weight"].shape.numpy() for name in (conv, linear)}
    (out, width), (o, i, h, w) = shapes[linear], shapes[conv]

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    kinds = []

    def changed(module, slots, alpha=3.0):
        name = "lora_unet_" + module.replace(".", "_")
        arrays = {f"{name}.{slot}": array for slot, array in slots.items()} | {f"{name}.alpha": np.float32(alpha)}
        write_safetensors(tmp_path / "a.safetensors", arrays)
        weight = with_adapters(checkpoint, [str(tmp_path / "a.safetensors")]).components["unet"].weights
        base = checkpoint.components["unet"].weights[f"{module}.weight"].numpy()
        found = weight[f"{module}.weight"].numpy() - base
        # the same as factors, which a bundle carries
        (change,) = read_adapter(tmp_path / "a.safetensors", modules_of(checkpoint)).changes[f"unet/{module}.weight"]
        assert [one.shape for one in change.read()] == list(change.shapes)
        np.testing.assert_allclose(change_of(base.shape, [(1.0, change)]), found, atol=1e-4)
        kinds.append([len(shape) for shape in change.shapes])
        return found

    a, b, c, d = normal(out, 2), normal(2, width), normal(out, 2), normal(2, width)
    slots = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
    np.testing.assert_allclose(changed(linear, slots), 3 / 2 * (a @ b) * (c @ d), atol=1e-5)
    a, b, c, d, t, u = normal(2, o), normal(2, i), normal(2, o), normal(2, i), normal(2, 2, h, w), normal(2, 2, h, w)
    slots = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "hada_t1": t, "hada_t2": u}
    halves = [np.einsum("ijkl,jr,ip->prkl", mid, right, left) for left, right, mid in ((a, b, t), (c, d, u))]
    np.testing.assert_allclose(changed(conv, slots), 3 / 2 * halves[0] * halves[1], atol=1e-4)
    up, down, mid = normal(o, 2, 1, 1), normal(2, i, 1, 1), normal(2, 2, h, w)
    expected = 3 / 2 * np.einsum("mnwh,im,nj->ijwh", mid, up[..., 0, 0], down[..., 0, 0])
    slots = {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": mid}
    np.testing.assert_allclose(changed(conv, slots), expected, atol=1e-4)
    whole = normal(o, i, h, w)
    np.testing.assert_allclose(changed(conv, {"diff": whole}), whole, atol=1e-5)
    a, b, c, d = normal(out, 9), normal(9, width), normal(out, 9), normal(9, width)  # 81 products of ranks: too many
    changed(linear, {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d})
    assert kinds == [[2, 2], [4], [2, 2], [4], [2]]


@pytest.mark.parametrize(
    "name, family, count",
    [
        ("diffusers_peft_sd15_unet_te_attn_r4", "sd15", 176),
        ("kohya_sd15_locon_r8_c4", "sd15", 350),
        ("kohya_sdxl_r8", "sdxl", 986),
        ("lcm_lora_sdxl_base_r64", "sdxl", 788),
    ],
)
def test_every_module_of_real_files_is_found(tmp_path, name, family, count):
    """By their names and shapes; the file is a hole."""
    lines = gzip.decompress((DATA / "lora" / f"{name}.txt.gz").read_bytes()).decode().splitlines()
    header, at = {}, 0
    for tensor, shape in ((line.split(" ")[0], line.split(" ")[1]) for line in lines):
        sizes = [int(size) for size in shape.split("x") if size]
        end = at + 2 * int(np.prod(sizes, dtype=np.int64))
        header[tensor] = {"dtype": "F16", "shape": sizes, "data_offsets": [at, end]}
        at = end
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_bytes(header, b""))
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + at)
    models = {name: modules_of(random_checkpoint(FAMILIES[name], 0)) for name in ("sd15", "sdxl")}
    found = read_adapter(path, models[family])
    assert (found.applied, found.modules, found.left) == (count, count, ())
    # by what a bundle says of its model, too
    said = parse_modules(Checker("bundle.json"), json.loads(json.dumps(dump_modules(models[family]))))
    assert said == models[family] and read_adapter(path, said).left == ()
    other = models["sdxl" if family == "sd15" else "sd15"]
    said = message(lambda: read_adapter(path, other))
    assert "for another" in said or "trained for this model" in said


def test_what_a_file_has_beyond_the_model_is_said_and_strict_refuses(checkpoint, tmp_path):
    terms = kohya(dict(list(adapter(checkpoint, "b").items())[:2]))
    stray = {"lora_unet_down_blocks_9_proj_in.lora_down.weight": np.zeros((2, 4), np.float32), "foo.bar": np.zeros(2)}
    write_safetensors(tmp_path / "b.safetensors", terms | {name: np.float32(one) for name, one in stray.items()})
    changed = with_adapters(checkpoint, [f"{tmp_path / 'b.safetensors'}"])
    assert changed.adapters == ("b.safetensors at 1: 2 of 4 applied",)
    assert changed.notes == ("b.safetensors: not of this model: lora_unet_down_blocks_9_proj_in, foo.bar",)
    carried = with_carried(checkpoint, [f"{tmp_path / 'b.safetensors'}:mine"])
    assert (carried.said, carried.notes) == (("mine: 2 of 4 carried",), changed.notes)
    assert [len(one.carried.get("mine", ())) for one in (carried, changed)] == [2, 0]


def test_what_is_carried_is_part_of_a_source(tmp_path, monkeypatch):
    """Of the demo model; a process in another folder opens the same file."""
    module = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    ((_, layer, _),) = spellings(modules_of(Source("demo").open()))[module]
    out, width = modules_of(Source("demo").open())["text_encoder"][layer].shape
    pair = {f"{module}.lora_down.weight": np.ones((2, width), np.float16)}
    write_safetensors(tmp_path / "a.safetensors", pair | {f"{module}.lora_up.weight": np.ones((out, 2), np.float16)})
    monkeypatch.chdir(tmp_path)
    source = Source("demo", carry_lora=["a.safetensors:x"]).resolved()
    monkeypatch.chdir("/")
    ((leaf, (change,)),) = source.open().carried["x"].items()
    assert (leaf, change.dtype, change.shapes) == (f"text_encoder/{layer}.weight", "f16", ((out, 2), (2, width)))


NAME = "lora_unet_down_blocks_0_attentions_0_proj_in"
PAIR = {f"{NAME}.lora_down.weight": np.zeros((2, 32, 1, 1)), f"{NAME}.lora_up.weight": np.zeros((32, 2, 1, 1))}


@pytest.mark.parametrize(
    "arrays, words",
    [
        (PAIR | {f"{NAME}.dora_scale": np.ones((1, 32))}, "it is DoRA"),
        ({f"{NAME}.lokr_w1": np.ones((4, 4))}, "it is LoKr"),
        ({"conv_in.weight": np.ones((4, 4))}, "it is no LoRA (it has 1 tensors: conv_in.weight)"),
        ({f"{NAME}.alpha": np.ones(())}, "it is no LoRA"),
        ({"lora_unet_elsewhere.lora_down.weight": np.ones((2, 2))}, "none of its 1 modules is one of this model"),
        ({f"{NAME}.lora_down.weight": np.ones((2, 32, 1, 1))}, "has down (expected down and up)"),
        (PAIR | {f"{NAME}.lora_up.weight": np.ones((32, 3, 1, 1))}, "does not fit the weight (got down [2, 32, 1, 1]"),
        (PAIR | {f"{NAME}.lora_up.weight": np.ones((31, 2, 1, 1))}, "does not fit the weight"),
        (PAIR | {f"{NAME}.lora_up.weight": np.ones((32, 2, 3, 1))}, "does not fit the weight"),
        (PAIR | {f"{NAME}.alpha": np.ones(2)}, "alpha is of shape [2]"),
        (PAIR | {f"{NAME}.alpha": np.float32(np.nan)}, "alpha is nan"),
        (
            PAIR | {f"unet.down_blocks.0.attentions.0.proj_in.lora_{x}.weight": np.ones((32, 32, 1, 1)) for x in "AB"},
            "are one module",
        ),
    ],
)
def test_refused(checkpoint, tmp_path, arrays, words):
    write_safetensors(tmp_path / "a.safetensors", {name: np.float32(array) for name, array in arrays.items()})
    assert words in message(lambda: with_adapters(checkpoint, [str(tmp_path / "a.safetensors")]))


def test_what_is_not_finite_is_refused_when_it_is_read(checkpoint, tmp_path):
    for value in (np.nan, np.inf, 3e38):
        arrays = {name: np.full(array.shape, value, np.float32) for name, array in PAIR.items()}
        write_safetensors(tmp_path / "a.safetensors", arrays)
        changed = with_adapters(checkpoint, [str(tmp_path / "a.safetensors")]).components["unet"].weights
        weight = changed["down_blocks.0.attentions.0.proj_in.weight"]
        assert "holds NaN or infinity" in message(lambda weight=weight: weight.numpy())


def test_scales(checkpoint, tmp_path):
    assert split_scale(f"{tmp_path}/a.safetensors:0.8") == (tmp_path / "a.safetensors", 0.8)
    assert split_scale("a:b.safetensors")[1] == 1.0 and split_scale("a.safetensors:-1e-1")[1] == -0.1
    for scale in ("nan", "inf", "1e9"):
        with pytest.raises(UsageError, match="is no scale"):
            split_scale(f"a.safetensors:{scale}")
    assert "there is no such file" in message(lambda: with_adapters(checkpoint, ["nowhere.safetensors:0.5"]))


def test_half_precision_is_summed_in_single(checkpoint, tmp_path):
    """A base in bfloat16 has no room for the change; the sum has."""
    part = checkpoint.components["unet"]
    weight = "down_blocks.0.attentions.0.proj_in.weight"
    coarse = ir.tensor(part.weights[weight].numpy().astype(ml_dtypes.bfloat16), name=weight)
    base = Checkpoint(
        {"unet": Component(part.config, {**part.weights, weight: coarse})}, {}, checkpoint.tokenizers, "sd15", "test"
    )
    small = {name: np.full(array.shape, 1e-2, np.float32) for name, array in PAIR.items()}
    write_safetensors(tmp_path / "a.safetensors", small)
    changed = with_adapters(base, [str(tmp_path / "a.safetensors")]).components["unet"].weights[weight]
    expected = coarse.numpy().astype(np.float32) + np.float32(2e-4)
    np.testing.assert_allclose(changed.numpy(), expected, rtol=1e-6)
    assert changed.dtype == ir.DataType.FLOAT
