"""Results that take the bytes of an operand: a residual that nobody needs afterwards is overwritten where it stands.

Kernels say in their headers which input they may find where they write (`inplace`). Such a call then names one tensor,
which earlier calls wrote and it writes again; what it was given in the input's place is a stand-in that it does not
read, and the define INPLACE tells it so. For a player nothing is new: several calls write one operand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ondevice.lower.program import Call, Program

DEFINE = "INPLACE"


@dataclass(frozen=True, slots=True)
class Pair:
    """`target` may be written over `source`: all its writers read of `source` only the element that they then store."""

    source: str
    target: str


def pairs(program: Program) -> Iterator[Pair]:
    """Tensors that may share their bytes, as far as kernels and shapes go;
    whether the source is needed later depends on the order."""
    writers: dict[str, list[Call]] = {}
    for call in program.calls:
        for name in call.outputs:
            writers.setdefault(name, []).append(call)
    for target, calls in writers.items():
        sources = {source_of(call, program) if call.outputs[0] == target else None for call in calls}
        if (
            len(sources) == 1
            and (source := sources.pop()) is not None
            and target not in (*program.inputs, *program.outputs)
        ):
            yield Pair(source, target)


def source_of(call: Call, program: Program) -> str | None:
    """The tensor over which `call` may write its result, the first of its outputs; None where there is none."""
    if call.inplace is None:
        return None
    source, target = call.inputs[call.inplace], call.outputs[0]
    if call.inputs.count(source) > 1 or source == target or source in program.weights or source in program.outputs:
        return None  # another of its inputs is read at other places, or the bytes are not free to take
    operand, result = program.tensors[source], program.tensors[target]
    alone = all(name == source for name in call.inputs)
    return source if (operand.dtype, operand.nbytes) == (result.dtype, result.nbytes) and not alone else None


def in_place(program: Program) -> Program:
    """The program with every pair done in place whose source nobody reads once its target is begun,
    in the order of its calls."""
    uses: dict[str, list[int]] = {}
    writers: dict[str, set[int]] = {}
    for number, call in enumerate(program.calls):
        for name in (*call.inputs, *call.outputs):
            uses.setdefault(name, []).append(number)
        for name in call.outputs:
            writers.setdefault(name, set()).add(number)
    home: dict[str, str] = {}  # tensor -> the one whose bytes it takes
    for pair in pairs(program):
        begun = min(writers[pair.target])
        if all(number < begun for number in uses[pair.source] if number not in writers[pair.target]):
            home[pair.target] = pair.source
    return replace(program, calls=[_renamed(call, home) for call in program.calls]) if home else program


def _renamed(call: Call, home: Mapping[str, str]) -> Call:
    inputs, defines = list(call.inputs), call.defines
    if call.inplace is not None and home.get(call.outputs[0]) == inputs[call.inplace]:
        source = inputs[call.inplace]
        inputs[call.inplace] = next(name for name in inputs if name != source)  # a stand-in, which is not read
        defines = tuple(sorted({**dict(defines), DEFINE: 1}.items()))
    return replace(call, inputs=_roots(inputs, home), outputs=_roots(call.outputs, home), defines=defines)


def _roots(names: Sequence[str], home: Mapping[str, str]) -> tuple[str, ...]:
    found = []
    for name in names:
        while name in home:
            name = home[name]
        found.append(name)
    return tuple(found)
