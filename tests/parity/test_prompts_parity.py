"""Texts against diffusers at tiny size: weights and chunks by prompt_embeds that are computed here from transformers'
states alone; layers left out against its clip_skip, and embeddings against its load_textual_inversion."""

import math

import numpy as np
import pytest
from checkpoint_files import write_safetensors, write_webui
from parity.modules import relative_error
from parity.test_components import run
from parity.test_family_checkpoints import BOUND, modules_of
from PIL import Image

from ondevice import cli
from ondevice.base.paths import MODELS
from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.embeddings import with_embeddings
from ondevice.converters.source import with_clip_skip

pytestmark = [pytest.mark.parity, pytest.mark.device]
ARGUMENTS = {"num_inference_steps": 4, "guidance_scale": 4.0}
WIDTH = 64  # of the demo model's states


def convert(folder, *flags):
    bundle = folder / "m.ondevice"
    words = ["convert", "demo", "--size", "64x64", "--dtype", "fp32", "--out", bundle, *flags]
    assert cli.main([str(word) for word in words]) == 0
    return bundle


def generate(bundle, prompt, negative, *flags):
    out = bundle.parent / f"{len(list(bundle.parent.glob('*.png')))}.png"
    words = ["generate", bundle, prompt, "--negative", negative, "--steps", 4, "--guidance", 4.0, "--seed", 11]
    assert cli.main([str(word) for word in [*words, "--out", out, *flags]]) == 0
    return np.asarray(Image.open(out), np.float64)


