"""What a bundle's pipeline, plans and tables are, from the family's pipeline and what the checkpoint has."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from diffusion.fake_networks import COMPONENTS, spec_of
from diffusion.sampler_helpers import SD15
from family_files import SMALL

from ondevice.bundle.format import Checker
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.bundle.pipeline_file import parse_pipeline
from ondevice.compiler.jobs import Job, jobs, left_out, plannable
from ondevice.compiler.picture import USUAL_SAMPLERS, USUAL_STEPS, cut, tables, tokenizers
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.diffusion.samplers.pipeline import choose
from ondevice.errors import GraphError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "pipeline"


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def parsed(whole: dict[str, Any], pipeline: dict[str, Any]) -> PipelineSpec:
    return parse_pipeline(Checker("test"), pipeline, whole["components"], whole["tokenizers"], whole["samplers"])


def test_without_the_picture_encoder_a_pipeline_begins_from_noise() -> None:
    whole = golden("sd1")
    value = copy.deepcopy(whole["pipeline"])
    assert cut(value, COMPONENTS) == value
    spec = parsed(whole, cut(value, ["text_encoder", "unet", "vae_decoder"]))
    assert [getattr(step, "component", None) for step in spec.before] == ["text_encoder", None]
    assert (spec.latents.begin, spec.latents.strength) == (None, None) and value == whole["pipeline"]
    assert (spec.latents.mask, spec.outside, [*spec.pictures]) == (None, None, ["image"])


def of(spec: PipelineSpec) -> list[tuple[str, int]]:
    return [
        (job.component, job.sizes["batch"]) for job in jobs(spec, lambda component: "text" not in component, [(64, 64)])
    ]


def test_what_reads_texts_is_there_for_each_of_their_lengths() -> None:
    lengths = {"unet": [77, 154]}
    found = jobs(spec_of(), lambda component: "text" not in component, [(64, 64)], lambda name: lengths.get(name, []))
    unets = [(job.sizes["batch"], job.sizes["tokens"]) for job in found if job.component == "unet"]
    assert unets == [(1, 77), (2, 77), (1, 154), (2, 154)]
    plans = [Job("unet", {"batch": batch, "tokens": 77}) for batch in (1, 2)]
    (line,) = left_out(spec_of(), plans, [(Job("unet", {"batch": 2, "tokens": 154}), "its arena is too large")])
    assert line == "unet: its arena is too large; left out, so the bundle has no texts of 154 tokens at this size"


def test_what_the_loop_runs_is_there_for_one_pass_and_for_all() -> None:
    assert of(spec_of()) == [("text_encoder", 1), ("unet", 1), ("unet", 2), ("vae_decoder", 1), ("vae_encoder", 1)]
    whole = golden("sd1")
    value = whole["pipeline"]
    loop = value["denoise"][0]
    later = copy.deepcopy(loop) | {"passes": loop["passes"][1:], "combine": {"first": 0, "add": []}, "from": 0.5}
    later["roles"][0]["keep"] = {"out_sample": "refined"}
    del later["guided"], later["rescale"]
    value["denoise"] = [loop | {"until": 0.5}, later | {"prediction": "refined"}]
    assert of(parsed(whole, value)) == of(spec_of())  # of two stretches, the one of fewer passes takes nothing away


@pytest.mark.parametrize(
    ("lacks", "left"),
    [
        (("vae_encoder", 1), "vae_encoder: it is fixed; left out, so the bundle has no --init-image at this size"),
        (("unet", 1), "unet: it is fixed; left out, so the bundle has no pictures without guidance"),
        (("unet", 2), "unet: it is fixed; left out, so the bundle has guidance in two passes, which is slower"),
        (("vae_decoder", 1), None),
        (("text_encoder", 1), None),
    ],
)
def test_plans_that_a_checkpoint_has_no_graph_for(lacks: tuple[str, int], left: str | None) -> None:
    model: Any = SimpleNamespace(
        lacks=lambda component, **sizes: "it is fixed" if (component, sizes["batch"]) == lacks else None,
        checkpoint=SimpleNamespace(source="f"),
    )
    found: list[str] = []
    todo = [Job(component, {"batch": batch}) for component, batch in of(spec_of())]
    if left is None:
        with pytest.raises(GraphError, match=f"^f: {lacks[0]}: it is fixed"):
            plannable(model, spec_of(), todo, found)
        return
    kept = plannable(model, spec_of(), todo, found)
    assert [job for job in todo if (job.component, job.sizes["batch"]) != lacks] == kept and found == [left]


def test_tables_of_the_usual_samplers_and_steps() -> None:
    """The bundle's own first, then as many as the scheduler's config can give."""
    found = tables(choose(SD15, "heun", "f"))
    assert next(iter(found)) == "heun_20"
    usual = [name for name in USUAL_SAMPLERS if not name.startswith("flow_")]  # those are for flow matching alone
    assert found.keys() == {f"{name}_{steps}" for name in (*usual, "heun") for steps in USUAL_STEPS}
    few = tables(choose(SD15 | {"num_train_timesteps": 12}, "ddim", "f"))
    assert "euler_12" in few and "ddim_50" not in few


def test_a_text_of_another_length_is_said_beside_the_tokenizers_files() -> None:
    """And not in them, where players ask for CLIP's."""
    for name, length, said in (("sdxs", 248, None), ("ssd-1b", 77, 77)):
        held = tokenizers(random_checkpoint_from_configs(**SMALL[name], seed=1, family=name))["tokenizer"]
        assert held.length == length
        assert json.loads(held.files["tokenizer_config.json"]).get("model_max_length") == said
