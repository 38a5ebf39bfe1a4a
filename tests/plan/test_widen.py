"""Plans with some dispatches in float32: the same values, in the storage that was asked for, whatever the plan."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan.random_programs import programs

from ondevice.errors import PlanError
from ondevice.lower.kernel_file import KernelFile, kernel_paths
from ondevice.lower.program import Tensor
from ondevice.plan import plan
from ondevice.plan.inplace import DEFINE
from ondevice.plan.plan import ALIGN, Kernel
from ondevice.plan.widen import CAST, check_widened, wide_kernel, widened

MOST = 3  # inputs of a call


def kernel(inputs, kind="stg", out="stg"):
    operands = {"in": [f"x{i}: {kind}[n]" for i in range(inputs)], "out": [f"y: {out}[n]"]}
    return KernelFile(f"k{inputs}", operands, "")


KERNELS = {f"k{count}": kernel(count) for count in range(1, MOST + 1)}
KERNELS |= {CAST: KernelFile.read(kernel_paths()[CAST])}


@st.composite
def halves(draw):
    """A random program of half storage, and which of its plan's dispatches are to be in float32."""
    program = draw(programs())
    tensors = {name: Tensor(name, (t.nbytes // 2,), "f16") for name, t in program.tensors.items()}
    calls = [replace(call, kernel=f"k{len(call.inputs)}", defines=(("F16", 1),)) for call in program.calls]
    program = replace(program, tensors=tensors, calls=calls)
    made = plan(program, storage="f16")
    wide = draw(st.sets(st.integers(0, len(made.dispatches) - 1)))
    return program, made, wide


def rounded(value):
    return value if value is None or value[0] == "half" else ("half", value)


def mixed(program, made, wide):
    """What a plan computes whose dispatches `wide` are in float32, every tensor with memory of its own: output -> its
    units. A dispatch in half finds what it reads rounded, and what it writes a part of, or over."""
    calls = {call.node: call for call in program.calls}
    memory = {one.name: [None] * (one.nbytes // ALIGN) for one in made.operands}
    memory["x"] = [("half", "x")] * len(memory["x"])
    for number, d in enumerate(made.dispatches):
        names = [made.operands[index].name for index in d.operands]
        inside = dict(made.kernels[d.kernel].defines).get(DEFINE)
        if number not in wide:
            memory |= {name: [rounded(unit) for unit in memory[name]] for name in names[-1:]}
        seen = {name: memory[name] if number in wide else [rounded(unit) for unit in memory[name]] for name in names}
        first, last = (int(value) for value in d.scalars)
        for unit in range(first, last):
            value = hash((d.node, unit, read_by(calls[d.node], names, seen, unit, inside)))
            memory[names[-1]][unit] = ("single", value) if number in wide else ("half", value)
            seen[names[-1]] = memory[names[-1]]
    return {made.operands[i].name: [rounded(u) for u in memory[made.operands[i].name]] for i in made.outputs}


def read_by(call, names, seen, unit, inside):
    """The units that a call reads for a unit of its result: of what it may stand over, that unit alone."""
    found = []
    for number, name in enumerate(names[:-1]):
        if number == call.inplace and (inside or len(seen[name]) == len(seen[names[-1]])):
            found.append((seen[names[-1] if inside else name][unit],))
        else:
            found.append(tuple(seen[name]))
    return tuple(found)


def run_widened(program, made):
    """The plan in one arena: what overlaps is overwritten. A unit of float32 takes two of the arena's."""
    calls = {call.node: call for call in program.calls}
    arena = [None] * (made.arena // ALIGN)

    def place(index, unit):
        operand = made.operands[index]
        step = 2 if operand.dtype == "f32" else 1
        return (operand.offset or 0) // ALIGN + step * unit, step

    def units(index):
        operand = made.operands[index]
        return range(operand.nbytes // ALIGN // (2 if operand.dtype == "f32" else 1))

    def read(index):
        found = []
        for unit in units(index):
            at, step = place(index, unit)
            whole = step == 1 or arena[at + 1] == (None if arena[at] is None else ("rest", arena[at]))
            found.append(arena[at] if whole else ("half", "torn"))
        return found

    def write(index, unit, value):
        at, step = place(index, unit)
        arena[at] = value
        if step == 2:
            arena[at + 1] = ("rest", value)

    for index in made.inputs:
        for unit in units(index):
            write(index, unit, ("half", "x"))
    for d in made.dispatches:
        *_, source, target = d.operands
        if made.kernels[d.kernel].file == CAST:
            for unit, value in enumerate(read(source)):
                write(target, unit, value if made.operands[target].dtype == "f32" else rounded(value))
            continue
        single, names = made.operands[target].dtype == "f32", [str(index) for index in d.operands]
        for unit in range(*(int(value) for value in d.scalars)):
            seen = {str(index): read(index) for index in d.operands}
            inside = dict(made.kernels[d.kernel].defines).get(DEFINE)
            value = hash((d.node, unit, read_by(calls[d.node], names, seen, unit, inside)))
            write(target, unit, ("single" if single else "half", value))
    return {made.operands[index].name: read(index) for index in made.outputs}


@given(halves())
@settings(max_examples=60)
def test_the_same_values_in_the_storage_that_was_asked_for(drawn):
    program, narrow, wide = drawn
    made = widened(narrow, wide, KERNELS)
    assert run_widened(program, made) == mixed(program, narrow, wide)
    assert made.inputs and [made.operands[i].dtype for i in (*made.inputs, *made.outputs)].count("f32") == 0


@given(halves())
@settings(max_examples=40)
def test_all_of_it_in_float32_rounds_nothing_between(drawn):
    """Every dispatch reads float32 then: the plan is that of float32 storage, but for its inputs and outputs."""
    _program, narrow, _ = drawn
    made = widened(narrow, range(len(narrow.dispatches)), KERNELS)
    own = [d for d in made.dispatches if made.kernels[d.kernel].file != CAST]
    assert all(made.operands[index].dtype == "f32" for d in own for index in d.operands)
    ends = len(made.dispatches) - len(own)
    assert ends <= len(narrow.inputs) + len(narrow.outputs)


@given(halves())
@settings(max_examples=30)
def test_nothing_in_float32_is_the_plan_itself(drawn):
    _, narrow, _ = drawn
    made = widened(narrow, (), KERNELS)
    assert (made.dispatches, made.kernels) == (
        tuple(replace(d, operands=tuple(made_number(made, narrow, i) for i in d.operands)) for d in narrow.dispatches),
        narrow.kernels,
    )


def made_number(made, narrow, index):
    return [one.name for one in made.operands].index(narrow.operands[index].name)


@given(halves())
@settings(max_examples=50)
def test_a_conversion_too_few_is_found(drawn):
    """The verifier by itself: without any one of its conversions a plan is refused."""
    _, narrow, wide = drawn
    made = widened(narrow, wide, KERNELS)
    for step, d in enumerate(made.dispatches):
        if made.kernels[d.kernel].file == CAST:
            less = replace(made, dispatches=made.dispatches[:step] + made.dispatches[step + 1 :])
            with pytest.raises(PlanError, match=r"not up to date|it is none of the plan's"):
                check_widened(narrow, less, wide)


def test_programs_are_built_for_float32():
    built = wide_kernel(Kernel("matmul_tiles", (("F16", 1), ("HALF", 1), ("NC", 2), ("W8", 1))))
    assert built == Kernel("matmul_tiles", (("F16", 0), ("NC", 2), ("W8", 1)))
    assert wide_kernel(Kernel("cast", (("DST_F16", 0), ("F16", 1), ("SRC_F16", 1)))).defines == (
        ("DST_F16", 0),
        ("F16", 0),
        ("SRC_F16", 0),
    )


@pytest.mark.parametrize(
    "kernels, words",
    [
        ({}, "nothing says how k1.cl stores its operands, so it cannot be built for float32. Fix: convert the checkp"),
        ({"k1": kernel(2)}, "nothing says how k1.cl stores its operands"),
        ({"k1": kernel(1, out="scl")}, "k1.cl writes half storage whatever it is built for. Fix: convert with --dtype"),
    ],
    ids=["unknown", "other operands", "always half"],
)
def test_what_cannot_be_widened_is_refused_by_name(kernels, words):
    from ondevice.lower.program import Call, Program

    tensors = {name: Tensor(name, (ALIGN // 2,), "f16") for name in "xy"}
    call = Call("k1", (("F16", 1),), ("x",), ("y",), (0, 1), (1, 1, 1), (1, 1, 1), "/norm", "Op", 0, 0, 0)
    narrow = plan(Program("net", tensors, [call], ("x",), ("y",)), storage="f16")
    with pytest.raises(PlanError) as caught:
        widened(narrow, {0}, {CAST: KERNELS[CAST], **kernels})
    assert str(caught.value).startswith("net: /norm: ") and words in str(caught.value)
