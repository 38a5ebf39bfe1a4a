"""Noise, sampler tables and tokens as files: what players in other languages are tested on.
`pytest --bless` writes them again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from diffusion.sampler_helpers import SD15, config_of
from diffusion.test_sampler_parts import MEMORYLESS
from diffusion.test_sampler_table_files import BEGIN_CHANGES, CHANGES, changed
from small_tokenizer import SPECIAL

from ondevice.base.paths import MODELS
from ondevice.diffusion.noise import Noise
from ondevice.diffusion.samplers import SamplerTable, make_table, run_table
from ondevice.diffusion.tokenizer import Tokenizer
from ondevice.errors import BundleError

Compare = Callable[[str, str], None]

# Long and short draws by turns: a second number is kept past a long draw, and 17 and 31 end within a run.
SHAPES = [(1, 4, 3, 2), (3,), (2, 17), (1,), (31,), (5,), (16,), (15,), (1, 2), (17,)]
SEEDS = (0, 1, 42, 2**32 - 1, 2**32, 2**64 - 1, -1, -7, -(2**63))


def numbers(values: np.ndarray) -> list[float]:
    """float32, exactly."""
    return [float(value) for value in values.ravel()]


def rows(items: Iterable[Any]) -> str:
    return "[\n" + ",\n".join(json.dumps(item) for item in items) + "\n]"


@pytest.mark.parametrize("seed", SEEDS)
def test_noise(seed: int, golden: Compare) -> None:
    stream = Noise(seed)
    draws = [{"shape": list(shape), "values": numbers(stream.randn(shape))} for shape in SHAPES]
    digest = hashlib.sha256(stream.randn((1, 4, 32, 33)).astype("<f4").tobytes()).hexdigest()
    draws.append({"shape": [1, 4, 32, 33], "sha256": digest})
    golden(f"noise/seed_{seed}.json".replace("-", "minus_"), f'{{"seed": {seed}, "draws": {rows(draws)}}}\n')


@pytest.mark.parametrize("seed", [0, 2**64 - 1, -7])
def test_noise_of_cuda(seed: int, golden: Compare) -> None:
    stream = Noise(seed, "cuda")
    draws = [{"shape": list(shape), "values": numbers(stream.randn(shape))} for shape in SHAPES[:4]]
    digest = hashlib.sha256(stream.randn((1, 4, 32, 33)).astype("<f4").tobytes()).hexdigest()
    draws.append({"shape": [1, 4, 32, 33], "sha256": digest})
    name = f"noise/cuda_seed_{seed}.json".replace("-", "minus_")
    golden(name, f'{{"mode": "cuda", "seed": {seed}, "draws": {rows(draws)}}}\n')


@pytest.mark.parametrize(
    "name, seed, variation, strength, delta",
    [("plain", 5, 0, 0.0, 0), ("variation", 5, 2**40, 0.25, 0), ("alike", 5, 5, 0.25, 0), ("delta", -1, 6, 1.0, 31337)],
)
def test_noise_of_webui(name: str, seed: int, variation: int, strength: float, delta: int, golden: Compare) -> None:
    shape = (1, 4, 3, 2)
    stream = Noise(seed, "a1111", variation=(variation, strength), delta=delta)
    initial = numbers(stream.initial(shape))
    stream.enter_loop()
    loop = [numbers(stream.randn(shape)) for _ in range(2)]
    head = {"mode": "a1111", "seed": seed, "variation_seed": variation, "variation_strength": strength}
    head |= {"noise_seed_delta": delta, "shape": list(shape), "initial": initial}
    golden(f"noise/a1111_{name}.json", f'{json.dumps(head)[:-1]}, "loop": {rows(loop)}}}\n')


TABLES = [
    ("pndm", 5, {}),
    ("ddim", 3, {}),
    ("ddim", 3, {"eta": 0.5}),
    ("euler", 4, {}),
    ("euler_a", 3, {}),
    ("dpmpp_2m", 5, {}),
    ("dpmpp_2m", 3, {"algorithm_type": "sde-dpmsolver++"}),
    ("heun", 3, {}),
    ("lms", 6, {}),
    ("unipc", 3, {}),
    ("lcm", 4, {}),
    ("ddpm", 3, {"steps_offset": 0}),
    ("tcd", 3, {}),
    ("dpmpp_sde", 2, {}),
    ("flow_euler", 3, {"shift": 3.0}),
    ("dpmpp_2m", 4, {"denoising_start": 0.4}),
]


def half(x: np.ndarray, _: float) -> np.ndarray:
    """The model of the goldens."""
    return np.float32(0.5) * x


@pytest.mark.parametrize(
    ("name", "steps", "options"), TABLES, ids=lambda value: "_".join(value) if isinstance(value, dict) else str(value)
)
def test_sampler_tables(name: str, steps: int, options: dict[str, Any], golden: Compare) -> None:
    """What replaying a table gives, from noise and from a picture, and from each call where it may begin there."""
    table = make_table(name, steps, config_of(name), **options)
    stream = Noise(steps)
    image, noise = stream.randn((2, 3)), stream.randn((2, 3))
    draws = [stream.randn((2, 3)) for call in table.calls if call.draws_noise]

    def replay(sample: np.ndarray, calls: tuple[Any, ...]) -> list[float]:
        left = iter(draws)
        part = SamplerTable(name, steps, table.slots, 0.0, 1.0, calls, table.result)
        return numbers(run_table(part, half, sample, lambda _: next(left)))

    begun = [
        {"call": i, "result": replay(np.float32(factors[0]) * image + np.float32(factors[1]) * noise, table.calls[i:])}
        for i, factors in enumerate(table.begins)
    ]
    assert len(begun) == (len(table.calls) if name in MEMORYLESS else 0)
    parts = {
        "table": table.to_json(),
        "shape": [2, 3],
        "image": numbers(image),
        "noise": numbers(noise),
        "draws": [numbers(draw) for draw in draws],
        "result": replay(table.start(noise), table.calls),
        "begun": begun,
    }
    text = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in parts.items())
    golden(f"samplers/{'_'.join([name, str(steps), *options])}.json", "{\n" + text + "\n}\n")


def test_sampler_tables_to_refuse(golden: Compare) -> None:
    """`table` names the golden that is changed at `path`; the changes that JSON can hold."""
    found = []
    for base, name, steps, changes in (("unipc_3", "unipc", 3, CHANGES), ("ddim_3", "ddim", 3, BEGIN_CHANGES)):
        table = make_table(name, steps, SD15).to_json()
        for path, value, _ in changes:
            if isinstance(value, float) and not math.isfinite(value):
                continue
            with pytest.raises(BundleError):
                SamplerTable.from_json(changed(table, path, value))
            found.append({"table": base, "path": list(path), "value": value})
    golden("samplers/refused.json", rows(found) + "\n")


TEXTS = [
    "",
    " \t\n\u3000 ",
    "a photo of an astronaut riding a horse on mars, 4k",
    "IT'S the dog's 'S we'll I'd've '' don't!'s",
    "12 3.5 ½ ² ⅷ ١٢ 〇",
    "e\u0301 é A\u030a Å \u1e9b\u0323 \ufb01 \u212b",
    "ΟΔΥΣΣΕΥΣ ΣΑΣ İstanbul ISPARTA ẞ Ǆ ǅ",
    "a\u00a0b\u2003c\u2028d\u0085e\u200bf\u001cg\ufeffh",
    "日本語 漢字 हिन्दी ภาษา العربية עברית",
    "👩‍🚀 🏳️‍🌈 ❤️ 👍🏽",
    "!! !a! wow!",
    "<|endoftext|> x<|startoftext|>y <|ENDOFTEXT|>",
    "<|ENDOFTEXT|>! !<|ENDOFTEXT|>! <|StartOfText|>'s",
    "snake_case foo-bar... (a:1.2) [b] \\{c\\} & # @ / ~ ` ^ | + = %",
    "café cafe\u0301 naïve ÇA",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "cat " * 74,
    "cat " * 75,
    "cat " * 76,
    "cat, " * 37 + "blue bird, sea",
    "a" * 300,
]
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
ADDED: dict[int, dict[str, Any]] = {
    49406: {"content": "<|startoftext|>", **FLAGS, "special": True},
    49407: {"content": "<|endoftext|>", **FLAGS, "special": True},
    49408: {"content": "<cat>", **FLAGS},
    49409: {"content": "<cat>_1", **FLAGS},
    49410: {"content": "<cat>_2", **FLAGS},
    49411: {"content": "<Ring>", **FLAGS, "normalized": True},
    49412: {"content": "sks", **FLAGS, "single_word": True},
    49413: {"content": "<left>", **FLAGS, "lstrip": True},
    49414: {"content": "<right>", **FLAGS, "rstrip": True},
    49415: {"content": "<right>x", **FLAGS},
}
ADDED_TEXTS = [
    "a <cat> on a mat",
    "<cat>_1 <cat> x<cat>y",
    "a <ring> <RING> <Ring>s",
    "sks asks sks, _sks sks_ sks1 ésks sks\u0301 (sks)",
    "a  <left> b <left>c",
    "a <right>  b<right>c <right>x",
    "<right>  <left>",
    "<CAT> <|endoftext|>",
    "<cat> " * 30,
]


@pytest.mark.parametrize(
    ("name", "files", "texts"),
    [
        ("pad_end", {"special_tokens_map.json": {**SPECIAL, "pad_token": "<|endoftext|>"}}, TEXTS),
        ("pad_0", {"special_tokens_map.json": {**SPECIAL, "pad_token": "!"}}, TEXTS),
        (
            "added",
            {
                "tokenizer_config.json": {
                    **SPECIAL,
                    "pad_token": "<|endoftext|>",
                    "added_tokens_decoder": {str(i): t for i, t in ADDED.items()},
                }
            },
            ADDED_TEXTS,
        ),
    ],
)
def test_tokens(name: str, files: dict[str, Any], texts: list[str], golden: Compare) -> None:
    """Ids up to the end; all others of the 77 are `pad`. The vocabulary is the package's."""
    held = {file: (MODELS / "clip_tokenizer" / file).read_bytes() for file in ("vocab.json", "merges.txt")}
    tokenizer = Tokenizer.from_files(held | {file: json.dumps(content).encode() for file, content in files.items()})
    found = []
    for text in texts:
        ids = tokenizer(text).tolist()
        count = min(len(tokenizer.encode(tokenizer.spelled_out(text))), len(ids))
        assert ids[count - 1] == tokenizer.eos and ids[count:] == [tokenizer.pad] * (len(ids) - count)
        found.append({"text": text, "ids": ids[:count]})
    head = f'"length": 77, "pad": {tokenizer.pad}, "files": {json.dumps(files)}'
    golden(f"tokens/{name}.json", f'{{{head}, "texts": {rows(found)}}}\n')
