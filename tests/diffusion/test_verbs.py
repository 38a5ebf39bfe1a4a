"""`ondevice tokens` and `ondevice sampler` from the command line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from diffusion.sampler_helpers import SD15

from ondevice import cli
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.diffusion.samplers import SamplerTable, make_table
from ondevice.drawing import sampler, text
from ondevice.errors import UsageError


def test_tokens_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tokens", "a red cat"]) == 0
    assert capsys.readouterr().out.split("\n")[:3] == [" 49406  <|startoftext|>", "   320  a</w>", "   736  red</w>"]


def test_tokens_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main_for("tokens", ["cat, " * 40, "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert len(got["ids"]) == 82 and len(got["ids77"]) == 77 and got["left_out"] == 5
    assert got["tokens"][1:3] == ["cat</w>", ",</w>"]


def test_tokens_not_read_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tokens", "cat, " * 40]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [i for i, line in enumerate(lines) if "(not read)" in line] == [76, 77, 78, 79, 80]


def test_tokens_with_weights_in_chunks_and_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tokens", "a (cat:1.5) BREAK dog AND [sea]:0.5", "--long", "chunk"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    heads = [line for line in lines if line.startswith(("part", "chunk"))]
    assert heads == ["part 1, weight 1", "chunk 1", "chunk 2", "part 2, weight 0.5"]
    assert "2368  cat</w>  1.5" in lines and lines.count("49407  <|endoftext|>") == 3
    assert cli.main(["tokens", "(cat:1.5) AND [sea]:0.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["parts"]
    assert [part["weight"] for part in found] == [1, 0.5] and found[0]["chunks"] == [{"ids": [2368], "weights": [1.5]}]
    assert cli.main(["tokens", "(cat:1.5)", "--json", "--emphasis", "none"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"][0]["chunks"][0]["weights"] == [1] * 7


def test_how_texts_are_read_by_generate() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("prompt")
    text.add_arguments(parser)
    given = {"emphasis": "mean", "long": "fit"}
    assert text.fields(parser.parse_args(["x"])) == {"prompt": "x", "negative_prompt": None, **given}
    flags = ["x", "--emphasis", "compel", "--long", "chunk"]
    assert text.fields(parser.parse_args(flags))["long"] == "chunk"


@pytest.mark.parametrize("inside", ["tokenizer", "tokenizers/tokenizer"])  # of a checkpoint, of a bundle
def test_tokens_of_a_folder_that_holds_a_tokenizer(
    inside: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / inside
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    assert cli.main(["tokens", "a", "--tokenizer", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == [0, 2, 1]
    assert cli.main(["tokens", "a", "--tokenizer", str(tmp_path / "none")]) == 3
    assert "vocab.json: missing" in capsys.readouterr().err


def test_sampler_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sampler", "euler_a", "--steps", "2", "--set", "timestep_spacing=trailing"]) == 0
    out = capsys.readouterr().out
    assert "euler_a, 2 steps, 2 calls, 1 slots" in out and "noise" in out and "result: x0" in out
    assert [line.split()[0] for line in out.splitlines()[4:6]] == ["999.000", "499.000"]


def test_samplers_of_models_without_betas_have_a_config_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sampler", "flow_euler", "--steps", "2", "--set", "shift=3"]) == 0
    assert "flow_euler, 2 steps, 2 calls, 1 slots" in capsys.readouterr().out
    assert cli.main(["sampler", "euler", "--steps", "2", "--set", "sigmas=[9,2.5,0]"]) == 0
    assert "x0 = 9 noise" in capsys.readouterr().out


FLAGS: list[tuple[list[str], int | None, dict[str, Any]]] = [
    ([], None, {}),
    (["--karras"], None, {"use_karras_sigmas": True}),
    (["--schedule", "beta", "--spacing", "trailing"], None, {"use_beta_sigmas": True, "timestep_spacing": "trailing"}),
    (["--schedule", "ays", "--eta", "0"], None, {"ays": "sdxl", "eta": 0.0}),
    (["--sigmas", "14.6,7.5,2,0"], 3, {"sigmas": [14.6, 7.5, 2.0]}),
    (["--sigmas", "14.6,7.5", "--steps", "3"], 3, {"sigmas": [14.6, 7.5]}),
    (
        ["--set", "algorithm_type=sde-dpmsolver++", "--set", "solver_order=3"],
        None,
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
    ),
]


@pytest.mark.parametrize(("given", "steps", "options"), FLAGS)
def test_flags_of_generate_become_a_sampler_s_options(
    given: list[str], steps: int | None, options: dict[str, Any]
) -> None:
    parser = argparse.ArgumentParser()
    sampler.add_arguments(parser)
    xl = cast(PipelineSpec, SimpleNamespace(gives="picture", numbers={"original_width": None}))
    fields = sampler.fields(parser.parse_args(given), xl)
    assert (fields["num_inference_steps"], fields["sampler_options"]) == (steps, options)


def test_what_has_a_flag_of_its_own_is_not_set() -> None:
    parser = argparse.ArgumentParser()
    sampler.add_arguments(parser)
    with pytest.raises(UsageError, match=r"^--set: strength has a flag of its own\. Fix: use --strength\.$"):
        sampler.fields(parser.parse_args(["--set", "strength=0.3"]), cast(PipelineSpec, SimpleNamespace()))


def test_levels_that_are_no_numbers() -> None:
    with pytest.raises(UsageError, match=r"--sigmas: not a list of numbers .got '9,x'.\. Fix: write them with commas"):
        sampler.parse_sigmas("9,x")


def test_sampler_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.json").write_text(json.dumps(SD15))
    assert (
        cli.main_for(
            "sampler", ["ddim", "--steps", "4", "--config", str(tmp_path / "c.json"), "--set", "eta=0.5", "--json"]
        )
        == 0
    )
    got = json.loads(capsys.readouterr().out)
    assert got["timesteps"] == [751, 501, 251, 1]
    assert SamplerTable.from_json(got["table"]) == make_table("ddim", 4, SD15, eta=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "steps out of range"),
        (["--steps", "4", "--set", "eta"], "not KEY=VALUE"),
        (["--steps", "4", "--set", "eta=x"], "eta cannot be used"),
        (["--steps", "4", "--set", "nothing=1"], "no such option"),
        (["--steps", "4", "--config", "nowhere.json"], "no config can be read"),
    ],
)
def test_sampler_arguments_that_cannot_be_used(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sampler", "ddim", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", "{", "\xff", "[" * 5000])
def test_a_config_that_is_none(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.json").write_text(text, encoding="latin-1")
    assert cli.main(["sampler", "ddim", "--steps", "4", "--config", str(tmp_path / "c.json")]) == 2
    assert "config" in capsys.readouterr().err
