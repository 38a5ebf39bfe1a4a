"""Tiny autoencoders: their graphs against outputs that diffusers gave in float64, the names that files have, and where
they may stand in a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import write_json, write_safetensors
from family_files import TINY, same, write_tree
from recipe_weights import case, weights

from ondevice.converters import build
from ondevice.converters.architectures.autoencoder_tiny import AUTOENCODER_TINY, FAST_DECODER
from ondevice.converters.architectures.builder import GraphBuilder
from ondevice.converters.component import Checkpoint, Component
from ondevice.converters.families import FAMILIES, Family
from ondevice.converters.families.tiny import fast_config, with_tiny_vae
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.tiny_files import with_random_taesd, with_taesd
from ondevice.converters.source import Source
from ondevice.errors import CheckpointError, OnDeviceError, UsageError, WeightsError
from ondevice.graph import reference

BOUND = 5e-6  # of the largest value: the vectors are rounded to float32
CONFIG = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [12, 12],
    "num_encoder_blocks": [1, 2],
    "num_decoder_blocks": [2, 1],
}
"""Two pixels per latent, as the tiny models' own autoencoders have."""


def run(graph: str, raw: dict[str, Any], salt: str, array: np.ndarray) -> np.ndarray:
    network = FAST_DECODER if graph == "fast_decoder" else AUTOENCODER_TINY
    config = network.normalize(raw, "test")
    stored = weights(AUTOENCODER_TINY, AUTOENCODER_TINY.normalize(raw, "test"), salt)
    scale = network.scale(config) if graph == "encoder" else 1
    size = {"batch": 1, "height": array.shape[2] // scale, "width": array.shape[3] // scale}
    model = network.graphs[graph].build(GraphBuilder(graph, stored), config, **size)
    (made,) = reference.run(model, {str(model.graph.inputs[0].name): array}).values()
    return made


@pytest.mark.parametrize("name", ["taesd", "taesd3"])
def test_graphs_give_what_diffusers_gave(name: str) -> None:
    raw, salt, arrays = case(name)
    latents, pixels = arrays["out.latents"], arrays["out.sample"]
    means, log_variances = np.split(run("encoder", raw, salt, arrays["in.pixels"]), 2, axis=1)
    assert np.abs(means - latents).max() <= BOUND * np.abs(latents).max()
    assert (log_variances == -30).all()
    found = run("decoder", raw, salt, arrays["in.latent"])
    assert np.abs(found - pixels).max() <= BOUND * np.abs(pixels).max()


def test_a_fast_decoder_takes_what_the_models_own_is_given() -> None:
    raw, salt, arrays = case("taesd3")
    latents = arrays["in.latent"].astype(np.float64)
    config = fast_config(raw | {"scaling_factor": 2.0}, {"scaling_factor": 1.5305, "shift_factor": 0.0609})
    given = (latents / 1.5305 + 0.0609).astype(np.float32)
    found, whole = run("fast_decoder", config, salt, given), run("decoder", raw, salt, (latents / 2).astype(np.float32))
    np.testing.assert_allclose(found, whole, atol=BOUND * np.abs(whole).max())


def test_taesd_has_the_weights_that_it_is_published_with() -> None:
    shapes = AUTOENCODER_TINY.weights(AUTOENCODER_TINY.normalize({}, "test"))
    sizes = {half: sum(np.prod(s) for name, s in shapes.items() if name.startswith(half)) for half in ("enc", "dec")}
    assert sizes == {"enc": 1_222_532, "dec": 1_222_531}
    assert shapes["decoder.layers.18.weight"] == (3, 64, 3, 3) and shapes["encoder.layers.14.bias"] == (4,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"act_fn": "mish"},
            "config key 'act_fn' is not supported (got 'mish', expected 'relu' or 'silu' or 'swish' or",
        ),
        (
            {"upsample_fn": "bilinear"},
            "config key 'upsample_fn' is not supported (got 'bilinear', expected 'nearest').",
        ),
        ({"shift_factor": 0.1}, "config key 'shift_factor' is not supported (got 0.1, expected 0.0 or 0 or None)."),
        (
            {"num_encoder_blocks": [1, 3]},
            "config key 'num_encoder_blocks' has 2 entries and encoder_block_out_channels",
        ),
        (
            {"decoder_block_out_channels": [64, 32, 64, 64]},
            "decoder_block_out_channels are not all the same (got [64, 32, 64, 64]); such a network has",
        ),
        (
            {"upsampling_scaling_factor": 3},
            "its encoder makes pictures 8 times smaller, and its decoder 27 times larger.",
        ),
    ],
)
def test_configs_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        AUTOENCODER_TINY.normalize(changes, "config.json")
    assert str(caught.value).startswith(f"config.json: {message}")


def test_activations_that_blocks_may_have() -> None:
    for act_fn in ("SiLU", "gelu"):
        config = AUTOENCODER_TINY.normalize(CONFIG | {"act_fn": act_fn}, "test")
        graph = AUTOENCODER_TINY.graphs["decoder"].build(
            GraphBuilder("d", weights(AUTOENCODER_TINY, config, "s")), config, batch=1, height=2, width=3
        )
        ops = [node.op_type for node in graph.graph]
        assert ops.count("Relu") == 3 and ops.count({"SiLU": "Sigmoid", "gelu": "Erf"}[act_fn]) == 7


