"""Stable Diffusion 3: its weights, names and configs, its single files with and without T5, its folder with three
tokenizers, and what fits what."""

import gzip
import json

import numpy as np
import pytest
from checkpoint_files import DATA, message, write_safetensors
from family_files import TINY, convert_as, original, same, tiny_of, write_tree

from ondevice import cli
from ondevice.compiler.jobs import bundle_jobs
from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.converters.families.sd3 import without_t5
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.adapters import with_adapters
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.controlnets import with_controlnets
from ondevice.converters.read.parts import text_encoders_in
from ondevice.converters.source import Source, with_clip_skip
from ondevice.errors import CheckpointError, UsageError, WeightsError
from ondevice.graph.verify import verify_graph

SD3, SMALLER = FAMILIES["sd3"], FAMILIES["sd3-without-t5"]
CONFIGS = TINY["sd3"]
COUNTS = {"sd3": 2_028_328_000, "sd35-medium": 2_243_171_520, "sd35-large": 8_056_627_520}


@pytest.fixture(scope="module")
def tiny():
    return random_checkpoint_from_configs(**CONFIGS, seed=5, family="sd3")


def test_names_and_shapes_equal_the_published_map():
    lines = gzip.decompress((DATA / "maps" / "sd3_medium.tsv.gz").read_bytes()).decode().splitlines()
    rows = {tuple(row[:2]): row[2:] for row in (line.split("\t") for line in lines)}
    assert rows.pop(("transformer", "pos_embed.pos_embed"))[0] == "1x36864x1536"  # made again
    seen = set()
    for part in (part for part in SD3.parts if part != "vae"):
        config, about = SD3.config(part), SD3.parts[part]
        places = about.original_names(config)
        for name, shape in about.architecture.weights(config).items():
            seen.add((part, name))
            if (part, name) == ("text_encoder", "text_projection.weight"):
                continue  # no such file has it
            sizes, operation, source, *cut = rows[part, name]
            place = places[name]
            assert ("x".join(map(str, shape)), source) == (sizes, place.name)
            assert (operation == "swap_halves", operation == "slice_rows") == (place.swapped, place.parts == 3)
            assert not cut or [int(row) for row in cut] == [place.part * shape[0], (place.part + 1) * shape[0]]
    assert seen >= set(rows)


@pytest.mark.parametrize("name", COUNTS)
def test_the_denoisers_have_as_many_weights_as_is_published(name):
    network = FAMILIES[name].parts["transformer"].architecture
    count = sum(int(np.prod(shape)) for shape in network.weights(FAMILIES[name].config("transformer")).values())
    assert abs(count - COUNTS[name]) <= 0.001 * COUNTS[name]


def test_a_picture_leaves_as_many_calls_as_in_diffusers(tiny):
    """A part of a call is one: `int(max(steps - steps * strength, 0))` are left out."""
    assert build(tiny).pipeline()["latents"]["rounds"] == "up"


def test_its_graphs(tiny):
    model = build(tiny)
    assert model.roles[-5:] == ("condition", "modulation", "transformer", "vae_decoder", "vae_encoder")
    used = set()
    for role in model.roles:
        graph = model.graph(role, batch=2, **({"height": 4, "width": 6} if model.sized(role) else {}))
        verify_graph(graph)
        if SD3.roles[role].part == "transformer":
            used |= {name.split(":")[0].removesuffix(".T") for name in graph.graph.initializers}
    assert used >= set(tiny.components["transformer"].weights)


