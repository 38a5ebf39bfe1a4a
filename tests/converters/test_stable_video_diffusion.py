"""Stable Video Diffusion's checkpoints: its folder, its single file with two copies of an encoder; what leaves its
steps, and its graphs."""

import numpy as np
import pytest
from checkpoint_files import message, write_safetensors
from family_files import TINY_VIDEO, convert_as, original, same, tiny_of, write_tree

from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.errors import CheckpointError, WeightsError
from ondevice.graph.verify import verify_graph

SVD = FAMILIES["svd"]
ENCODES, KEPT = "conditioner.embedders.3.encoder.", "first_stage_model."


@pytest.fixture(scope="module")
def tiny():
    return random_checkpoint_from_configs(**TINY_VIDEO, seed=6, family="svd")


def test_its_graphs(tiny):
    model, used = build(tiny), set()
    for role in model.roles:
        sizes = {"height": 4, "width": 6} if model.sized(role) else {}
        sizes |= {"frames": 2} if "frames" in model.family.graph(role).sizes else {}
        graph = model.graph(role, **sizes)
        verify_graph(graph)
        part = SVD.roles[role].part if role in SVD.roles else "unet"
        used |= {f"{part}/{name.split(':')[0].removesuffix('.T')}" for name in graph.graph.initializers}
    read = ("mix_factor", ".weight", ".bias")  # in other constants: blenders, and codes of frames
    known = {f"{part}/{name}" for part, component in tiny.components.items() for name in component.weights}
    assert all("time_pos_embed" in name or name.endswith(read[0]) for name in known - used)


def test_what_depends_on_the_picture_alone_leaves_the_step(tiny):
    cut, whole = build(tiny), build(tiny, whole=True)
    assert set(cut.roles) - set(whole.roles) == {"looks"}
    (loop,) = cut.pipeline()["denoise"]
    assert loop["passes"] == [{"zeros": ["looks", "image_latents"]}, {}]
    assert loop["roles"][0]["feed"]["looks"] == {"value": "looks"}
    before = [step["run"] for step in cut.pipeline()["before"] if "run" in step]
    assert before.index("image_encoder") < before.index("looks")
    (loop,) = whole.pipeline()["denoise"]
    assert loop["passes"][0]["zeros"] == ["context", "image_latents"]


def beside(tiny):
    """Weights that do nothing, and that files have: in diffusers' names, the UNet's."""
    channels = tiny.components["unet"].weights["down_blocks.0.attentions.0.proj_in.weight"].shape[0]
    scope = "down_blocks.0.attentions.0"
    names = [f"{scope}.{block}.0.{leaf}" for block in ("transformer_blocks", "temporal_transformer_blocks")
             for leaf in ("attn2.to_q.weight", "attn2.to_k.weight", "norm2.bias")]  # fmt: skip
    return {name: np.zeros((channels, channels), "f4") for name in names}


def test_a_folder(tmp_path, tiny):
    write_tree(tmp_path / "m", tiny, SVD, TINY_VIDEO)
    arrays = {name: tensor.numpy() for name, tensor in tiny.components["unet"].weights.items()}
    path = tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors"
    write_safetensors(path, arrays | beside(tiny))
    found = open_checkpoint(tmp_path / "m", family="svd")
    same(found, tiny)
    assert not [note for note in found.notes if "ignored" in note], "they vanish by design: --strict takes the model"
    said = message(lambda: open_checkpoint(tmp_path / "m", family="sdxl"))
    assert "this is Stable Video Diffusion, not Stable Diffusion XL" in said and convert_as(SVD.title) in said


def single(tmp_path, tiny, *without):
    """A single file, as it is published, and the tiny family that it is of."""
    family, arrays = tiny_of(SVD, tmp_path / "family", TINY_VIDEO), {}
    for name, array in original(tiny, SVD).items():
        inner = name.removeprefix(KEPT)
        if name.startswith(KEPT) and inner.startswith(("encoder.", "quant_conv.")):
            arrays[ENCODES + inner] = array
            if inner.startswith("encoder."):
                arrays[name] = array + 1  # the other copy, which is without quant_conv
        else:
            arrays[name] = array
    unet = family.parts["unet"]
    config = tiny.components["unet"].config
    arrays |= {unet.prefix + unet.layout.place(name, config).name: array for name, array in beside(tiny).items()}
    arrays["conditioner.embedders.0.open_clip.model.logit_scale"] = np.zeros((), "f4")
    arrays["conditioner.embedders.0.open_clip.model.token_embedding.weight"] = np.zeros((9, 2), "f4")
    arrays = {name: array for name, array in arrays.items() if not name.startswith(without or ("-",))}
    path = tmp_path / "m.safetensors"
    write_safetensors(path, arrays)
    return path, family


def test_a_single_file(tmp_path, tiny):
    path, family = single(tmp_path, tiny)
    found = open_checkpoint(path, family=family)
    same(found, tiny)
    said = message(lambda: open_checkpoint(path, family="sd15"))
    assert "this is Stable Video Diffusion" in said and convert_as(SVD.title) in said


@pytest.mark.parametrize(
    ("lacks", "what"),
    [
        (ENCODES + "quant_conv.", "the vae's weights do not match its config; 2 missing: quant_conv.weight"),
        ("conditioner.embedders.0.", "the file holds no image encoder (no weights named conditioner.embedders.0.open_"),
    ],
)
def test_a_single_file_that_lacks_a_part_says_so(tmp_path, tiny, lacks, what):
    path, family = single(tmp_path, tiny, lacks)
    kind = WeightsError if "weights do not match" in what else CheckpointError
    assert what in message(lambda: open_checkpoint(path, family=family), kind)
