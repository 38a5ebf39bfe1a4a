"""Settings of recipes: flags, a JSON file, defaults, and what is refused."""

import argparse
import importlib
import json
import sys
import types

import pytest

from ondevice import cli
from ondevice.errors import UsageError
from ondevice.train import RECIPES
from ondevice.train.settings import NEEDED, Setting, add_flags, changed, settings_of

GROUPS = {
    "a": (
        Setting("rank", 4, int, "of it", 1, 64, also=("lora_rank",)),
        Setting("data_dir", NEEDED, str, "pictures"),
        Setting("rate", None, float, "100 % of it", 0),
        Setting("flip", False, bool, "mirror"),
    ),
    "b": (
        Setting("kind", "x", str, "which", choices=("x", "y")),
        Setting("parts", ("p", "q"), str, "which", several=True),
    ),
}


def read(*words):
    parser = argparse.ArgumentParser()
    add_flags(parser, GROUPS)
    return settings_of(parser.parse_args([str(word) for word in words]), GROUPS)


def test_flags_come_before_the_file_and_that_before_defaults(tmp_path):
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"lora_rank": 8, "data_dir": "d", "rate": 1, "flip": True, "parts": ["r"]}))
    assert vars(read(file, "--rank", "16", "--kind", "y")) == {
        "rank": 16, "data_dir": "d", "rate": 1.0, "flip": True, "kind": "y", "parts": ("r",)
    }  # fmt: skip
    assert vars(read("--data_dir", "e", "--flip", "--parts", "s", "t", "--lora_rank", "2")) == {
        "rank": 2, "data_dir": "e", "rate": None, "flip": True, "kind": "x", "parts": ("s", "t")
    }  # fmt: skip
    assert read("--data_dir", "e", "--flip", "no").flip is False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "rank is out of range (got 0, expected 1 to 64). Fix: correct it."),
        ({"rank": 1.5}, "rank is not a whole number (got 1.5)."),
        ({"rank": True}, "rank is not a whole number (got true)."),
        ({"rate": "much"}, "rate is not a number (got much)."),
        ({"rate": -1}, "rate is out of range (got -1, expected 0 or more)."),
        ({"flip": "perhaps"}, "flip is not true or false (got perhaps)."),
        ({"kind": "z"}, "kind is unknown (got z, expected one of x, y). Fix: use x."),
        ({"kind": 1}, "kind is not a text (got 1)."),
        ({"rnak": 1}, "'rnak' is no setting of this recipe. Fix: write rank."),
        ({"rank": 1, "lora_rank": 2}, "lora_rank is another name of rank, and both are there."),
        ([], "it is no JSON object of settings."),
    ],
)
def test_values_that_are_refused(values, message, tmp_path):
    file = tmp_path / "c.json"
    file.write_text(json.dumps(values))
    with pytest.raises(UsageError) as caught:
        read(file, "--data_dir", "d")
    assert str(caught.value).startswith(f"{file}: {message}")


def test_files_that_are_refused(tmp_path):
    file = tmp_path / "c.json"
    with pytest.raises(UsageError, match=r"it cannot be read \(No such file or directory\)\. Fix: give a JSON"):
        read(file)
    for data in (b"{", b"\xff", b"[" * 100_000, b" " * ((1 << 20) + 1)):
        file.write_bytes(data)
        with pytest.raises(UsageError, match="it is no JSON"):
            read(file)
    with pytest.raises(
        UsageError, match=r"^train: data_dir is not given\. Fix: give --data_dir, or put it into CONFIG"
    ):
        read()
    with pytest.raises(UsageError, match=r"^--rank: rank is not a whole number \(got two\)\."):
        read("--data_dir", "d", "--rank", "two")


