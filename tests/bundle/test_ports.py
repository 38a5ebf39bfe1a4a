"""What the components of a text-to-image model take and make is checked when a plan is read:
both ends, and from stage to stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bundle.picture_bundle import PLACE, component_plan, picture_plans, write_picture
from bundle.setting import Setting, setting
from bundle.tiny_bundle import edit_json

from ondevice.bundle import open_bundle
from ondevice.bundle.format import Checker
from ondevice.bundle.pipeline_file import parse_pipeline
from ondevice.bundle.ports import Seen, check_ports
from ondevice.errors import BundleError
from ondevice.plan.plan import Plan

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "pipeline"
UNET, DECODER, TEXT = "plans/unet_b1_4x2.json", "plans/vae_decoder_b1_4x2.json", "plans/text_encoder_b1.json"
STAGES = [f"plans/vae_decoder_b1_4x2_rows6_stage{number}.json" for number in (1, 2, 3)]


def shape(operand: int, *sizes: int) -> Setting:
    """Another shape of as many elements, so that nothing but what the component is finds it."""
    return setting("operands", operand, "shape", to=list(sizes))


# File, change, and how the refusal begins. Of the second kind are stages that are right by themselves.
PORT_CHANGES: list[tuple[str, Setting, str]] = [
    (UNET, setting("operands", 3, "name", to="sample2"), 'outputs has "sample2" (expected out_sample)'),
    (
        UNET,
        setting("operands", 3, "dtype", to="i32"),
        'outputs has "out_sample" as i32[1, 4, 4, 2] (expected f32[1, 4, 4, 2])',
    ),
    (UNET, shape(3, 1, 4, 2, 4), 'outputs has "out_sample" as f32[1, 4, 2, 4] (expected f32[1, 4, 4, 2])'),
    (UNET, setting("outputs", to=[3, 0]), 'outputs has "out_sample", "sample" (expected out_sample)'),
    (
        UNET,
        setting("inputs", to=[0, 1]),
        'inputs has "sample", "timestep" (expected sample, timestep, encoder_hidden_states)',
    ),
    (UNET, shape(1, 1, 1), 'inputs has "timestep" as f32[1, 1] (expected f32[1])'),
    (UNET, shape(2, 1, 5, 3), 'inputs has "encoder_hidden_states" as f32[1, 5, 3] (expected f32[1, 3, 5])'),
    (UNET, shape(2, 15), 'inputs has "encoder_hidden_states" as f32[15] (expected f32[1, 3, 5])'),
    (TEXT, setting("operands", 0, "dtype", to="f32"), 'inputs has "input_ids" as f32[1, 3] (expected i32[1, 3])'),
    (DECODER, shape(1, 1, 3, 4, 8), 'outputs has "sample" as f32[1, 3, 4, 8] (expected f32[1, 3, 8, 4])'),
    (
        "plans/vae_encoder_b1_4x2.json",
        shape(1, 1, 4, 8, 2),
        'outputs has "latent_parameters" as f32[1, 4, 8, 2] (expected f32[1, 8, 4, 2])',
    ),
    (STAGES[0], setting("operands", 0, "name", to="latents"), 'inputs has "latents" (expected latent_sample)'),
    (STAGES[0], shape(0, 1, 4, 2, 4), 'inputs has "latent_sample" as f32[1, 4, 2, 4] (expected f32[1, 4, 4, 2])'),
    (
        STAGES[0],
        shape(1, 1, 8, 4),
        'outputs has "a" as f32[1, 8, 4] (expected a picture f16 or f32 [1, rows, width, channels])',
    ),
    (STAGES[0], shape(1, 2, 2, 2, 4), 'outputs has "a" as f32[2, 2, 2, 4] (expected a picture'),
    (STAGES[0], setting("operands", 1, "dtype", to="i32"), 'outputs has "a" as i32[1, 4, 2, 4] (expected a picture'),
    (STAGES[1], shape(0, 24), 'inputs has "a" as f32[24] (expected a picture'),
    (STAGES[2], setting("outputs", to=[3, 0]), "outputs is a list of 2 (expected one picture of a decoder in bands)"),
    (
        STAGES[2],
        setting("inputs", to=[0, 1]),
        'inputs has "b:mean" (expected f32 [groups], of a mean and a variance alike)',
    ),
    (STAGES[2], setting("operands", 1, "dtype", to="i32"), 'inputs has "b:mean" (expected f32 [groups]'),
    (STAGES[2], shape(2, 1, 2), 'inputs has "b:mean" (expected f32 [groups]'),
    (STAGES[2], replace(shape(1, 1, 2), also=(shape(2, 1, 2),)), 'inputs has "b:mean" (expected f32 [groups]'),
    (STAGES[2], shape(3, 1, 6, 6, 2), 'outputs has "sample" as f32[1, 6, 6, 2] (expected f32[1, 6, 4, 3])'),
]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write_picture(tmp_path / "t")


def test_what_is_right_opens(written: Path) -> None:
    bundle = open_bundle(written, verify=True)
    assert [plan.sizes["stage"] for plan in bundle.stages(4, 2, 6)] == [1, 2, 3]
    assert bundle.stages(4, 2, 5) == []


def of_two_chunks(unet: Plan, *states: int) -> Plan:
    """The UNet for texts of six tokens, reading states of this shape."""
    operands = [replace(one, shape=tuple(states)) if one.shape == (1, 3, 5) else one for one in unet.operands]
    return replace(unet, sizes=unet.sizes | {"tokens": states[1] if states[1] > 3 else 6}, operands=tuple(operands))


@pytest.mark.parametrize(
    ("states", "refused"),
    [
        ((1, 6, 5), ""),
        ((1, 7, 5), "is 7 (expected a multiple of 3)"),
        ((1, 6, 4), 'inputs has "encoder_hidden_states" as f32[1, 6, 4] (expected f32[1, 6, 5])'),
        ((1, 3, 5), 'inputs has "encoder_hidden_states" as f32[1, 3, 5] (expected f32[1, 6, 5])'),
    ],
)
def test_plans_for_texts_of_several_chunks(tmp_path: Path, states: tuple[int, ...], refused: str) -> None:
    manifest, (text, unet, *_) = open_bundle(write_picture(tmp_path / "t")).manifest, picture_plans()
    for plans in ((text, of_two_chunks(unet, *states)), (of_two_chunks(unet, *states), text)):
        seen, found = Seen(), ""
        try:
            for plan in plans:
                check_ports(plan, plan.component, manifest, seen)
        except BundleError as error:
            found = str(error)
        assert (refused in found) if refused and plans[0] is text else bool(found) == bool(refused)


@pytest.mark.parametrize(("file", "change", "expected"), PORT_CHANGES)
def test_ports(written: Path, file: str, change: Setting, expected: str) -> None:
    edit_json(written, file, change)
    with pytest.raises(BundleError) as caught:
        open_bundle(written, verify=True)
    assert str(caught.value).startswith(f"{file}: {expected}")


def test_what_one_component_makes_is_what_another_reads(written: Path) -> None:
    edit_json(written, TEXT, shape(1, 1, 5, 3))
    with pytest.raises(BundleError) as caught:
        open_bundle(written, verify=True)
    assert str(caught.value).startswith(
        f'{UNET}: inputs has "encoder_hidden_states" as f32[1, 3, 5] (expected f32[1, 5, 3])'
    )


def test_a_batch_of_bands(tmp_path: Path) -> None:
    plans = [
        replace(plan, sizes=plan.sizes | {"batch": 2}) if "stage" in plan.sizes else plan for plan in picture_plans()
    ]
    with pytest.raises(BundleError, match=r'stage1.json: sizes\["batch"\] is 2 \(expected 1 for a decoder in bands\)'):
        write_picture(tmp_path / "t", plans=plans)


def test_what_no_pipeline_asks_for_is_left_alone(tmp_path: Path) -> None:
    """Components and sizes of a later version."""
    other = component_plan("refiner", {"batch": 1}, [("x", "f32", (1,))], ("y", "f32", (1,)))
    later = component_plan("unet", {"batch": 1, "rank": 4}, [("x", "f32", (1,))], ("y", "f32", (1,)))
    open_bundle(write_picture(tmp_path / "t", plans=[*picture_plans(), other, later]), verify=True)


def test_text_encoder_and_unet_agree_on_a_width(tmp_path: Path) -> None:
    """Whichever is read first: a writer finds it, too."""
    _, *rest = picture_plans()
    wide = component_plan(
        "text_encoder", {"batch": 1}, [("input_ids", "i32", (1, 3))], ("last_hidden_state", "f32", (1, 3, 8))
    )
    expected = (
        r'unet_b1_4x2.json: inputs has "encoder_hidden_states" as f32\[1, 3, 5\] \(expected f32\[1, '
        r"3, 8\]\). Fix: report this"
    )
    with pytest.raises(BundleError, match=expected):
        write_picture(tmp_path / "t", plans=[wide, *rest])


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((2, 3, 5), None),
        ((1, 3, 5), '"encoder_hidden_states" as f32[1, 3, 5] (expected '),
        ((3, 3, 5), '"encoder_hidden_states" as f32[3, 3, 5]'),
        ((), '"encoder_hidden_states" as f32[] (expected '),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_all_passes_at_once(tmp_path: Path, states: tuple[int, ...], expected: str | None, first: bool) -> None:
    """Each port has a part per pass, but the timestep;
    whether the plan that says how large a part is was read before or not."""
    inputs = [("sample", "f32", (2, 4, 4, 2)), ("timestep", "f32", (1,)), ("encoder_hidden_states", "f32", states)]
    both = component_plan("unet", PLACE | {"batch": 2}, inputs, ("out_sample", "f32", (2, 4, 4, 2)))
    plans = [both, *picture_plans()] if first else [*picture_plans(), both]
    if expected is None:
        open_bundle(write_picture(tmp_path / "t", plans=plans), verify=True)
        return
    with pytest.raises(BundleError) as caught:
        write_picture(tmp_path / "t", plans=plans)
    assert f"unet_b2_4x2.json: inputs has {expected}" in str(caught.value)


def test_values_are_the_same_at_the_same_sizes() -> None:
    seen, kind = Seen(), ("f32", (1, 3))
    seen.add("residual", {"batch": 2, "height": 4}, kind)
    assert seen.find("residual", {"height": 4, "width": 8}) == seen.find("residual", {"batch": 1}) == kind
    assert seen.find("residual", {"batch": 2, "height": 8}) is None and seen.find("other", {"height": 4}) is None


# A pipeline of tests/golden/pipeline, a component, sizes, what its ports are, and the last of them with what else it
# could be taken for.
PORTS: list[tuple[str, str, dict[str, int], dict[str, Any], tuple[int, ...]]] = [
    (
        "inpaint",
        "unet",
        PLACE | {"batch": 2},
        {
            "sample": (2, 4, 4, 2),
            "timestep": (1,),
            "encoder_hidden_states": (2, 3, 5),
            "masked_latents": (2, 4, 4, 2),
            "mask": (2, 1, 4, 2),
        },
        (2, 3, 32, 16),
    ),
    ("svd", "image_encoder", {"batch": 1}, {"pixel_values": (1, 3, 224, 224)}, (1, 3, 32, 16)),
    ("svd", "condition", {"batch": 1}, {"time_ids": (1, 3)}, (3,)),
    ("svd", "vae_decoder", PLACE | {"frames": 2}, {"latent_sample": (2, 4, 4, 2)}, (1, 4, 4, 2)),
]


@pytest.mark.parametrize(("name", "component", "sizes", "inputs", "wrong"), PORTS)
def test_ports_of_families_to_come(
    name: str, component: str, sizes: dict[str, int], inputs: Any, wrong: tuple[int, ...]
) -> None:
    whole = json.loads((GOLDEN / f"{name}.json").read_text())
    spec = parse_pipeline(
        Checker("bundle.json"), whole["pipeline"], whole["components"], whole["tokenizers"], whole["samplers"]
    )
    manifest: Any = SimpleNamespace(pipeline=spec, tokenizers={})
    port = next(port for role in spec.roles() if role.component == component for port in role.keep)
    output_shape = {"unet": (2, 4, 4, 2), "vae_decoder": (2, 3, 32, 16)}.get(component, (1, 3, 5))

    def check(shapes: dict[str, tuple[int, ...]]) -> None:
        plan = component_plan(
            component, sizes, [(x, "f32", shape) for x, shape in shapes.items()], (port, "f32", output_shape)
        )
        check_ports(plan, "plans/x.json", manifest, Seen())

    check(inputs)
    with pytest.raises(BundleError, match=f'x.json: inputs has "{list(inputs)[-1]}" as '):
        check(inputs | {list(inputs)[-1]: wrong})


Change = Callable[[Plan], Plan]


def staged(number: int, **ports: Any) -> Change:
    """Stage `number` with other inputs or another output."""

    def change(plan: Plan) -> Plan:
        if plan.sizes.get("stage") != number:
            return plan
        given = [(x.name, x.dtype, x.shape) for x in plan.operands]
        return component_plan(
            plan.component, plan.sizes, ports.get("inputs", given[:-1]), ports.get("output", given[-1])
        )

    return change


LOW = ("b", "f32", (1, 3, 4, 4))
WIDE = ("b", "f32", (1, 6, 5, 4))
B, MEAN, VARIANCE = ("b", "f32", (1, 6, 4, 4)), ("b:mean", "f32", (2,)), ("b:variance", "f32", (2,))
STAGE_CHANGES: dict[str, tuple[Change, str]] = {
    "reads no picture": (staged(3, inputs=[MEAN, VARIANCE]), "stage=3 rows=6: it reads no picture of an earlier stage"),
    "unknown": (staged(2, inputs=[("c", "f32", (1, 3, 2, 4))]), "stage=2 rows=6: c is not what an earlier stage made"),
    "other channels": (
        staged(2, inputs=[("a", "f32", (1, 3, 2, 5))]),
        "stage=2 rows=6: a is not what an earlier stage made",
    ),
    "other type": (staged(2, inputs=[("a", "f16", (1, 3, 2, 4))]), "stage=2 rows=6: a is f16, and was made as f32"),
    "statistics of nothing": (
        staged(3, inputs=[B, ("c:mean", "f32", (2,)), ("c:variance", "f32", (2,))]),
        "stage=3 rows=6: the statistics of c are not of a picture's groups of channels",
    ),
    "no groups of channels": (
        staged(3, inputs=[B, ("b:mean", "f32", (3,)), ("b:variance", "f32", (3,))]),
        "stage=3 rows=6: the statistics of b are not of a picture's groups of channels",
    ),
    "higher than the picture": (
        staged(2, inputs=[("a", "f32", (1, 5, 2, 4))], output=("b", "f32", (1, 10, 4, 4))),
        "do not fit",
    ),
    "bands that never end": (
        staged(2, inputs=[("a", "f32", (1, 2, 2, 4))], output=("b", "f32", (1, 4, 4, 4))),
        "stage=2 rows=6: its bands do not",
    ),
    "rows that are no multiple": (
        staged(2, output=("b", "f32", (1, 5, 4, 4))),
        "stage=2 rows=6: its bands do not fit pictures of 4 rows",
    ),
    "pictures of other heights": (
        staged(3, inputs=[("a", "f32", (1, 4, 2, 4)), B, MEAN, VARIANCE], output=("sample", "f32", (1, 8, 4, 3))),
        "stage=3 rows=6: its bands do not fit pictures of 4 rows",
    ),
    "made twice": (staged(3, output=("a", "f32", (1, 6, 4, 3))), "stage=3 rows=6: a was made by an earlier stage"),
    "too high": (
        staged(2, output=("b", "f32", (1, 9, 4, 4))),
        "stage=2 rows=6: it makes a picture of 4x12 (expected at most 4x8)",
    ),
    "too wide": (
        lambda plan: staged(3, inputs=[WIDE, MEAN, VARIANCE])(staged(2, output=WIDE)(plan)),
        "stage=2 rows=6: it makes a picture of 5x8 (expected at most 4x8)",
    ),
    "another width": (
        staged(2, output=("b", "f32", (1, 6, 5, 4))),
        "stage=3 rows=6: b is not what an earlier stage made",
    ),
    "no sample": (
        staged(3, output=("z", "f32", (1, 6, 4, 3))),
        "stage=3 rows=6: the last stage makes z [1, 8, 4, 3] (expected sample [1, 8, 4, 3])",
    ),
    "a small sample": (
        lambda plan: staged(3, inputs=[LOW, MEAN, VARIANCE], output=("sample", "f32", (1, 3, 4, 3)))(
            staged(2, output=LOW)(plan)
        ),
        "stage=3 rows=6: the last stage makes sample [1, 4, 4, 3] (expected sample [1, 8, 4, 3])",
    ),
    "half a sample": (
        staged(3, output=("sample", "f32", (1, 12, 4, 3))),
        "stage=3 rows=6: it makes a picture of 4x16 (expected at most 4x8)",
    ),
    "a gap": (
        lambda plan: replace(plan, sizes=plan.sizes | {"stage": 9}) if plan.sizes.get("stage") == 3 else plan,
        "the last stage makes b",
    ),
}


@pytest.mark.parametrize("name", STAGE_CHANGES)
def test_stages_fit_each_other(tmp_path: Path, name: str) -> None:
    change, expected = STAGE_CHANGES[name]
    bundle = open_bundle(write_picture(tmp_path / "t", plans=[change(plan) for plan in picture_plans()]))
    with pytest.raises(BundleError) as caught:
        bundle.stages(4, 2, 6)
    assert expected in str(caught.value) and str(caught.value).endswith("Fix: convert the checkpoint again.")
    with pytest.raises(BundleError):
        bundle.verify()


def test_statistics_are_asked_for_in_one_way(tmp_path: Path) -> None:
    """A player makes each picture's once."""
    plans = [staged(3, output=("c", "f32", (1, 6, 4, 4)))(plan) for plan in picture_plans()]
    finer = [B, ("b:mean", "f32", (4,)), ("b:variance", "f32", (4,))]
    last = component_plan("vae_decoder", PLACE | {"stage": 4, "rows": 6}, finer, ("sample", "f32", (1, 6, 4, 3)))
    bundle = open_bundle(write_picture(tmp_path / "t", plans=[*plans, last]))
    with pytest.raises(
        BundleError, match="stage=4 rows=6: the statistics of b are not of a picture's groups of channels"
    ):
        bundle.stages(4, 2, 6)
