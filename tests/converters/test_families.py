"""What the package itself holds of every family."""

from __future__ import annotations

import json

import pytest

from ondevice.converters.families import FAMILIES, family_of


def test_default_sources() -> None:
    assert FAMILIES["sd14"].source == "CompVis/stable-diffusion-v1-4"
    assert FAMILIES["sd15"].source == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert FAMILIES["demo"].source == str(FAMILIES["demo"].folder)
    assert family_of("sd14") is family_of(FAMILIES["sd14"]) is FAMILIES["sd14"]


@pytest.mark.parametrize("name", ["sd14", "sd15"])
def test_the_tokenizer_is_openai_clip(name: str) -> None:
    files = FAMILIES[name].tokenizer()
    vocabulary = json.loads(files["vocab.json"])
    assert len(vocabulary) == 49408
    assert vocabulary["<|endoftext|>"] == 49407
    assert files["merges.txt"].startswith(b"#version: 0.2\n")
    assert json.loads(files["tokenizer_config.json"])["model_max_length"] == 77
    assert json.loads(files["special_tokens_map.json"])["pad_token"] == "<|endoftext|>"


@pytest.mark.parametrize("name", ["sd14", "sd15"])
def test_the_scheduler_is_pndm(name: str) -> None:
    assert FAMILIES[name].scheduler()["_class_name"] == "PNDMScheduler"