def test_a_folder_with_and_without_t5(tmp_path, tiny):
    write_tree(tmp_path / "m", tiny, SD3, CONFIGS)
    table = {"pos_embed.pos_embed": np.zeros((1, 36, 16), "f4")}
    arrays = {name: tensor.numpy() for name, tensor in tiny.components["transformer"].weights.items()}
    path = tmp_path / "m" / "transformer" / "diffusion_pytorch_model.safetensors"
    write_safetensors(path, arrays | table)
    found = open_checkpoint(tmp_path / "m", family="sd3")
    same(found, tiny)
    assert found.tokenizers == tiny.tokenizers and not any("pos_embed" in note for note in found.notes)
    assert set(found.tokenizers["tokenizer_3"]) == {"unigram.json", "charsmap.bin"}
    smaller = open_checkpoint(tmp_path / "m", family="sd3-without-t5")
    assert list(smaller.components) == ["text_encoder", "text_encoder_2", "transformer", "vae"]
    assert list(smaller.tokenizers) == ["tokenizer", "tokenizer_2"]
    said = message(lambda: open_checkpoint(tmp_path / "m", family="sdxl"))
    assert "this is Stable Diffusion 3, not Stable Diffusion XL" in said and convert_as(SD3.title) in said
    for name in ("unigram.json", "charsmap.bin"):
        (tmp_path / "m" / "tokenizer_3" / name).unlink()
    for name in ("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"):
        (tmp_path / "m" / "tokenizer_3" / name).write_bytes(SD3.tokenizer()[name])
    said = message(lambda: open_checkpoint(tmp_path / "m", family="sd3"))
    assert "not T5's tokenizer (got 'CLIPTokenizer', expected 'T5Tokenizer')" in said


def single(tmp_path, tiny, *without):
    """A single file and the tiny family that it is of."""
    arrays, family = original(tiny, SD3), tiny_of(SD3, tmp_path / "family", CONFIGS)
    arrays = {name: array for name, array in arrays.items() if not name.startswith(without or ("-",))}
    arrays["model.diffusion_model.pos_embed"] = np.zeros((1, 36, 16), "f4")
    path = tmp_path / f"m{len(arrays)}.safetensors"
    write_safetensors(path, arrays)
    return path, family, arrays


def test_a_single_file(tmp_path, tiny):
    path, family, arrays = single(tmp_path, tiny)
    assert arrays["model.diffusion_model.joint_blocks.0.x_block.attn2.qkv.weight"].shape == (48, 16)
    arrays["text_encoders.t5xxl.transformer.encoder.embed_tokens.weight"] = np.zeros((32100, 48), "f4")
    write_safetensors(path, arrays)
    same(open_checkpoint(path, family=family), tiny)
    assert convert_as(SD3.title) in message(lambda: open_checkpoint(path, family="sdxl"))


def test_a_single_file_without_a_projection_changes_nothing_of_the_pooled_text(tmp_path, tiny):
    path, family, _ = single(tmp_path, tiny, "text_encoders.clip_l.transformer.text_projection")
    found = open_checkpoint(path, family=family).components["text_encoder"]
    np.testing.assert_array_equal(found.weights["text_projection.weight"].numpy(), np.eye(20))
    path, family, _ = single(tmp_path, tiny, "text_encoders.clip_g.transformer.text_projection")
    said = message(lambda: open_checkpoint(path, family=family), WeightsError)
    assert "1 missing: text_projection.weight" in said


def test_a_single_file_without_t5_is_of_the_smaller_family(tmp_path, tiny):
    path, family, _ = single(tmp_path, tiny, "text_encoders.t5xxl.")
    assert "no weights named text_encoders.t5xxl.transformer....). Fix: convert it as sd3-without-t5" in message(
        lambda: open_checkpoint(path, family=family)
    )
    smaller = tiny_of(SMALLER, tmp_path / "smaller", TINY["sd3-without-t5"])
    found = open_checkpoint(path, family=smaller)
    assert list(found.components) == list(SMALLER.parts)
    whole, _, _ = single(tmp_path, tiny)
    same(open_checkpoint(whole, family=smaller), found)


