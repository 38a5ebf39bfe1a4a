"""A prediction counts what a picture runs: as a drawn one does, of a model as of the bundle that is made of it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from checkpoint_files import tiny_checkpoint
from family_files import TINY
from null_device import NullDevice

from ondevice import cli
from ondevice.bundle import open_bundle
from ondevice.compiler import Recipe, compile_bundle, planning
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.diffusion.pipeline import Pipeline
from ondevice.errors import BundleError, UsageError
from ondevice.measure.predict import prediction
from ondevice.measure.predict.constants import constants
from ondevice.measure.predict.cost import costs
from ondevice.measure.predict.paper import OPTIMIZATIONS, left_out, paper_ablation
from ondevice.rewrite import CHOICES
from ondevice.run.session import Session
from ondevice.target import load_target

PHONE = load_target("adreno_740")
SIZE = (40, 56)  # pixels


class Zeros(NullDevice):
    """All that is read of it is 0."""

    def read(self, buffer, shape, dtype):
        return np.zeros(shape, dtype)


class Counting(Session):
    """Counts what is run."""

    def __init__(self, bundle):
        super().__init__(bundle, Zeros())
        self.counts = Counter()

    def _run(self, component, inputs, sizes, *rest):
        self.counts[component, tuple(sorted(sizes.items()))] += 1
        return super()._run(component, inputs, sizes, *rest)


def checkpoint(family):
    return (
        random_checkpoint_from_configs(**TINY[family], seed=3, family=family) if family in TINY else tiny_checkpoint()
    )


def too_large(plan, limits):
    """Of a device that has room for one pass at a time, and for a decoder in bands."""
    fits = plan.component in ("text_encoder", "keys_values") or "stage" in plan.sizes
    return None if fits or (plan.component == "unet" and plan.sizes["batch"] == 1) else "it"


@pytest.mark.parametrize("family, small", [("sd14", False), ("sdxl", False), ("sd14", True)])
def test_a_picture_runs_what_is_counted(family, small, tmp_path, monkeypatch):
    if small:
        monkeypatch.setattr(planning, "BAND", 24)
        monkeypatch.setattr(planning, "too_large", too_large)
    source, recipe = checkpoint(family), Recipe(target=PHONE)
    bundle = open_bundle(compile_bundle(source, tmp_path / "b", recipe, sizes=[SIZE]))
    session = Counting(bundle)
    Pipeline.of(bundle, session)("a prompt", num_inference_steps=3, sampler="euler")
    found = prediction.of_bundle(bundle, PHONE, 3)
    assert {(part.component, tuple(sorted(part.sizes.items()))): part.times for part in found.parts} == session.counts
    assert found.size == SIZE and found == prediction.of_model(source, recipe, 3, SIZE)
    assert any("stage" in part.sizes for part in found.parts) == small


def test_guidance_takes_two_runs_where_there_is_no_plan_of_both(tmp_path):
    bundle = open_bundle(compile_bundle(tiny_checkpoint(), tmp_path / "b", Recipe(target=PHONE), sizes=[SIZE]))
    both, texts = prediction.of_bundle(bundle, PHONE, 20), {}
    for part in both.parts:
        texts[part.component] = (part.times, part.sizes["batch"])
    assert texts == {"text_encoder": (2, 1), "keys_values": (2, 1), "unet": (20, 2), "vae_decoder": (1, 1)}
    single = tuple(entry for entry in bundle.plans if entry.sizes["batch"] == 1)
    bundle.manifest = replace(bundle.manifest, plans=single)
    one = {part.component: part.times for part in prediction.of_bundle(bundle, PHONE, 20).parts}
    assert one == {"text_encoder": 2, "keys_values": 2, "unet": 40, "vae_decoder": 1}
    bundle.manifest = replace(bundle.manifest, plans=tuple(e for e in single if e.component != "vae_decoder"))
    with pytest.raises(UsageError) as caught:
        prediction.of_bundle(bundle, PHONE, 20)
    assert str(caught.value) == (
        "--predict: there is no plan of vae_decoder at batch=1 height=28 width=20. Fix: convert the checkpoint again."
    )


def test_a_bundle_for_several_targets_has_plans_for_each(tmp_path):
    other = load_target("mali_g715")
    recipe = Recipe(target=PHONE, others=[other], set_name="two")
    bundle = open_bundle(compile_bundle(tiny_checkpoint(), tmp_path / "b", recipe, sizes=[SIZE]))
    for target in (PHONE, other):
        own = prediction.of_model(tiny_checkpoint(), Recipe(target=target), 20, SIZE)
        assert prediction.of_bundle(bundle, target, 20) == own
    with pytest.raises(UsageError) as caught:
        prediction.of_bundle(bundle, load_target("apple_a16"), 20)
    assert str(caught.value) == (
        "--predict: b has no plans for apple_a16 (it has those for adreno_740, mali_g715). Fix: convert again with "
        "`--target apple_a16`, or name the model: `ondevice bench sd14 --predict apple_a16`."
    )
    with pytest.raises(BundleError, match=r"b: has no plan for 41x56 \(it has 40x56\)"):
        prediction.of_bundle(bundle, PHONE, 20, (41, 56))


def test_a_part_is_its_plans_dispatches():
    picture = prediction.model_runs(tiny_checkpoint(), Recipe(target=PHONE), 5, SIZE)
    for run in picture.runs:
        part = prediction.part_of(run, PHONE.roofline, constants().efficiencies)
        found = list(costs(run.plan, PHONE.roofline, constants().efficiencies))
        assert part.total.launches == len(run.plan.dispatches) == sum(one.launches for one in part.classes.values())
        assert part.total.seconds == pytest.approx(sum(one.seconds for one in found))
        assert part.total.seconds == pytest.approx(sum(one.seconds for one in part.classes.values()))
        assert part.seconds == part.times * part.total.seconds


def test_the_papers_baseline_is_without_its_four_optimizations_and_nothing_else():
    steps = paper_ablation(tiny_checkpoint(), Recipe(target=PHONE), SIZE)
    assert [step.optimizations for step in steps] == ["baseline", *(f"+ {name}" for name in OPTIMIZATIONS)]
    assert steps[0].without == left_out(0) and set(left_out(0)) <= set(CHOICES) and steps[-1].without == ()
    assert [step.published for step in steps] == [None, None, None, None, 52.2]
    assert steps[0].reduction == 0 and steps[-1].reduction > 0 and steps[0].total.launches > steps[-1].total.launches


@pytest.mark.parametrize(
    "words, said",
    [
        (["--predict", "host"], "--predict: target 'host' says nothing of what its devices reach (expected one of "),
        (["--predict", "phone"], "--predict: target 'phone' is unknown (expected one of adreno_6xx, "),
        (["--predict", "adreno_740", "--target", "gpu"], "--target: --predict names the target, and nothing was "),
        (["--predict", "adreno_740", "--device", "cpu"], "--device: a prediction is of a picture's plans; nothing "),
        (["--predict", "adreno_740", "--steps", "0"], "--steps: a picture takes 1 step or more (got 0). Fix: use 20."),
        (["--steps", "3"], "--steps: it goes only with --predict, and with phones. Fix: leave --steps out."),
    ],
)
def test_what_cannot_be_predicted(words, said, capsys):
    assert cli.main(["bench", "demo", *words]) == UsageError.exit_code
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_on_the_command_line(capsys):
    words = ["bench", "demo", "--predict", "mali_g720", "--size", "64x64", "--steps", "4"]
    assert cli.main(words) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == constants().about() and " in 4 steps on mali_g720: " in second
    assert cli.main([*words[:4], "--size", "64x64", "--ablation", "--markdown"]) == 0
    assert "| + Winograd |  |" in capsys.readouterr().out
