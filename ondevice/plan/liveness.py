"""From which call to which a tensor must keep its bytes."""

from __future__ import annotations

from ondevice.errors import PlanError
from ondevice.lower.program import Program
from ondevice.plan.arena import Life


def lives(program: Program) -> list[Life]:
    """One life for every tensor of the arena; weights live elsewhere.

    Inputs are written before call 0 and outputs read after the last call. A tensor that is made and never read still
    needs its bytes while it is written.

    Raises:
        PlanError: a call reads a tensor before anything wrote it.
    """
    first = dict.fromkeys(program.inputs, 0)
    last = dict.fromkeys(program.inputs, 0)
    for step, call in enumerate(program.calls):
        for name in call.inputs:
            if name in program.weights:
                continue
            if name not in first:
                raise PlanError(
                    f"{name} is read before it is written.", where=f"{program.component}: call {step} ({call.node})"
                )
            last[name] = step
        for name in call.outputs:
            first.setdefault(name, step)
            last[name] = step
    for name in program.outputs:
        if name not in first:
            raise PlanError(f"output {name} is never written.", where=program.component)
        last[name] = len(program.calls)
    return [Life(name, program.tensors[name].nbytes, first[name], last[name]) for name in first]
