"""Pictures of a model with added tokens against diffusers':
the folder that transformers 5 saves, and the one that transformers 4 saved."""

import json

import numpy as np
import pytest
from PIL import Image

from ondevice import cli
from ondevice.base.paths import MODELS

pytestmark = [pytest.mark.parity, pytest.mark.device]

PROMPT, ARGUMENTS = "a <Ring> on a <back> background, <RING>", {"num_inference_steps": 5, "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder, diffusers' picture of PROMPT by seed 11 from it, and without the tokens):
    <Ring> is one vector, <back> are two."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        MODELS / "demo", safety_checker=None, torch_dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)

    def draw(pipe):
        result = pipe(
            PROMPT, generator=torch.Generator("cpu").manual_seed(11), width=64, height=64, output_type="np", **ARGUMENTS
        )
        return (result.images[0] * 255).round()

    plain = draw(pipe)
    like = {"<Ring>": "star", "<back>": "yellow", "<back>_1": "green"}
    rows = {name: pipe.tokenizer(word).input_ids[1] for name, word in like.items()}
    assert pipe.tokenizer.add_tokens(list(like)) == len(like)
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
    table = pipe.text_encoder.get_input_embeddings().weight.data
    for name, row in rows.items():
        table[pipe.tokenizer.convert_tokens_to_ids(name)] = table[row] * 1.1
    folder = tmp_path_factory.mktemp("saved")
    pipe.save_pretrained(folder)
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return folder, draw(loaded), plain


@pytest.mark.parametrize("version", [5, 4])
def test_pictures_with_added_tokens(saved, version, tmp_path):
    folder, expected, plain = saved
    tokenizer = folder / "tokenizer"
    if version == 4:
        for file in tokenizer.iterdir():
            file.unlink()
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
            (tokenizer / name).write_bytes((MODELS / "demo" / "tokenizer" / name).read_bytes())
        (tokenizer / "added_tokens.json").write_text(json.dumps({"<back>": 600, "<Ring>": 599, "<back>_1": 601}))
    bundle, out = tmp_path / "m.ondevice", tmp_path / "a.png"
    words = ["convert", "demo", "--checkpoint", folder, "--size", "64x64", "--dtype", "fp32", "--out", bundle]
    assert cli.main([str(word) for word in words]) == 0
    words = ["generate", bundle, PROMPT, "--steps", 5, "--guidance", 4.0, "--seed", 11, "--out", out]
    assert cli.main([str(word) for word in words]) == 0
    assert np.abs(expected - plain).max() > 40, "the tokens change nothing"
    assert np.abs(np.asarray(Image.open(out), np.float64) - expected).max() <= 1