# Files ----------------------------------------------------------------------------------------------------------------


def tiny_component() -> Component:
    config = AUTOENCODER_TINY.normalize(CONFIG, "test")
    return Component(config, weights(AUTOENCODER_TINY, config, "files"))


def original(component: Component) -> dict[str, dict[str, np.ndarray]]:
    """The two files' tensors: numbered, the decoder's one more, for a layer without weights stands before them."""
    halves: dict[str, dict[str, np.ndarray]] = {"encoder": {}, "decoder": {}}
    for name, tensor in component.weights.items():
        half, _, index, rest = name.split(".", 3)
        halves[half][f"{int(index) + (half == 'decoder')}.{rest}"] = tensor.numpy()
    return halves


def write_halves(folder: Path, prefix: str = "taesd_") -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    paths = {half: folder / f"{prefix}{half}.safetensors" for half in ("encoder", "decoder")}
    for half, arrays in original(tiny_component()).items():
        write_safetensors(paths[half], arrays)
    return paths


def write_folder(folder: Path) -> Path:
    """A diffusers folder of it alone."""
    write_json(folder / "config.json", CONFIG)
    arrays = {name: tensor.numpy() for name, tensor in tiny_component().weights.items()}
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", arrays)
    return folder


def model_folder(folder: Path, name: str = "sd21") -> tuple[Path, Family]:
    """A whole model with an autoencoder of the usual kind."""
    made = random_checkpoint_from_configs(seed=3, family=name, **TINY[name])
    write_tree(folder, made, FAMILIES[name], TINY[name])
    return folder, FAMILIES[name]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))[0]


SPELLINGS = {
    "a diffusers folder": lambda root: write_folder(root / "tiny"),
    "diffusers' file": lambda root: write_folder(root / "tiny") / "diffusion_pytorch_model.safetensors",
    "a folder of the original's two": lambda root: write_halves(root / "tiny")["decoder"].parent,
    "the original's decoder beside its encoder": lambda root: write_halves(root / "tiny", "x_")["decoder"],
    "the original's encoder beside its decoder": lambda root: write_halves(root / "tiny")["encoder"],
    "both in one": lambda root: both_in_one(root / "both.safetensors"),
}


def both_in_one(path: Path) -> Path:
    """As ComfyUI keeps them."""
    halves = original(tiny_component())
    arrays = {f"taesd_{half}.{name}": array for half, own in halves.items() for name, array in own.items()}
    write_safetensors(path, arrays | {"vae_scale": np.float32([0.18]), "vae_shift": np.zeros(1, np.float32)})
    return path


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_model_takes_it_in_the_place_of_its_own(model: Path, spelling: str, tmp_path: Path) -> None:
    opened = open_checkpoint(model, family="sd21", vae=SPELLINGS[spelling](tmp_path))
    expected = tiny_component()
    same(opened, Checkpoint({"vae": expected}, {}, {}, "sd21", "test"))
    assert {key: opened.components["vae"].config[key] for key in CONFIG} == CONFIG
    built = build(opened)
    steps = [step for step in built.pipeline()["before"] if "sample" in step]
    assert [step["take"] for step in steps] == ["mean"] and "fast" not in built.pipeline()
    assert built.pipeline()["latents"]["scaling"] == 1.0


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_its_decoder_alone_stands_beside_the_models_own(model: Path, spelling: str, tmp_path: Path) -> None:
    whole = open_checkpoint(model, family="sd21")
    found = with_taesd(whole, str(SPELLINGS[spelling](tmp_path)))
    tiny = found.components["taesd"]
    decoder = {name: tensor for name, tensor in tiny_component().weights.items() if name.startswith("decoder.")}
    assert list(tiny.weights) == list(decoder)
    for name, tensor in decoder.items():
        np.testing.assert_array_equal(tiny.weights[name].numpy(), tensor.numpy())
    assert tiny.config["latents_scaling"] == whole.components["vae"].config["scaling_factor"]
    built = build(found)
    assert built.roles[-1] == "taesd_decoder" and built.pipeline()["fast"][0]["run"] == "taesd_decoder"
    assert [step["take"] for step in built.pipeline()["before"] if "sample" in step] == ["draw"]


def test_a_folder_whose_own_is_tiny(tmp_path: Path) -> None:
    """As SDXS is published."""
    root, _ = model_folder(tmp_path / "sdxs", "sd21")
    for file in (root / "vae").iterdir():
        file.unlink()
    write_folder(root / "vae")
    opened = open_checkpoint(root, family="sd21")
    same(opened, Checkpoint({"vae": tiny_component()}, {}, {}, "sd21", "test"))
    with pytest.raises(UsageError) as caught:
        with_taesd(opened, str(root / "vae"))
    assert str(caught.value) == (
        "--taesd: the model's own autoencoder is a tiny one, whose decoder is as fast. Fix: leave --taesd out."
    )
    with pytest.raises(UsageError, match=r"^--taesd: graphs in other formats have one decoder\. Fix: leave --taesd"):
        build(with_taesd(open_checkpoint(model_folder(tmp_path / "m")[0], family="sd21"), str(root)), published=True)


