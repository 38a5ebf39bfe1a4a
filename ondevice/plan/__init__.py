"""Program -> plan: execution order, results in place, arena offsets, weight keys, numbered operands and kernels."""

from __future__ import annotations

import numpy as np

from ondevice.lower.program import Program
from ondevice.plan.arena import Life, arena_size, check, peak, place, round_up
from ondevice.plan.inplace import in_place
from ondevice.plan.liveness import lives
from ondevice.plan.order import ordered
from ondevice.plan.plan import Dispatch, Kernel, Operand, Plan, image_of


def weight_key(component: str, tensor: str) -> str:
    """Name of a weight in the bundle's table. Plans of one component at several sizes share it."""
    return f"{component}/{tensor}"


def _smallest(program: Program) -> tuple[list[Life], dict[str, int], Program]:
    """Lives, offsets and calls of the smallest arena: reordered or not, in place or not. In place usually needs less;
    but tensors that live for long may fit badly."""
    moved = ordered(program)
    best: tuple[list[Life], dict[str, int], Program] | None = None
    for candidate in (in_place(moved), in_place(program), moved, program):
        alive = lives(candidate)
        if best is None or peak(alive) < arena_size(*best[:2]):
            offsets = place(alive)
            if best is None or arena_size(alive, offsets) < arena_size(*best[:2]):
                best = alive, offsets, candidate
    assert best is not None
    return best


def arena_bytes(program: Program) -> int:
    """Bytes of the arena that `plan` gives the program."""
    return arena_size(*_smallest(program)[:2])


def idle(program: Program, size: int) -> dict[str, int]:
    """Bytes that the scratch of each node may take in an arena of `size` bytes: what the rest leaves of it while the
    node's calls run. Of nodes that have scratch."""
    alive, _, program = _smallest(program)
    taken = np.zeros(len(program.calls) + 2, np.int64)
    steps: dict[str, list[int]] = {}
    own: dict[str, set[str]] = {}
    for step, call in enumerate(program.calls):
        steps.setdefault(call.node, []).append(step)
        own.setdefault(call.node, set()).update(program.scratch.intersection((*call.inputs, *call.outputs)))
    for life in alive:
        taken[life.first : life.last + 1] += round_up(life.size)
    by_name = {life.name: life for life in alive}
    found = {}
    for node, names in own.items():
        if names:
            first, last = min(steps[node]), max(steps[node])
            rest = taken[first : last + 1].copy()
            for life in (by_name[name] for name in names):
                rest[max(life.first - first, 0) : life.last + 1 - first] -= round_up(life.size)
            found[node] = max(size - int(rest.max()), 0)
    return found


def plan(program: Program, *, storage: str) -> Plan:
    """Give every tensor a place and number everything a player needs.

    Raises:
        PlanError: the program reads what nothing wrote, or (our bug) the placement is unsafe.
    """
    alive, offsets, program = _smallest(program)
    check(alive, offsets)
    operands: list[Operand] = []
    kernels: dict[Kernel, int] = {}
    index: dict[str, int] = {}
    for name, tensor in program.tensors.items():
        if name in offsets or name in program.weights:
            index[name] = len(operands)
            key = weight_key(program.component, name) if name in program.weights else None
            operands.append(Operand(name, tensor.dtype, tensor.shape, tensor.nbytes, offsets.get(name), key))
    dispatches: list[Dispatch] = []
    images: dict[tuple[int, int, int], int] = {}
    for call in program.calls:
        kernel = kernels.setdefault(Kernel(call.kernel, call.defines), len(kernels))
        numbers = [index[name] for name in (*call.inputs, *call.outputs)]
        for position, width, height in call.images:
            image = numbers[position], width, height
            if image not in images:
                images[image] = len(operands)
                operands.append(image_of(numbers[position], operands[numbers[position]], width, height))
            numbers[position] = images[image]
        dispatches.append(
            Dispatch(
                kernel=kernel,
                operands=tuple(numbers),
                outputs=len(call.outputs),
                scalars=call.scalars,
                grid=call.grid,
                group=call.group,
                node=call.node,
                op=call.op,
                flops=call.flops,
                reads=call.reads,
                writes=call.writes,
            )
        )
    return Plan(
        component=program.component,
        sizes=program.sizes,
        dtype=storage,
        arena=arena_size(alive, offsets),
        operands=tuple(operands),
        inputs=tuple(index[name] for name in program.inputs),
        outputs=tuple(index[name] for name in program.outputs),
        kernels=tuple(kernels),
        dispatches=tuple(dispatches),
        needs=tuple(sorted(program.needs)),
    )
