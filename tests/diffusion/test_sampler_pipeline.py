"""A checkpoint's scheduler config as diffusers' pipeline has it, and the sampler that a bundle gets:
its own, the nearest, or none."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import pytest
from diffusion.sampler_helpers import SD15

from ondevice import cli
from ondevice.diffusion.samplers import CLASSES, SAMPLERS, WITHOUT_BETAS, make_table
from ondevice.diffusion.samplers.pipeline import CLASS_OF, NEAREST, as_in_pipeline, choose
from ondevice.errors import CheckpointError, UsageError

DDIM = SD15 | {"_class_name": "DDIMScheduler"}
OFFSET, CLIP = (
    "the scheduler's steps_offset is {}; 1 is taken, as",
    "the scheduler's clip_sample is {}; false is taken, as",
)
GONE = object()


def changed(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (config | changes).items() if value is not GONE}


@pytest.mark.parametrize("name", [name for name, sampler in CLASSES.items() if sampler not in WITHOUT_BETAS])
@pytest.mark.parametrize(
    ("given", "said"), [(1, None), (1.0, None), (GONE, "absent"), (0, "0"), (None, "None"), (37, "37"), ("0", "0")]
)
def test_steps_offset_is_1_for_every_class(name: str, given: Any, said: str | None) -> None:
    chosen = choose(changed(SD15, _class_name=name, steps_offset=given), None, "folder")
    assert chosen.table == make_table(CLASSES[name], 20, SD15) and chosen.config["steps_offset"] == 1
    notes = [note for note in chosen.notes if "Brownian" not in note]
    assert [note[: len(OFFSET) - 2 + len(str(said))] for note in notes] == ([OFFSET.format(said)] if said else [])
    assert (len(notes) < len(chosen.notes)) == (name == "DPMSolverSDEScheduler")


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("DDIMScheduler", True, "true"),
        ("DDIMScheduler", GONE, "absent, which means true"),
        ("DDPMScheduler", GONE, "absent, which means true"),
        ("FlaxDDIMScheduler", GONE, "absent, which means true"),
        ("LCMScheduler", True, "true"),
        ("HeunDiscreteScheduler", True, "true"),
        ("PNDMScheduler", True, "true"),
        ("LCMScheduler", GONE, None),
        ("PNDMScheduler", GONE, None),
        ("DDIMScheduler", False, None),
        ("DDIMScheduler", None, None),
    ],
)
def test_clip_sample_is_off_in_a_latent(name: str, given: Any, said: str | None) -> None:
    chosen = choose(changed(SD15, _class_name=name, clip_sample=given), None, "folder")
    assert chosen.sampler == CLASSES[name.removeprefix("Flax")] and not chosen.fallback
    assert [note[: len(CLIP) - 2 + len(str(said))] for note in chosen.notes] == ([CLIP.format(said)] if said else [])
    for sampler in set(SAMPLERS) - set(WITHOUT_BETAS):  # a swap at `generate` finds it off, too
        assert make_table(sampler, 4, chosen.config) == make_table(sampler, 4, SD15)


def test_a_config_that_is_right_stays_as_it_is() -> None:
    assert as_in_pipeline(SD15) == (SD15, [])
    chosen = choose(SD15, None, "folder")
    assert (chosen.config, chosen.notes, chosen.fallback) == (SD15, (), "")


@pytest.mark.parametrize(
    ("changes", "sampler", "fallback"),
    [
        (
            {"_class_name": "DPMSolverSinglestepScheduler", "thresholding": True},
            "euler",
            "with this config dpmpp_2s cannot draw as DPMSolverSinglestepScheduler does: thresholding cannot",
        ),
        (
            {"_class_name": "DEISMultistepScheduler", "solver_type": "rk45"},
            "ddim",
            "with this config deis cannot draw",
        ),
        (
            {"_class_name": "VQDiffusionScheduler"},
            "ddim",
            "there is no sampler here for VQDiffusionScheduler",
        ),
        (
            {"_class_name": "diffusion_tools.DDPMScheduler"},
            "ddpm",
            "there is no sampler here for diffusion_tools.DDPMScheduler",
        ),
        ({"_class_name": "MyScheduler"}, "ddim", "there is no sampler here for MyScheduler"),
        ({"_class_name": ["PNDMScheduler"]}, "ddim", "there is no sampler here for a class without a name"),
        ({"_class_name": "a\x1b[31m\nb"}, "ddim", "there is no sampler here for a class without a name"),
        (
            {"_class_name": "DDIMScheduler", "thresholding": True},
            "euler",
            "with this config ddim cannot draw as DDIMScheduler does: thresholding cannot be used (got True",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "predict_x0": False},
            "dpmpp_2m",
            "with this config unipc cannot draw",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_dynamic_shifting": True},
            "dpmpp_2m",
            "with this config unipc cannot draw",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"},
            "unipc",
            "with this config dpmpp_2m cannot draw",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "variance_type": "learned_range"},
            "unipc",
            "with this config dpmpp_2m cannot",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": 1e300},
            "unipc",
            "with this config dpmpp_2m cannot draw",
        ),
        (
            {"_class_name": "DDPMScheduler", "variance_type": "learned"},
            "ddim",
            "with this config ddpm cannot draw as DDPMScheduler does",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True, "use_karras_sigmas": True},
            "ddim",
            "with this config euler cannot draw as Euler",
        ),
        (
            {"_class_name": "PNDMScheduler", "prediction_type": "sample"},
            "ddim",
            "with this config pndm cannot draw as PNDMScheduler does",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "sigma_max": math.inf},
            "ddim",
            "with this config euler cannot draw",
        ),
    ],
)
def test_what_no_sampler_here_follows_gets_the_nearest(changes: dict[str, Any], sampler: str, fallback: str) -> None:
    chosen = choose(SD15 | changes, None, "folder")
    assert (chosen.sampler, chosen.config["_class_name"]) == (sampler, CLASS_OF[sampler])
    assert chosen.fallback.startswith(fallback) and chosen.fallback.endswith(
        f"; the bundle's default is {sampler} (choose with --sampler)"
    )
    assert len(chosen.fallback) <= 300 and ("sigma_max" in changes or not chosen.notes)
    json.dumps(chosen.config, allow_nan=False)
    wanted = "ddpm" if "prediction_type" in changes else "euler_a"
    named = choose(SD15 | changes, wanted, "folder")
    assert (named.sampler, named.fallback, named.config["_class_name"]) == (wanted, "", CLASS_OF[wanted])


def test_the_table_of_nearest_names_samplers() -> None:
    assert set(NEAREST.values()) <= set(SAMPLERS) and {CLASSES[name] for name in CLASS_OF.values()} == set(SAMPLERS)
    assert CLASS_OF["ddim"] == "DDIMScheduler"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"beta_start": 1e308}, "beta_start cannot be used (got 1e+308, expected a number from 0 to 0.999)"),
        ({"beta_end": math.inf}, "beta_end cannot be used (got inf, expected"),
        ({"beta_end": math.nan}, "beta_end cannot be used (got nan, expected"),
        ({"beta_end": 10**400}, "beta_end cannot be used (got a whole number of 1329 bits, expected"),
        ({"beta_start": "0.1" * 999}, "beta_start cannot be used (got '0.10.1"),
        ({"beta_start": None}, "beta_start cannot be used (got None"),
        ({"beta_schedule": "line"}, "beta_schedule cannot be used (got 'line', expected linear or"),
        ({"num_train_timesteps": 0}, "num_train_timesteps cannot be used (got 0, expected an integer from 1 to"),
        ({"num_train_timesteps": 1e3}, "num_train_timesteps cannot be used (got 1000.0"),
        ({"num_train_timesteps": 10**400}, "num_train_timesteps cannot be used (got a whole number of"),
        ({"trained_betas": [0.1] * 999}, "trained_betas cannot be used (got a list of 999, expected 1000 numbers)"),
        (
            {"trained_betas": [math.nan] * 1000},
            "trained_betas cannot be used (got a list of 1000, expected numbers from 0 to 0.999)",
        ),
        ({"prediction_type": {"a": [{}]}}, "prediction_type cannot be used (got an object of 1, expected"),
        ({"timestep_spacing": "even\x1b[0m"}, "timestep_spacing cannot be used (got 'even?[0m', expected"),
    ],
)
def test_values_that_no_sampler_can_use(changes: dict[str, Any], what: str) -> None:
    for wanted in (None, "heun"):
        with pytest.raises(CheckpointError) as caught:
            choose(SD15 | changes, wanted, "folder")
        said = str(caught.value)
        assert said.startswith(f"folder: the scheduler's config can be used by no sampler: {what}") and len(said) <= 500
        assert said.endswith(
            "Fix: mend the value, or put the scheduler/ folder of a Stable Diffusion 1.x model in its place."
        )


def test_a_sampler_that_was_asked_for_and_cannot_use_the_config() -> None:
    with pytest.raises(UsageError) as caught:
        choose(DDIM | {"thresholding": True}, "unipc", "folder")
    assert str(caught.value) == (
        "--sampler: unipc cannot use the checkpoint's scheduler config: "
        "thresholding cannot be used (got True, expected false or none)."
        " Fix: choose another, such as euler."
    )


def test_models_without_betas_draw_with_samplers_of_their_kind() -> None:
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    assert choose(flow, None, "folder", changed=False).table == make_table("flow_euler", 20, {"shift": 3.0})
    other = choose(flow | {"use_dynamic_shifting": True}, None, "folder")
    assert (other.sampler, other.config["_class_name"]) == ("flow_heun", "FlowMatchHeunDiscreteScheduler")
    assert other.fallback.startswith("with this config flow_euler cannot draw as FlowMatchEulerDiscreteScheduler does")
    with pytest.raises(CheckpointError, match="can be used by no sampler: shift cannot be used"):
        choose(flow | {"shift": "3"}, None, "folder")
    with pytest.raises(UsageError) as caught:
        choose(flow, "euler", "folder", changed=False)
    assert str(caught.value) == (
        "--sampler: euler cannot use the checkpoint's scheduler config: the model was trained for flow matching "
        "(its scheduler is a FlowMatchEulerDiscreteScheduler). Fix: choose another, such as flow_euler."
    )
    with pytest.raises(UsageError, match="sampler ddim: the model was trained for flow matching"):
        make_table("ddim", 4, flow)


def test_what_a_bundle_cannot_hold_is_left_out() -> None:
    """diffusers writes -Infinity as lambda_min_clipped's default; nothing is said of that one."""
    chosen = choose(SD15 | {"lambda_min_clipped": -math.inf}, None, "folder")
    assert chosen.config == SD15 and not chosen.notes
    assert (
        choose(SD15 | {"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -math.inf}, None, "").sampler
        == "dpmpp_2m"
    )
    odd = {
        "sigma_max": math.inf,
        "a\nb": 1,
        "deep": {"x": [1]},
        "word": "\ud800",
        "big": 10**30,
        "list": [math.nan],
        "many": "x" * 201,
    }
    chosen = choose(SD15 | odd, None, "folder")
    assert chosen.config == SD15
    assert chosen.notes == (
        "values of the scheduler's config that a bundle cannot hold were left out: "
        "sigma_max, a?b, deep, word, big and 2 more",
    )


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"num_train_timesteps": 15}, 13),
        ({"num_train_timesteps": 15, "_class_name": "UniPCMultistepScheduler", "timestep_spacing": "leading"}, 13),
        ({"num_train_timesteps": 2, "_class_name": "DDIMScheduler"}, 1),
        ({"original_inference_steps": 4, "_class_name": "LCMScheduler"}, 4),
        ({"original_inference_steps": 4, "_class_name": "DDIMScheduler"}, 20),
    ],
)
def test_short_schedules_get_shorter_tables(changes: dict[str, Any], steps: int) -> None:
    chosen = choose(SD15 | changes, None, "folder")
    assert (chosen.table.steps, chosen.fallback) == (steps, "")


def test_the_sampler_verb_prints_what_a_bundle_would_draw(
    tmp_path: Any, capsys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(changed(DDIM, clip_sample=GONE, steps_offset=GONE)))
    with caplog.at_level(logging.WARNING, "ondevice"):
        assert cli.main_for("sampler", ["ddim", "--steps", "4", "--config", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["timesteps"] == [751, 501, 251, 1]
    assert "clip_sample is absent" in caplog.text and "steps_offset is absent" in caplog.text
    assert cli.main_for("sampler", ["ddim", "--steps", "4", "--config", str(path), "--set", "clip_sample=true"]) == 2
    assert capsys.readouterr().err == (
        "error: sampler ddim: clip_sample cannot be used (got True, expected false or none). Fix: "
        "give another value, or leave it out.\n"
    )