def test_made_up_weights() -> None:
    whole = random_checkpoint_from_configs(seed=3, family="sdxl", **TINY["sdxl"])
    found = with_random_taesd(whole, 4)
    assert found.components["taesd"].config["latents_scaling"] == 0.13025
    assert build(found).roles[-1] == "taesd_decoder"


DECODER = ("0.weight", "3.conv.0.weight")
REFUSED = {
    "nothing there": (lambda root: root / "no.safetensors", "there is no such file or folder (expected a tiny autoenc"),
    "an empty folder": (
        lambda root: folder(root / "no"),
        "the folder holds no tiny autoencoder (no config.json, and no",
    ),
    "several": (lambda root: several(root / "no"), "it holds several (a_decoder.safetensors, b_decoder.safetensors)."),
    "a whole VAE": (
        lambda root: named(root / "vae.safetensors", "decoder.conv_in.weight"),
        "this is a VAE alone (it has weights named decoder.conv_in....), and no tiny autoencoder.",
    ),
    "something else": (
        lambda root: named(root / "x.safetensors", "a", "b"),
        "this is no tiny autoencoder (its weights are named a, b).",
    ),
    "under two names": (
        lambda root: named(root / "x.safetensors", "decoder.layers.2.conv.0.weight", "3.conv.0.weight"),
        "the weight decoder.layers.2.conv.0.weight is there under two names.",
    ),
}


def folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


def several(path: Path) -> Path:
    for name in ("a", "b"):
        named(folder(path) / f"{name}_decoder.safetensors", *DECODER)
    return path


def named(path: Path, *names: str) -> Path:
    write_safetensors(path, {name: np.zeros((1, 1, 3, 3), np.float32) for name in names})
    return path


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_tiny_autoencoder(model: Path, what: str, tmp_path: Path) -> None:
    make, message = REFUSED[what]
    path = make(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        with_taesd(open_checkpoint(model, family="sd21"), str(path))
    assert str(caught.value).startswith(f"--taesd {path}: {message}")


def test_a_half_that_is_not_there(model: Path, tmp_path: Path) -> None:
    paths = write_halves(tmp_path)
    paths["encoder"].unlink()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(model, family="sd21", vae=paths["decoder"])
    assert str(caught.value) == (
        f"--vae {paths['decoder']}: it holds no encoder, and there is none in a file beside it. Fix: give the file "
        "that has both, or put it there, or give it with --taesd, for which the decoder is enough."
    )


def test_weights_that_are_no_network_of_this_kind(model: Path, tmp_path: Path) -> None:
    arrays = original(tiny_component())["decoder"]
    del arrays["3.conv.2.bias"]
    write_safetensors(tmp_path / "taesd_decoder.safetensors", arrays)
    with pytest.raises(WeightsError, match=r"1 missing: decoder\.layers\.2\.conv\.2\.bias\."):
        with_taesd(open_checkpoint(model, family="sd21"), str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_channels": 5}, "the tiny autoencoder's latent_channels is not the vae's (got 5, expected 4)."),
        (
            {"num_decoder_blocks": [1, 1, 1], "decoder_block_out_channels": [8] * 3}
            | {"num_encoder_blocks": [1, 1, 1], "encoder_block_out_channels": [8] * 3},
            "the tiny autoencoder's pixels per latent is not the vae's (got 4, expected 2).",
        ),
    ],
)
def test_one_for_other_latents(model: Path, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = AUTOENCODER_TINY.normalize(CONFIG | changes, "test")
    write_json(tmp_path / "config.json", CONFIG | changes)
    arrays = {name: tensor.numpy() for name, tensor in weights(AUTOENCODER_TINY, config, "s").items()}
    write_safetensors(tmp_path / "diffusion_pytorch_model.safetensors", arrays)
    with pytest.raises(CheckpointError) as caught:
        with_taesd(open_checkpoint(model, family="sd21"), str(tmp_path))
    assert str(caught.value).startswith(f"--taesd {tmp_path}: {message}")


def test_a_path_beside_made_up_weights() -> None:
    with pytest.raises(OnDeviceError) as caught:
        Source("demo", random_weights=0, taesd="taesd").open()
    assert str(caught.value) == "--taesd: made-up weights have every part. Fix: give --taesd without a path."


def test_families_that_may_have_it() -> None:
    for name, family in FAMILIES.items():
        configs = {part: family.config(part) for part in family.parts}
        configs["vae"] = AUTOENCODER_TINY.normalize({"_class_name": "AutoencoderTiny"}, "test")
        tiny = with_tiny_vae(family)
        draws = [step["take"] for step in tiny.pipeline(tiny, configs)["before"] if "sample" in step]
        assert set(draws) <= {"mean"}, name