@pytest.fixture(scope="module")
def pipe():
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(
        MODELS / "demo", safety_checker=None, torch_dtype=torch.float32
    )
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def embedding(tmp_path_factory):
    """A .pt of two vectors, near those of words that the model knows."""
    path = tmp_path_factory.mktemp("embedding") / "blob9.pt"
    write_webui(path, np.random.default_rng(4).normal(size=(2, WIDTH)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, embedding):
    return convert(tmp_path_factory.mktemp("prompts"), "--chunks", 2, "--embedding", f"{embedding}:<blob>")


def drawn(pipe, **texts):
    import torch

    result = pipe(generator=torch.Generator("cpu").manual_seed(11), width=64, height=64, output_type="np", **texts)
    return (result.images[0] * 255).round()


def states(pipe, words):
    """(states, weights) of [(text, weight)], each made into tokens by itself."""
    import torch

    tokenizer = pipe.tokenizer
    pairs = [(index, weight) for text, weight in words for index in tokenizer(text).input_ids[1:-1]]
    ids = [tokenizer.bos_token_id, *(index for index, _ in pairs), tokenizer.eos_token_id]
    ids += [tokenizer.pad_token_id] * (77 - len(ids))
    weights = [1.0, *(weight for _, weight in pairs)]
    with torch.no_grad():
        found = pipe.text_encoder(torch.tensor([ids]))[0]
    return found, torch.tensor([*weights, *[1.0] * (77 - len(weights))])[:, None]


def mean_kept(pipe, *chunks):
    import torch

    found = [states(pipe, words) for words in chunks]
    scaled = [(z, z * weights) for z, weights in found]
    return torch.cat([z * (before.mean() / z.mean()) for before, z in scaled], dim=1)


def test_chunks_and_weights_that_keep_the_mean(pipe, bundle):
    expected = drawn(
        pipe,
        prompt_embeds=mean_kept(pipe, [("a ", 1), ("red", 1.4), ("circle", 1)], [("on a ", 1), ("blue", 1 / 1.1)]),
        negative_prompt_embeds=mean_kept(pipe, [("green", 1.1)], [("a square", 1)]),
        **ARGUMENTS,
    )
    got = generate(bundle, "a (red:1.4) circle BREAK on a [blue]", "(green) BREAK a square")
    assert np.abs(got - expected).max() <= 1


def test_weights_as_compel_has_them(pipe, bundle):
    empty, _ = states(pipe, [])

    def moved(*words):
        z, weights = states(pipe, words)
        return empty + (z - empty) * weights

    away = math.tan((1 - 0.6) * math.pi / 2)
    red, circle, green = ("red", 1.5), (" circle on ", 1), ("a green background", 0.6)
    whole = (moved(red, circle, green) + away * moved(red, circle)) / (1 + away)
    expected = drawn(pipe, prompt_embeds=whole, negative_prompt_embeds=empty, **ARGUMENTS)
    got = generate(bundle, "(red:1.5) circle on (a green background:0.6)", "", "--emphasis", "compel")
    assert np.abs(got - expected).max() <= 1


def test_layers_left_out(pipe, tmp_path):
    texts = ["a red circle on a blue background", "a square"]
    # diffusers looks for the last norm where transformers 4 has it
    object.__setattr__(pipe.text_encoder, "text_model", getattr(pipe.text_encoder, "text_model", pipe.text_encoder))
    found = [pipe.encode_prompt(text, "cpu", 1, False, clip_skip=1)[0] for text in texts]
    expected = drawn(pipe, prompt_embeds=found[0], negative_prompt_embeds=found[1], **ARGUMENTS)
    skipped = convert(tmp_path, "--clip-skip", 1)
    assert np.abs(generate(skipped, *texts) - expected).max() <= 1


def test_an_embedding(pipe, bundle, embedding):
    prompt = "a <blob> circle on a blue background"
    plain = drawn(pipe, prompt=prompt, negative_prompt="a square", **ARGUMENTS)
    pipe.load_textual_inversion(str(embedding.parent), weight_name=embedding.name, token="<blob>")
    try:
        expected = drawn(pipe, prompt=prompt, negative_prompt="a square", **ARGUMENTS)
    finally:
        pipe.unload_textual_inversion("<blob>")
    assert np.abs(expected - plain).max() > 10
    assert np.abs(generate(bundle, prompt, "a square") - expected).max() <= 1


def test_layers_left_out_and_an_embedding_of_two_encoders(tmp_path):
    """SDXL: states and the pooled text of diffusers' encode_prompt, with clip_skip 1 and a token of two vectors."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    modules, rng = modules_of("sdxl"), np.random.default_rng(3)
    arrays = {"clip_l": rng.normal(size=(2, 20)), "clip_g": rng.normal(size=(2, 24))}
    write_safetensors(tmp_path / "blob9.safetensors", {n: a.astype(np.float32) for n, a in arrays.items()})
    for name in FAMILIES["sdxl"].tokenizers:
        (tmp_path / name).mkdir()
        for file, data in FAMILIES["sdxl"].tokenizer(name).items():
            (tmp_path / name / file).write_bytes(data)
        modules[name] = transformers.CLIPTokenizer.from_pretrained(tmp_path / name)
    scheduler = diffusers.EulerDiscreteScheduler()
    pipe = diffusers.StableDiffusionXLPipeline(**modules, scheduler=scheduler, add_watermarker=False)
    pipe.save_pretrained(tmp_path / "m")
    checkpoint = with_clip_skip(open_checkpoint(tmp_path / "m", family="sdxl"), 1)
    model = build(with_embeddings(checkpoint, [f"{tmp_path / 'blob9.safetensors'}:<blob>"]))
    for number, array in zip(("", "_2"), arrays.values(), strict=True):
        import torch

        encoder, tokenizer = modules[f"text_encoder{number}"], modules[f"tokenizer{number}"]
        state = {"<blob>": torch.tensor(array, dtype=torch.float32)}
        pipe.load_textual_inversion(state, token="<blob>", text_encoder=encoder, tokenizer=tokenizer)
    # by 2 transformers takes the largest id for the end, which is the token's
    inner = modules["text_encoder_2"]
    getattr(inner, "text_model", inner).eos_token_id = 49407
    prompt = "a <blob> cat"
    with torch.no_grad():
        context, _, pooled, _ = pipe.encode_prompt(prompt, "", "cpu", 1, False, clip_skip=1)
    found = []
    for number in ("", "_2"):
        spelled = pipe.maybe_convert_prompt(prompt, modules[f"tokenizer{number}"])
        ids = modules[f"tokenizer{number}"](spelled, padding="max_length", max_length=77).input_ids
        for output in range(1 + len(number) // 2):
            graph = model.graph(f"text_encoder{number}")
            graph.graph.outputs[:] = graph.graph.outputs[output:]  # `run` gives the first
            found.append(run(graph, {"input_ids": np.array([ids], np.int32)}))
    first, second, ours = found
    assert relative_error(np.concatenate([first, second], axis=2), context.numpy()) <= BOUND
    assert relative_error(ours, pooled.numpy()) <= BOUND
