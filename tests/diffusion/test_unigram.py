"""T5's tokenizer: against recorded ids, the package `tokenizers`, and another of the same page."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
from diffusion.fake_networks import OtherDevice, plans_at, spec_of
from diffusion.sampler_helpers import DATA, SD15
from diffusion.test_goldens import rows
from reference.unigram import Unigram as Reference
from unigram_files import PIECES, REPLACEMENTS, bundle_files, charsmap, tokenizer_json

from ondevice.bundle.manifest import TokenizerEntry
from ondevice.diffusion import unigram
from ondevice.diffusion.pipeline import Pipeline, _tokenizers
from ondevice.diffusion.text.chunks import chunked, cut, first_ids, padded, room_of
from ondevice.diffusion.text.emphasis import plain, sections
from ondevice.diffusion.unigram import UnigramTokenizer
from ondevice.errors import BundleError, UsageError
from ondevice.vocabulary.charsmap import Charsmap

TEXTS = [
    "",
    " ",
    "cat",
    "a  cat, abab",
    "  acat ",
    "ca\tcat\ncat\u00a0a",
    "ﬁfi ½ ＡA",
    "cate\u0301 cate\u0301\u0301 cat\u00e9 e",
    "猫zz猫 zz",
    "zzz cat",
    "x xx",
    "▁cat ▁",
    "cat</s>cat </s> cat",
    "a <extra_id_0>  cat<extra_id_0>cat <unk>zz<pad>",
    "<extra_id_",
    "a\u200dcat\u200d",
    "a\0b",
    "cats, " * 9,
]


@pytest.fixture(scope="module")
def small() -> UnigramTokenizer:
    return UnigramTokenizer.from_files(bundle_files(), 16)


def test_goldens(small: UnigramTokenizer, golden: Callable[[str, str], None]) -> None:
    """`charsmap.bin` is in hexadecimal digits; of longer texts all ids are there."""
    files = bundle_files()
    held = {"unigram.json": json.loads(files["unigram.json"]), "charsmap.bin": files["charsmap.bin"].hex()}
    found = [{"text": text, "ids": small.encode(text), "padded": small(text).tolist()} for text in TEXTS]
    head = f'"kind": "unigram", "length": 16, "pad": {small.pad}, "files": {json.dumps(held)}'
    golden("tokens/unigram/small.json", f'{{{head}, "texts": {rows(found)}}}\n')


def test_the_page_gives_the_same(small: UnigramTokenizer) -> None:
    other = Reference(bundle_files())
    letters = [*"catbsfi, é\u0301e猫½ﬁＡ\t\u00a0▁\u200dz", "<extra_id_0>", "</s>", "  "]
    draw = random.Random(0)
    texts = ["".join(draw.choices(letters, k=draw.randint(1, 25))) for _ in range(300)]
    for text in [*TEXTS, *texts]:
        assert small.encode(text) == other.ids(text), text


def test_the_package_gives_the_same(small: UnigramTokenizer) -> None:
    """Where no replacement is of several letters: those it looks for in clusters of letters alone."""
    other = tokenizers.Tokenizer.from_str(tokenizer_json().decode())
    draw = random.Random(1)
    letters = [*"catbsfi, é猫½ﬁＡ\t\u00a0▁z", "<extra_id_0>", "</s>", "<pad>", "  "]
    texts = ["".join(draw.choices(letters, k=draw.randint(1, 25))) for _ in range(300)]
    for text in texts:
        assert small.encode(text) == other.encode(text).ids, text


def test_recorded_prompts_have_their_ids() -> None:
    """The pieces and replacements that these prompts have: no other could change an id."""
    held = json.loads((DATA / "prompts" / "t5_tokens.json").read_text())
    pieces = [("<pad>", None), ("</s>", None), ("<unk>", None)]
    pieces += [(text, score) for text, (_, score) in held["pieces"].items()]
    ids = [0, 1, 2, *(index for index, _ in held["pieces"].values()), 32099]
    added = {str(i): {"content": text, "lstrip": False, "rstrip": False} for i, (text, _) in enumerate(pieces[:3])}
    added[str(len(pieces))] = {"content": "<extra_id_0>", "lstrip": True, "rstrip": True}
    files = bundle_files(pieces=pieces, added=added) | {"charsmap.bin": charsmap(held["replacements"])}
    tokenizer, other = UnigramTokenizer.from_files(files), Reference(files)
    assert len(held["prompts"]) == 86
    for row in held["prompts"]:
        assert [ids[index] for index in tokenizer.encode(row["prompt"])] == row["ids"], row["prompt"]
        assert tokenizer.encode(row["prompt"]) == other.ids(row["prompt"])


def test_where_each_id_begins(small: UnigramTokenizer) -> None:
    text = "  a ½ cat\u00e9 <extra_id_0> zz"
    same, ids, starts = small.piece(text)
    spelled = [(token, text[start]) for token, start in zip(small.tokens(ids), starts, strict=True)]
    assert same == text and spelled == [
        ("▁a", "a"), ("▁", "½"), ("1", "½"), ("<unk>", "½"), ("▁cat", "c"), ("é", "é"), ("<extra_id_0>", " "),
        ("▁", "z"), ("<unk>", "z"),
    ]  # fmt: skip


def test_a_text_has_no_start_and_an_end(small: UnigramTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    assert small.bos is None and room_of(small) == 15 and small.size == len(PIECES) + 1
    ids = small("cat")
    assert ids.dtype == np.int32 and ids.tolist() == [4, 1, *[0] * 14] and not caplog.messages
    assert small("cat " * 20).tolist() == [4] * 15 + [1]
    assert caplog.messages == ['The prompt has 20 tokens; the model reads 15. Left out: "cat cat cat cat cat"']
    chunks = chunked(sections("cat, " * 9), small).chunks
    assert [padded(chunk, small)[-1] for chunk in chunks] == [1, 0] and all(len(chunk) <= 15 for chunk in chunks)
    assert [len(chunk) for chunk in cut(plain("cat " * 31), small).chunks] == [15, 15, 1]


@pytest.mark.parametrize(
    "text, said", [("\ud800", "the prompt is not valid Unicode"), ("½½½½½", "it is too long .more than 12 letters")]
)
def test_texts_that_are_none_or_too_long(
    text: str, said: str, small: UnigramTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unigram, "_MAX_TEXT", 12)
    with pytest.raises(UsageError, match=said):
        small.encode(text)


def test_the_longest_replacement_that_ends_with_a_letter(small: UnigramTokenizer) -> None:
    replaced: Any = small._charsmap.replaced
    for key, text in REPLACEMENTS.items():
        assert replaced(key, 99)[0] == text, key
    assert replaced("xe\u0301\u0301\u0301", 99) == ("xê\u0301", [0, 1, 4])
    assert replaced("e", 99) == ("e", [0]) and replaced("½a", 2) is None
    within = Charsmap(charsmap({b"\xc3": "x", "a": "b"}), "")
    assert within.replaced("é a", 9) == ("é b", [0, 1, 2])


def test_without_added_tokens_and_replacements() -> None:
    files = bundle_files(added={})
    del files["charsmap.bin"]
    tokenizer = UnigramTokenizer.from_files(files)
    assert tokenizer.size == len(PIECES)
    assert tokenizer.tokens(tokenizer.encode("cat</s>½")) == ["▁cat", "<unk>", "s", "<unk>", "</s>"]


def test_a_bundle_s_tokenizer_is_read_by_its_kind() -> None:
    entries = {"t5": TokenizerEntry("unigram", 16, ("charsmap.bin", "unigram.json"))}
    bundle: Any = SimpleNamespace(tokenizers=entries, tokenizer_files=lambda name: bundle_files())
    found = _tokenizers(bundle)["t5"]
    assert found.length == 16 and found.bos is None and first_ids("cat", found).tolist()[:2] == [4, 1]
    bundle.tokenizer_files = lambda name: {"spiece.model": b""}
    with pytest.raises(BundleError, match=r"tokenizers/t5: is of the kind 'unigram' and has no unigram\.json"):
        _tokenizers(bundle)


def test_weights_of_a_text_begin_at_its_first_state(small: UnigramTokenizer) -> None:
    """Stable Diffusion 1.x around such a tokenizer: what its encoder gives is weighted where the words are."""

    def network(component: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if component == "text_encoder":
            return {"last_hidden_state": inputs["input_ids"][..., np.newaxis].astype(np.float32)}
        if component == "unet":
            return {"out_sample": np.zeros_like(inputs["sample"])}
        return {"sample": np.zeros((1, 3, 16, 24), np.float32)}

    device = OtherDevice(network)
    pipeline = Pipeline(spec_of(), device, {"tokenizer": small}, SD15, plans=plans_at(2, 3), size=(24, 16))
    pipeline("(cat:1.5) a", num_inference_steps=1, sampler="ddim", guidance_scale=1, emphasis="mean")
    states = next(arrays for name, _, arrays, _ in device.runs if name == "unet")["encoder_hidden_states"]
    assert states[0, :3, 0].tolist() == pytest.approx([4 * 1.5 * 13 / 15, 8 * 13 / 15, 1 * 13 / 15])