def test_a_single_file_without_text_encoders_takes_them_from_a_folder(tmp_path, tiny):
    path, family, _ = single(tmp_path, tiny, "text_encoders.")
    said = message(lambda: open_checkpoint(path, family=family))
    assert "the file holds no text encoders (no weights named text_encoders.clip_l.transformer...., text" in said
    assert "Fix: add --text-encoders FOLDER, of a diffusers folder or of files of their own, or use a file" in said
    write_tree(tmp_path / "m", tiny, SD3, CONFIGS)
    same(open_checkpoint(path, family=family, text_encoder=text_encoders_in(tmp_path / "m", family)), tiny)
    apart = tmp_path / "text_encoders"
    apart.mkdir()
    for part, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g"), ("text_encoder_3", "t5xxl_fp16")):
        arrays = {one: tensor.numpy() for one, tensor in tiny.components[part].weights.items()}
        write_safetensors(apart / f"{name}.safetensors", arrays)
    same(open_checkpoint(path, family=family, text_encoder=text_encoders_in(apart, family)), tiny)
    smaller = tiny_of(SMALLER, tmp_path / "smaller", TINY["sd3-without-t5"])
    assert list(
        open_checkpoint(path, family=smaller, text_encoder=text_encoders_in(apart, smaller)).components
    ) == list(SMALLER.parts)
    (apart / "clip_g.safetensors").rename(apart / "clip.safetensors")
    assert (
        "lacks a text encoder (got none, expected text_encoder_2/ or one clip_g*.safetensors). Fix: add it"
        in message(lambda: open_checkpoint(path, family=family, text_encoder=text_encoders_in(apart, family)))
    )
    for number in "ab":
        (apart / f"clip_g_{number}.safetensors").touch()
    assert "(got clip_g_a.safetensors, clip_g_b.safetensors, expected" in message(
        lambda: open_checkpoint(path, family=family, text_encoder=text_encoders_in(apart, family))
    )
    assert "there is no such folder" in message(lambda: text_encoders_in(path, family))
    with pytest.raises(UsageError, match=r"sd15 has one text encoder\. Fix: give it with --text-encoder\."):
        Source("sd15", str(path), text_encoders=str(apart)).open()


def test_a_file_with_its_text_encoders_or_beside_them_is_one_bundle(tmp_path, tiny, monkeypatch):
    """Through the command; without T5, which may be in the file, it is the same but for T5."""
    whole, family, _ = single(tmp_path, tiny)
    alone = single(tmp_path, tiny, "text_encoders.")[0]
    write_tree(tmp_path / "m", tiny, SD3, CONFIGS)
    monkeypatch.setitem(FAMILIES, "sd3", family)
    monkeypatch.setitem(FAMILIES, "sd3-without-t5", without_t5(family))

    def made(name, checkpoint, *words):
        out = tmp_path / f"{checkpoint.stem}-{name}.ondevice"
        words = [name, "--checkpoint", checkpoint, "--size", "24x16", *words, "--out", out]
        assert cli.main(["convert", *map(str, words)]) == 0
        found = json.loads((out / "bundle.json").read_text())
        return {key: found[key] for key in ("weights", "plans", "files", "pipeline", "modules")}

    bundle = made("sd3", whole)
    assert made("sd3", alone, "--text-encoders", tmp_path / "m") == bundle
    smaller = made("sd3-without-t5", whole)
    assert bundle["modules"].keys() - smaller["modules"].keys() == {"text_encoder_3"}
    for part in ("text_encoder", "text_encoder_2", "vae_decoder"):
        (name,) = (name for name in bundle["files"] if name.startswith(f"weights/{part}-"))
        assert smaller["files"][name] == bundle["files"][name]


FUSED = (
    "joint_blocks.0.x_block.attn.qkv",
    "joint_blocks.0.x_block.attn2.qkv",
    "joint_blocks.2.context_block.attn.qkv",
    "joint_blocks.1.context_block.mlp.fc1",
    "joint_blocks.2.context_block.adaLN_modulation.1",  # whose halves are the other way round here
    "final_layer.adaLN_modulation.1",
)


def fused_adapter(arrays, kind):
    """An adapter as kohya's tools write it for Stable Diffusion 3, and what it adds to the single file's weights."""
    rng, file, change = np.random.default_rng(8), {}, {}
    for name in FUSED:
        shape = arrays[f"model.diffusion_model.{name}.weight"].shape
        module = f"lora_unet_{name.replace('.', '_')}"
        up, down, up2, down2 = (rng.standard_normal(s).astype("f4") for s in 2 * ((shape[0], 2), (2, shape[1])))
        change[f"model.diffusion_model.{name}.weight"] = up @ down * (up2 @ down2 if kind == "loha" else 1) * 0.5
        slots = {"lora_up.weight": up, "lora_down.weight": down}
        if kind == "loha":
            slots = {"hada_w1_a": up, "hada_w1_b": down, "hada_w2_a": up2, "hada_w2_b": down2}
        elif kind == "diff":
            slots = {"diff": change[f"model.diffusion_model.{name}.weight"]}
        alpha = {} if kind == "diff" else {"alpha": np.float32(1)}
        file |= {f"{module}.{slot}": array for slot, array in (slots | alpha).items()}
    return file, change