def test_other_defaults():
    (rank, *_) = changed(GROUPS["a"], rank=2)
    assert (rank.default, GROUPS["a"][0].default) == (2, 4)


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_describes_itself(name, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", name, "--help"])
    shown = capsys.readouterr().out
    settings = [one for group in importlib.import_module(f"ondevice.train.{name}").SETTINGS.values() for one in group]
    assert len({one.name for one in settings}) == len(settings)
    assert all(f"--{one.name}" in shown for one in settings)
    for one in settings:  # a default is a value that is allowed
        assert (
            one.default in (NEEDED, None)
            or one.of(list(one.default) if one.several else one.default, "here") is not None
        )


@pytest.mark.parametrize("package", ["torch", "tensorboardX"])
def test_a_missing_package(package, monkeypatch, capsys):
    for name in ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None if name == package else types.ModuleType(name))
    words = ["train", "lora", "--pretrained_model_name_or_path", "demo", "--data_dir", "d", "--output_dir", "o"]
    assert cli.main(words) == 2
    said = f"error: train: the packages that train are missing ({package}). Fix: pip install 'ondevice[train]'.\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--with_prior_preservation"],
            "--class_data_dir: prior preservation needs pictures of a class and their capt",
        ),
        (["--class_prompt", "x", "--with_prior_preservation"], "--class_data_dir: prior preservation needs pictures"),
        (["--class_data_dir", "x", "--with_prior_preservation"], "--class_prompt: prior preservation needs pictures"),
    ],
)
def test_a_prior_needs_pictures(words, message, capsys):
    given = ["--pretrained_model_name_or_path", "demo", "--instance_data_dir", "d", "--instance_prompt", "p"]
    assert cli.main(["train", "dreambooth", *given, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_published_file_of_settings(tmp_path):
    """SingleZombie/DiffusersExample's LoRA/cfg/mountain.json, and what else its script reads: names, and false for no
    checkpoint."""
    from ondevice.train import lora

    given = {
        "log_dir": "log", "output_dir": "ckpt", "data_dir": "dataset/mountain", "ckpt_name": "mountain",
        "gradient_accumulation_steps": 1, "pretrained_model_name_or_path": "sd15", "rank": 8,
        "enable_xformers_memory_efficient_attention": True, "learning_rate": 1e-4, "adam_beta1": 0.9,
        "adam_beta2": 0.999, "adam_weight_decay": 1e-2, "adam_epsilon": 1e-08, "resolution": 512, "n_epochs": 200,
        "checkpointing_steps": 500, "train_batch_size": 1, "dataloader_num_workers": 1,
        "lr_scheduler_name": "constant", "resume_from_checkpoint": False, "noise_offset": 0.1, "max_grad_norm": 1.0,
        "mixed_precision": None, "seed": None,
    }  # fmt: skip
    (tmp_path / "mountain.json").write_text(json.dumps(given))
    parser = argparse.ArgumentParser()
    add_flags(parser, lora.SETTINGS)
    found = settings_of(parser.parse_args([str(tmp_path / "mountain.json")]), lora.SETTINGS)
    names = {"log_dir": "logging_dir", "n_epochs": "num_train_epochs", "lr_scheduler_name": "lr_scheduler"}
    for name, value in given.items():
        assert getattr(found, names.get(name, name)) == (value or None), name
    for name in ("log_dir", "ckpt_name"):  # a text that is needed, or has a default, is none
        (tmp_path / "mountain.json").write_text(json.dumps(given | {name: False}))
        with pytest.raises(UsageError, match=r"is not a text \(got false\)"):
            settings_of(parser.parse_args([str(tmp_path / "mountain.json")]), lora.SETTINGS)


def test_where_steps_are_logged_and_what_xl_is_told():
    """Flags of the scripts, as they have them."""
    from ondevice.train import lcm, lora

    def read(recipe, *words):
        parser = argparse.ArgumentParser()
        add_flags(parser, recipe.SETTINGS)
        given = ["--pretrained_model_name_or_path", "m", "--data_dir", "d", "--output_dir", "o"]
        return settings_of(parser.parse_args([*(given if recipe is lora else [*given[:2], *given[4:]]), *words]),
                           recipe.SETTINGS)  # fmt: skip

    found = read(lora, "--report_to", "tensorboard", "--train_text_encoder", "--text_encoder_learning_rate", "1e-5")
    assert found.train_text_encoder is True and found.text_encoder_lr == 1e-5 and found.resolution is None
    assert read(lcm, "--use_fix_crop_and_size").use_fix_crop_and_size is True
    with pytest.raises(UsageError, match=r"unet_time_cond_proj_dim"):  # of 3 a sine is divided by 0
        read(lcm, "--unet_time_cond_proj_dim", "3")
    with pytest.raises(UsageError, match=r"report_to is unknown \(got wandb, expected one of tensorboard\)"):
        read(lora, "--report_to", "wandb")
