"""The sampler that `convert` gives a bundle, and what is refused before the work."""

import json
import math
from dataclasses import replace

import pytest
from tiny_model import TINY

from ondevice import cli
from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.diffusion.samplers import SamplerTable, make_table
from ondevice.diffusion.samplers.pipeline import choose
from ondevice.errors import CheckpointError, StrictError, UsageError

F32, PLAIN = Recipe("f32"), Recipe("f32", without=("all",))
SMALL = [(10, 6)]
OTHER = "there is no sampler here for RePaintScheduler; the bundle's default is ddim (choose with --sampler)"


@pytest.fixture(scope="module")
def checkpoint():
    random_weights = random_checkpoint_from_configs(**TINY, seed=1)
    return replace(
        random_weights,
        scheduler={"beta_start": 0.00085, "beta_end": 0.012, "_class_name": "RePaintScheduler"},
        source="m",
    )


def of(checkpoint, **changes):
    return replace(checkpoint, scheduler=checkpoint.scheduler | changes)


@pytest.mark.parametrize(
    ("changes", "sampler", "name", "said"),
    [
        ({}, None, "ddim", OTHER),
        ({}, "lms", "lms", "m: the scheduler's steps_offset is absent; 1 is taken"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -math.inf, "steps_offset": 1},
            None,
            "dpmpp_2m",
            None,
        ),
    ],
)
def test_a_bundle_s_sampler(checkpoint, tmp_path, caplog, changes, sampler, name, said):
    bundle = open_bundle(
        compile_bundle(of(checkpoint, **changes), tmp_path / "b", F32, sampler=sampler, sizes=SMALL), verify=True
    )
    assert (bundle.pipeline.sampler, bundle.pipeline.steps) == (name, 20) and bundle.scheduler["steps_offset"] == 1
    assert SamplerTable.from_json(bundle.sampler(f"{name}_20")) == make_table(name, 20, bundle.scheduler)
    assert choose(bundle.scheduler, None, "").sampler == name
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert any(said in line for line in warned) if said else not warned


def test_strict_refuses_another_sampler_and_not_what_diffusers_does(checkpoint, tmp_path):
    with pytest.raises(StrictError) as caught:
        compile_bundle(checkpoint, tmp_path / "b", PLAIN, strict=True, sizes=SMALL)
    assert str(caught.value).startswith(f"--strict: 1 fallback (expected none): {OTHER}.") and not list(
        tmp_path.iterdir()
    )
    compile_bundle(of(checkpoint, _class_name="DDIMScheduler"), tmp_path / "b", PLAIN, strict=True, sizes=SMALL)


def test_what_no_sampler_can_use_is_refused_before_the_work(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("ondevice.compiler.compile.planned_each", lambda *_: pytest.fail("a plan was made"))
    with pytest.raises(
        CheckpointError,
        match=r"^m: the scheduler's config can be used by no sampler: beta_end cannot be used \(got inf,",
    ):
        compile_bundle(of(checkpoint, beta_end=math.inf), tmp_path / "b", F32, sizes=SMALL)
    with pytest.raises(
        UsageError, match=r"^--sampler: unipc cannot use .*: solver_p .* Fix: choose another, such as ddim\.$"
    ):
        compile_bundle(of(checkpoint, solver_p="ddim"), tmp_path / "b", F32, sampler="unipc", sizes=SMALL)
    assert not list(tmp_path.iterdir())


def test_the_command_line(tmp_path):
    words = ["convert", "demo", "--size", "64x64", "--sampler", "heun", "--out", str(tmp_path / "b")]
    assert cli.main(words) == 0
    scheduler = json.loads((tmp_path / "b" / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler == open_checkpoint(None, family="demo").scheduler | {"_class_name": "HeunDiscreteScheduler"}
    assert (tmp_path / "b" / "samplers" / "heun_20.json").exists()
