"""How a bundle's plans make a picture: the family's pipeline with what the checkpoint and the user chose,
and the tables of samplers."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from ondevice.bundle.format import Checker
from ondevice.bundle.pipeline import PipelineSpec
from ondevice.bundle.pipeline_file import parse_pipeline
from ondevice.bundle.writer import TokenizerFiles
from ondevice.converters import Model
from ondevice.converters.component import Checkpoint
from ondevice.converters.families import family_of
from ondevice.diffusion.samplers import make_table
from ondevice.diffusion.samplers.pipeline import Chosen, choose
from ondevice.errors import UsageError
from ondevice.vocabulary.files import CONFIG, UNIGRAM
from ondevice.vocabulary.settings import LENGTH, without_length

USUAL_SAMPLERS = ("euler", "euler_a", "dpmpp_2m", "ddim", "unipc", "flow_heun")
USUAL_STEPS = (1, 2, 4, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)
"""Of each of these samplers and the bundle's own, a bundle has tables of so many steps:
what a player without Python chooses from."""


def about(checkpoint: Checkpoint) -> dict[str, Any]:
    """Facts of a model for people; becomes the bundle's `model`."""
    # Its name alone: a bundle is given away, and the rest of the path is nobody's business.
    name = os.path.basename(os.path.abspath(checkpoint.source)) or "unknown"
    return {"family": checkpoint.family, "source": name} | (
        {"adapters": list(checkpoint.adapters)} if checkpoint.adapters else {}
    )


def pipeline_of(
    model: Model, components: Collection[str], sampler: str = "default", steps: int = 1, frames: int = 0
) -> dict[str, Any]:
    """The pipeline of a model, as docs/pipeline.md writes it.

    Args:
        components: those that there are plans of.
        sampler, steps: what is drawn with where the user says nothing.
        frames: of a film where the user says nothing; 0: as many as the model was trained with, or it draws none.
    """
    pipeline = cut(model.pipeline(), components) | {"sampler": {"name": sampler, "steps": steps}}
    if frames:
        name = pipeline["latents"]["frames"]
        pipeline |= {"numbers": pipeline["numbers"] | {name: pipeline["numbers"][name] | {"default": frames}}}
    return pipeline


def cut(pipeline: dict[str, Any], components: Collection[str]) -> dict[str, Any]:
    """A pipeline without what needs components that there are no plans of: a folder of ONNX files may lack what encodes
    pictures, and a fast decoder be too large for a target."""
    lost: set[str] = set()
    before = []
    for step in pipeline["before"]:
        reads = {step.get("sample")} | {feed.get("value") for feed in step.get("feed", {}).values()}
        if ("run" in step and step["run"] not in components) or reads & lost:
            lost |= set(step["keep"].values()) if "run" in step else {step["keep"]}
        else:
            before.append(step)
    if any(step["run"] not in components for step in pipeline.get("fast", ())):
        pipeline = {key: value for key, value in pipeline.items() if key != "fast"}
    latents = pipeline["latents"]
    if latents.get("begin") in lost:
        latents = {key: value for key, value in latents.items() if key not in ("begin", "strength", "mask")}
    if "mask" in pipeline["latents"] and "mask" not in latents:  # nor anything else of what a mask is for
        masks = (pipeline["latents"]["mask"]["picture"],)
        pictures = {name: picture for name, picture in pipeline["pictures"].items() if name not in masks}
        pipeline = {key: value for key, value in pipeline.items() if key != "outside"} | {"pictures": pictures}
    return pipeline | {"before": before, "latents": latents}


def spec_of(model: Model) -> PipelineSpec:
    """The same, read: what runs how often and in which passes."""
    return parse_pipeline(
        Checker("the family's pipeline"),
        pipeline_of(model, model.roles),
        model.roles,
        model.family.tokenizers,
        ("default_1",),
    )


def tokenizers(checkpoint: Checkpoint) -> dict[str, TokenizerFiles]:
    """The tokenizers of a checkpoint by the names of their folders, which its pipeline calls them."""
    parts = family_of(checkpoint.family).tokenizers
    lengths = {name: checkpoint.components[part].config["max_position_embeddings"] for name, part in parts.items()}
    found = {}
    for name, files in checkpoint.tokenizers.items():
        if lengths[name] != LENGTH and CONFIG in files:  # players read what the bundle says, beside a config of CLIP's
            files = files | {CONFIG: without_length(files[CONFIG])}
        found[name] = TokenizerFiles(files, lengths[name], "unigram" if UNIGRAM in files else "bpe")
    return found


def scheduler_of(model: Model, sampler: str | None) -> Chosen:
    """What is drawn with by default: `sampler`, or the checkpoint's own, or the nearest. Raises as `choose` does."""
    family, checkpoint = model.family, model.checkpoint
    changed, steps = family.changes_scheduler, family.steps
    return choose(checkpoint.scheduler, sampler, checkpoint.source, changed=changed, steps=steps)


def tables(chosen: Chosen) -> dict[str, Mapping[str, Any]]:
    """Sampler tables by name ("euler_20"), the bundle's default first;
    without those that the scheduler's config cannot give."""
    found: dict[str, Mapping[str, Any]] = {f"{chosen.sampler}_{chosen.table.steps}": chosen.table.to_json()}
    for sampler in dict.fromkeys((chosen.sampler, *USUAL_SAMPLERS)):
        for steps in USUAL_STEPS:
            try:
                found.setdefault(f"{sampler}_{steps}", make_table(sampler, steps, chosen.config).to_json())
            except UsageError:
                continue  # as `generate` would say: some configs go with some samplers and counts only
    return found
