"""Parts from files of their own: the same weights as from the plain checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import (
    PARTS,
    TEXT,
    TINY_TEXT,
    TINY_UNET,
    TINY_VAE,
    UNET,
    VAE,
    Arrays,
    arrays_of,
    diffusers_names,
    message,
    original_arrays,
    same,
    tiny_checkpoint,
    tiny_family,
    write_ckpt,
    write_folder,
    write_json,
)
from checkpoint_files import write_safetensors as save

from ondevice import cli
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import Checkpoint, open_checkpoint
from ondevice.errors import UsageError

ALONE = {
    "original names": ("vae", lambda tiny, a: {n.removeprefix(VAE): x for n, x in a.items() if n.startswith(VAE)}),
    "with the training's loss": (
        "vae",
        lambda tiny, a: (
            {n.removeprefix(VAE): x for n, x in a.items() if n.startswith(VAE)}
            | {"loss.logvar": np.zeros((), np.float32), "model_ema.decay": np.zeros((), np.float32)}
        ),
    ),
    "a whole checkpoint": ("vae", lambda tiny, a: a),
    "diffusers names": ("vae", lambda tiny, a: arrays_of(tiny, "vae")),
    "diffusers names in one file": ("vae", lambda tiny, a: diffusers_names(tiny)),
    "text encoder": ("text_encoder", lambda tiny, a: arrays_of(tiny, "text_encoder")),
    "original text encoder": ("text_encoder", lambda tiny, a: {n: x for n, x in a.items() if n.startswith(TEXT)}),
    "UNet": ("unet", lambda tiny, a: arrays_of(tiny, "unet")),
    "original UNet": ("unet", lambda tiny, a: {n.removeprefix(UNET): x for n, x in a.items() if n.startswith(UNET)}),
    "UNet as some tools write it": (
        "unet",
        lambda tiny, a: {n.removeprefix("model."): x for n, x in a.items() if n.startswith(UNET)},
    ),
    "a whole CLIP": (
        "text_encoder",
        lambda tiny, a: (
            arrays_of(tiny, "text_encoder")
            | {
                "vision_model.post_layernorm.bias": np.zeros(3, np.float32),
                "visual_projection.weight": np.zeros((2, 3), np.float32),
            }
        ),
    ),
}
WITHOUT = {"vae": VAE, "text_encoder": TEXT, "unet": UNET}


@pytest.mark.parametrize("kind", sorted(ALONE))
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_part_from_a_file_of_its_own(tmp_path: Path, tiny: Checkpoint, kind: str, suffix: str) -> None:
    other = tiny_checkpoint(seed=4)
    part, make = ALONE[kind]
    path = tmp_path / f"part.{suffix}"
    (save if suffix == "safetensors" else write_ckpt)(path, make(other, original_arrays(other)))
    family = tiny_family(tmp_path / "family")
    whole = original_arrays(tiny)
    lacking = {name: array for name, array in whole.items() if not name.startswith(WITHOUT[part])}
    for arrays in (whole, lacking):  # replaced, and supplied
        save(tmp_path / "m.safetensors", arrays)
        found = open_checkpoint(tmp_path / "m.safetensors", family=family, **{part: str(path)})
        same(found, other, part)
        same(found, tiny, *(name for name in PARTS if name != part))
        assert found.notes == ()


def test_a_part_for_a_folder_and_from_a_folder(tmp_path: Path, tiny: Checkpoint) -> None:
    other, folder = tiny_checkpoint(seed=4), tmp_path / "model"
    write_folder(folder, tiny)
    write_folder(tmp_path / "other", other)
    save(tmp_path / "vae.safetensors", arrays_of(other, "vae"))
    write_json(folder / "vae" / "config.json", TINY_VAE | {"scaling_factor": 0.5})
    for vae, factor in (
        (tmp_path / "vae.safetensors", 0.5),
        (tmp_path / "other", 0.18215),
        (tmp_path / "other" / "vae", 0.18215),
    ):
        found = open_checkpoint(folder, family="sd14", vae=vae)
        same(found, other, "vae")
        same(found, tiny, "unet", "text_encoder")
        # a file has the checkpoint's own config, a folder brings one
        assert found.components["vae"].config["scaling_factor"] == factor
    (folder / "vae" / "config.json").unlink()
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "vae").rmdir()
    same(open_checkpoint(folder, family="sd14", vae=tmp_path / "other" / "vae"), other, "vae")


def test_a_part_that_does_not_join(tmp_path: Path, tiny: Checkpoint, arrays: Arrays) -> None:
    wide = random_checkpoint_from_configs(
        text_encoder=TINY_TEXT | {"hidden_size": 24}, unet=TINY_UNET | {"cross_attention_dim": 24}, vae=TINY_VAE, seed=1
    )
    write_folder(tmp_path / "other", wide)
    write_json(tmp_path / "other" / "text_encoder" / "config.json", TINY_TEXT | {"hidden_size": 24})
    path = tmp_path / "m.safetensors"
    save(path, arrays)
    said = message(
        lambda: open_checkpoint(
            path, family=tiny_family(tmp_path / "family"), text_encoder=tmp_path / "other" / "text_encoder"
        )
    )
    assert said.startswith(
        f"{path}: the unet's cross_attention_dim is not the text_encoder's hidden_size (got 20, expected 24)."
    )


@pytest.mark.parametrize("flag", ["--unet", "--vae", "--text-encoder"])
def test_parts_beside_made_up_weights_are_refused(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where no earlier bundle is in the way
    assert cli.main(["convert", "demo", "--random-weights", "1", flag, "x"]) == UsageError.exit_code
    assert capsys.readouterr().err == f"error: {flag}: made-up weights have every part. Fix: leave {flag} out.\n"