@pytest.mark.parametrize("kind", ["lora", "loha", "diff"])
def test_adapters_of_fused_layers_change_what_they_change_in_the_single_file(tmp_path, tiny, kind):
    path, family, arrays = single(tmp_path, tiny)
    file, change = fused_adapter(arrays, kind)
    write_safetensors(tmp_path / "a.safetensors", file)
    changed = with_adapters(open_checkpoint(path, family=family), [str(tmp_path / "a.safetensors")])
    assert changed.adapters == ("a.safetensors at 1: 6 of 6 applied",)
    path = tmp_path / "changed.safetensors"
    write_safetensors(path, arrays | {name: arrays[name] + one for name, one in change.items()})
    expected = open_checkpoint(path, family=family).components["transformer"].weights
    differ = 0
    for name, tensor in changed.components["transformer"].weights.items():
        np.testing.assert_allclose(tensor.numpy(), expected[name].numpy(), rtol=0, atol=2e-6, err_msg=name)
        differ += bool(np.abs(tensor.numpy() - tiny.components["transformer"].weights[name].numpy()).max() > 0.1)
    assert differ == 3 * 3 + 3


@pytest.mark.parametrize(
    ("part", "changes", "what"),
    [
        ("transformer", {"joint_attention_dim": 40}, "joint_attention_dim is not the text_encoder_3's d_model (got 40"),
        ("text_encoder", {"projection_dim": 11}, "the sum of the text encoders' projection_dim (got 30, expected 21)"),
        ("transformer", {"in_channels": 5}, "transformer's in_channels is not the vae's latent_channels (got 5"),
        ("transformer", {"caption_projection_dim": 24}, "caption_projection_dim 24 is not num_attention_heads times"),
        ("transformer", {"dual_attention_layers": [3]}, "dual_attention_layers names layer 3, and there are 3"),
        ("transformer", {"qk_norm": "layer_norm"}, "'qk_norm' is not supported (got 'layer_norm'"),
        ("transformer", {"sample_size": 1}, "sample_size 1 is less than patch_size 2"),
        ("transformer", {"attention_head_dim": 3, "caption_projection_dim": 6}, "is 6, no multiple of 4"),
        ("text_encoder_3", {"feed_forward_proj": "relu"}, "'feed_forward_proj' is not supported (got 'relu'"),
        ("text_encoder_3", {"relative_attention_num_buckets": 30}, "a multiple of 4 from 4 to 1024"),
        ("text_encoder_3", {"relative_attention_max_distance": 8}, "is within the buckets of one place each (8)"),
        ("text_encoder_2", {"hidden_size": 40, "num_attention_heads": 2}, "hidden_size together fill"),
    ],
)
def test_configs_that_do_not_fit(part, changes, what):
    with pytest.raises(CheckpointError) as caught:
        random_checkpoint_from_configs(**CONFIGS | {part: CONFIGS[part] | changes}, seed=1, family="sd3")
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (lambda c: with_clip_skip(c, 1), "--clip-skip: sd3 leaves no layers out: diffusers does of a prompt"),
        (lambda c: with_controlnets(c, ["x"]), "--controlnet: sd3 has no UNet"),
        (lambda c: build(c, published=True), "--format: Stable Diffusion 3 is not written in other formats"),
        (lambda c: bundle_jobs(build(c), [(16, 16)], 0, [], chunks=2), "texts of several lengths at once"),
        (lambda c: bundle_jobs(build(c), [(16, 18)], 0, []), "16x18 is not a multiple of 4 pixels (got 18)"),
        (lambda c: build(c).graph("transformer", height=14, width=4), "it has 2x7 patches (expected at most 6 a side"),
    ],
)
def test_what_it_does_not_do(tiny, ask, what):
    with pytest.raises(UsageError) as caught:
        ask(tiny)
    assert what in str(caught.value)
