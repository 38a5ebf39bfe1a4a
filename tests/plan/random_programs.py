"""Random programs, some of whose calls write parts of a tensor or may write over an input,
and machines that run them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hypothesis import strategies as st

from ondevice.lower.program import Call, Program, Tensor
from ondevice.plan.inplace import DEFINE
from ondevice.plan.plan import ALIGN, Plan


@dataclass(frozen=True)
class Part:
    """The units of ALIGN bytes of its output that a call writes: all, or one half."""

    first: int
    last: int


@st.composite
def programs(draw, most=7):
    """Up to `most` results of 2, 4 or 6 units; each made by one call or by two halves,
    from up to three tensors made before."""
    tensors = {"x": Tensor("x", (ALIGN // 2,), "f32")}
    calls: list[Call] = []
    for number in range(draw(st.integers(1, most))):
        inputs = draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=3))
        units = draw(st.sampled_from((2, 4, 6)))
        name = f"t{number}"
        fits = [i for i, source in enumerate(inputs) if tensors[source].nbytes == units * ALIGN]
        over = draw(st.sampled_from([None, *fits]))
        tensors[name] = Tensor(name, (units * ALIGN // 4,), "f32")
        halves = draw(st.booleans())
        for half in range(2 if halves else 1):
            part = (half * units // 2, (half + 1) * units // 2) if halves else (0, units)
            calls.append(_call(f"{len(calls)}", inputs, name, part, over))
    outputs = draw(st.lists(st.sampled_from(sorted(tensors.keys() - {"x"})), min_size=1, max_size=2, unique=True))
    return Program("net", tensors, calls, ("x",), tuple(outputs))


def _call(node, inputs, output, part, inplace):
    return Call("k", (), tuple(inputs), (output,), part, (1, 1, 1), (1, 1, 1), node, "Op", 0, 0, 0, inplace)


def run_apart(program: Program) -> dict[str, list[object]]:
    """Every tensor with memory of its own, calls in the given order: output name -> its units."""
    memory: dict[str, list[object]] = {name: [None] * (t.nbytes // ALIGN) for name, t in program.tensors.items()}
    memory["x"] = ["x"] * len(memory["x"])
    for call in program.calls:
        first, last = (int(value) for value in call.scalars)
        for unit in range(first, last):  # only the unit that it is about to write is read of what it may stand over
            seen = tuple(
                (memory[name][unit],)
                if i == call.inplace and len(memory[name]) == len(memory[call.outputs[0]])
                else tuple(memory[name])
                for i, name in enumerate(call.inputs)
            )
            memory[call.outputs[0]][unit] = hash((call.node, unit, seen))
    return {name: memory[name] for name in program.outputs}


def run_planned(plan: Plan, program: Program) -> dict[str, list[object]]:
    """The plan in one arena: what overlaps is overwritten."""
    arena: list[object] = [None] * (plan.arena // ALIGN)
    calls = {call.node: call for call in program.calls}

    def units(index: int) -> range:
        operand = plan.operands[index]
        return range((operand.offset or 0) // ALIGN, ((operand.offset or 0) + operand.nbytes) // ALIGN)

    for index in plan.inputs:
        for unit in units(index):
            arena[unit] = "x"
    for d in plan.dispatches:
        inside = dict(plan.kernels[d.kernel].defines).get(DEFINE)
        source, target = calls[d.node].inplace, units(d.operands[-1])
        first, last = (int(value) for value in d.scalars)
        for unit in range(first, last):
            seen = tuple(
                (arena[target[unit] if inside else units(index)[unit]],)
                if i == source and (inside or len(units(index)) == len(target))
                else tuple(arena[u] for u in units(index))
                for i, index in enumerate(d.operands[:-1])
            )
            arena[target[unit]] = hash((d.node, unit, seen))
    return {plan.operands[index].name: [arena[unit] for unit in units(index)] for index in plan.outputs}


def legal_orders(before: list[set[int]]) -> list[tuple[int, ...]]:
    """All of them: for small programs."""
    return [
        order
        for order in itertools.permutations(range(len(before)))
        if all(order.index(needed) < order.index(call) for call, needs in enumerate(before) for needed in needs)
    ]
