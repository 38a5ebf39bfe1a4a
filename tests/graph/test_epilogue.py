"""Names of ops with steps are put together and read by one table, which kernels share."""

import itertools
import re

import pytest

from ondevice.base.paths import SHADERS
from ondevice.graph.epilogue import ACTIVATIONS, CONV, LINEAR, NORMS, STEPS, TAKES, Stepped, is_one, of, read
from ondevice.graph.ops import DOMAIN, FUSED, find

EVERY = [
    stepped
    for base, takes in TAKES.items()
    for count in range(6)
    for steps in itertools.combinations(takes, count)
    if (stepped := Stepped(base, steps)).exists
]


def test_every_op_is_read_from_its_name() -> None:
    assert len({stepped.name for stepped in EVERY}) == len(EVERY) == 2 * 7 * 2 * (2 + 1) + 2 * 2 * 2 * 3 * 3 + 4 * 2
    assert all(read(stepped.name) == stepped for stepped in EVERY)
    for stepped in EVERY:
        row = find(DOMAIN, stepped.name)
        assert row is not None and row.least == row.most == len(stepped.operands) == len(set(stepped.operands))
        assert row.attributes == FUSED[stepped.base].attributes


@pytest.mark.parametrize(
    "name",
    [
        *("LinearAddBias", "LinearBiasBias", "LinearShift", "LinearSiluGelu", "ConvNhwcGelu", "GroupNormBias"),
        *("ConvNhwcThenRelu", "ConvNhwcReluThenRelu", "ConvNhwcAddRelu", "LinearAddThenRelu", "GroupNormRelu"),
        *("LinearAddGate", "ConvNhwcGate", "ConcatLinearBiasGate"),
    ],
)
def test_other_steps_and_orders_are_no_ops(name: str) -> None:
    assert read(name) is None and find(DOMAIN, name) is None and not is_one(name, TAKES)


@pytest.mark.parametrize(
    "name", ["", "Silu", "Conv", "linear", "LinearBias2", "WinogradConvNhwcBias", "Bias", "GroupNormNhwcX"]
)
def test_other_names(name: str) -> None:
    assert read(name) is None


def test_the_steps_of_one() -> None:
    stepped = of("UpConvNhwcBiasShiftSiluAdd")
    assert (stepped.base, stepped.steps, stepped.activation) == ("UpConvNhwc", ("Bias", "Shift", "Silu", "Add"), "Silu")
    assert stepped.operands == ("x", "weight", "bias", "shift", "residual")
    assert stepped.defines == {"HAS_BIAS": 1, "HAS_SHIFT": 1, "ACT_Silu": 1, "HAS_ADD": 1}
    assert of("Linear").then("GeluTanh").name == "LinearGeluTanh" and not of("LinearAdd").then("Silu").exists
    assert of("LinearBiasGateAdd").operands == ("x", "weight", "bias", "gate", "residual")
    assert of("ConvNhwcBiasAddThenRelu").defines == {"HAS_BIAS": 1, "HAS_ADD": 1, "ACT_ThenRelu": 1}
    assert not set(LINEAR) & set(CONV) and not set(CONV) & set(NORMS)


def test_kernels_have_the_same_steps_in_the_same_order() -> None:
    text = (SHADERS / "prelude" / "epilogue.h").read_text()
    asked = re.findall(r"^#(?:el)?if .*?((?:HAS|ACT)_\w+)", text, re.MULTILINE)
    order = [next(step.order for step in STEPS.values() if step.define == define) for define in asked]
    assert order == sorted(order) and {STEPS[name].order for name in STEPS} == set(order)
    assert all(f"ACT_{activation}" in text for activation in ACTIVATIONS)
