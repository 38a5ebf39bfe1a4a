"""A plan of half storage, some of whose dispatches compute in float32: the answer to values that half does not hold.

Each of those dispatches runs the same kernel, launched as before, built for float32 storage. Of every tensor of half
storage that one of them reads or writes there is a second one, in float32. A tensor is converted where a dispatch
needs it as it is not there, and nowhere else: what dispatches in float32 hand to each other is never rounded to half.

    conv (f16) -> norm (f16) -> product (f16)      conv (f16) -> cast -> norm (f32) -> product (f32) -> cast
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from ondevice.errors import PlanError
from ondevice.lower.header import governing
from ondevice.lower.kernel_file import KernelFile
from ondevice.plan.arena import Life, arena_size, check, place
from ondevice.plan.plan import Dispatch, Kernel, Operand, Plan, home, image_of

NARROW, WIDE = "f16", "f32"
CAST = "cast"  # the kernel that converts
SUFFIX = ":wide"  # of the names of tensors in float32, and of the keys of weights
DEFINES = ("F16", "SRC_F16", "DST_F16")  # of storage


def wide_kernel(kernel: Kernel) -> Kernel:
    """The program for float32 storage. Half arithmetic is only where storage is half."""
    defines = [(name, 0 if name in DEFINES else value) for name, value in kernel.defines if name != "HALF"]
    return Kernel(kernel.file, tuple(defines))


def follows_storage(plan: Plan, number: int, kernels: Mapping[str, KernelFile]) -> tuple[bool, ...]:
    """Of each operand of a dispatch whether it is half and would be float32 in the program for float32 storage.

    Args:
        kernels: the bundle's, by name.

    Raises:
        PlanError: names the kernel that is not known, or has other operands.
    """
    dispatch = plan.dispatches[number]
    kernel = plan.kernels[dispatch.kernel]
    known, defines = kernels.get(kernel.file), dict(kernel.defines)
    if known is None or len(known.kinds) != len(dispatch.operands):
        what = f"nothing says how {kernel.file}.cl stores its operands, so it cannot be built for float32."
        raise PlanError(what, where=f"{plan.component}: {dispatch.node}", fix="convert the checkpoint again")
    found = [
        plan.operands[index].dtype == NARROW and bool(governing(kind, defines))
        for kind, index in zip(known.kinds, dispatch.operands, strict=True)
    ]
    first = len(found) - dispatch.outputs
    if any(
        plan.operands[i].dtype == NARROW and not f
        for i, f in zip(dispatch.operands[first:], found[first:], strict=True)
    ):
        what = f"{kernel.file}.cl writes half storage whatever it is built for."
        raise PlanError(what, where=f"{plan.component}: {dispatch.node}", fix="convert with --dtype fp32")
    return tuple(found)


def widened(plan: Plan, wide: Collection[int], kernels: Mapping[str, KernelFile]) -> Plan:
    """The plan whose dispatches `wide`, by number, compute in float32; its inputs and outputs stay as they are.

    Args:
        kernels: the bundle's, by name, and CAST.

    Raises:
        PlanError: names a kernel that cannot be built for float32; or (our bug) the plan is not the same but for
            storage.
    """
    writer = _Writer(plan, kernels)
    for number in range(len(plan.dispatches)):
        writer.add(number, number in wide)
    made = writer.finish()
    check_widened(plan, made, wide)
    return made


class _Writer:
    """Writes dispatches one after another, and knows in which storage each tensor's value is by then."""

    def __init__(self, plan: Plan, kernels: Mapping[str, KernelFile]) -> None:
        self.plan, self.kernels = plan, kernels
        self.operands: list[Operand] = []
        self.numbers: dict[tuple[int, bool], int] = {}  # (operand of the plan, whether in float32) -> operand
        self.programs: dict[Kernel, int] = {}
        self.dispatches: list[Dispatch] = []
        self.now: dict[int, set[bool]] = {index: {False} for index in plan.inputs}  # what holds the value, by operand
        self.inputs = tuple(self.operand(index, False) for index in plan.inputs)

    def operand(self, index: int, wide: bool) -> int:
        """The number of an operand of the plan, or of its image in float32."""
        if (index, wide) not in self.numbers:
            one = self.plan.operands[index]
            if one.view is not None:
                viewed = self.operand(one.view, wide)
                height, width, _ = one.shape
                made = replace(image_of(viewed, self.operands[viewed], width, height), name=_named(one.name, wide))
            elif wide:
                key = None if one.weight is None else _named(one.weight, wide)
                made = replace(one, name=_named(one.name, wide), dtype=WIDE, nbytes=2 * one.nbytes, weight=key)
            else:
                made = one
            self.numbers[index, wide] = len(self.operands)
            self.operands.append(made)
        return self.numbers[index, wide]

    def add(self, number: int, wide: bool) -> None:
        """The dispatch, after what converts tensors for it."""
        plan, dispatch = self.plan, self.plan.dispatches[number]
        follows = follows_storage(plan, number, self.kernels) if wide else _halves(plan, dispatch)
        first, numbers = len(dispatch.operands) - dispatch.outputs, []
        for position, (index, follow) in enumerate(zip(dispatch.operands, follows, strict=True)):
            held, form = home(plan.operands, index), wide and follow
            if plan.operands[held].weight is None:
                if follow and (held in self.now or position < first):
                    self.convert(held, form, dispatch.node)  # written in parts or in place it is needed, too
                elif position < first and form not in self.now.get(held, {form}):
                    form = not form  # stands in for an operand that the kernel does not read
            numbers.append(self.operand(index, form))
        for index, follow in zip(dispatch.operands[first:], follows[first:], strict=True):
            self.now[index] = {wide and follow}
        kernel = plan.kernels[dispatch.kernel]
        reads, writes = dispatch.reads, dispatch.writes
        if wide:
            kernel = wide_kernel(kernel)
            halves = {index for index, follow in zip(dispatch.operands[:first], follows, strict=False) if follow}
            reads += min(reads, sum(plan.operands[index].nbytes for index in halves))
            writes += writes if any(follows[first:]) else 0
        self.dispatches.append(
            replace(dispatch, kernel=self.program(kernel), operands=tuple(numbers), reads=reads, writes=writes)
        )

    def convert(self, index: int, wide: bool, node: str) -> None:
        """Have the value of an operand of the plan in this storage."""
        if wide in self.now[index]:
            return
        tune, kernel = self.kernels[CAST].header["tune"], self.kernels[CAST]
        others = [dict(one.defines) for one in self.plan.kernels if one.file == CAST]
        tuning = kernel.tuning(**{name: others[0][name] for name in tune if others and name in others[0]})
        count = {"n": self.plan.operands[index].nbytes // 2}
        grid, group = kernel.launch(count, tuning)
        defines = {"F16": 1, "SRC_F16": int(wide), "DST_F16": int(not wide), **tuning}
        program = self.program(Kernel(CAST, tuple(sorted(defines.items()))))
        source, target = self.operand(index, not wide), self.operand(index, wide)
        read, written = self.operands[source].nbytes, self.operands[target].nbytes
        scalars = kernel.scalars(count)
        self.dispatches.append(
            Dispatch(program, (source, target), 1, scalars, grid, group, node, "Cast", 0, read, written)
        )
        self.now[index].add(wide)

    def program(self, kernel: Kernel) -> int:
        return self.programs.setdefault(kernel, len(self.programs))

    def finish(self) -> Plan:
        """The plan with every tensor in its place of an arena."""
        plan = self.plan
        for index in plan.outputs:
            self.convert(index, False, plan.operands[index].name)
        outputs = tuple(self.operand(index, False) for index in plan.outputs)
        alive = lives_of(self.operands, self.inputs, outputs, self.dispatches)
        offsets = place(alive)
        check(alive, offsets)
        operands = [replace(one, offset=offsets[one.name]) if one.name in offsets else one for one in self.operands]
        return replace(
            plan,
            arena=arena_size(alive, offsets),
            operands=tuple(operands),
            inputs=self.inputs,
            outputs=outputs,
            kernels=tuple(self.programs),
            dispatches=tuple(self.dispatches),
        )


def lives_of(
    operands: Sequence[Operand], inputs: Sequence[int], outputs: Sequence[int], dispatches: Sequence[Dispatch]
) -> list[Life]:
    """From which dispatch to which each operand of the arena must keep its bytes: inputs from the first on, outputs to
    the last."""
    first, last = dict.fromkeys(inputs, 0), dict.fromkeys(inputs, 0)
    for step, dispatch in enumerate(dispatches):
        for index in dispatch.operands:
            held = home(operands, index)
            if operands[held].weight is None:
                first.setdefault(held, step)
                last[held] = step
    last.update(dict.fromkeys(outputs, len(dispatches)))
    return [Life(operands[i].name, operands[i].nbytes, first[i], last[i]) for i in first]


def check_widened(plan: Plan, made: Plan, wide: Collection[int]) -> None:
    """Refuse a plan that is not `plan` with the dispatches `wide` in float32.

    Without its conversions it has the same dispatches, each with the same operands in the same places; and each finds
    in every operand what was last written of that tensor, in whichever storage.

    Raises:
        PlanError: our bug.
    """

    def refuse(what: str, step: int) -> PlanError:
        fix = "report this; a plan that we write must never do so"
        return PlanError(what, where=f"{plan.component} in float32: dispatch {step}", fix=fix)

    names = [one.name.removesuffix(SUFFIX) if _is_wide(one) else one.name for one in made.operands]
    versions: dict[str, int] = {plan.operands[index].name: 0 for index in plan.inputs}
    holds: dict[int, int] = dict.fromkeys(made.inputs, 0)  # operand -> the version of its tensor that it holds
    number = 0
    for step, dispatch in enumerate(made.dispatches):
        split, homes = len(dispatch.operands) - dispatch.outputs, [home(made.operands, i) for i in dispatch.operands]
        casts = number == len(plan.dispatches) or not _same(plan, number, made, step, names)
        if casts and (made.kernels[dispatch.kernel].file != CAST or names[homes[0]] != names[homes[1]]):
            raise refuse("it is none of the plan's, and converts nothing.", step)
        for index in homes[:split]:
            if made.operands[index].weight is None and holds.get(index) != versions.get(names[index]):
                raise refuse(f"{made.operands[index].name} is read, which is not up to date.", step)
        for index in homes[split:]:
            if not casts:
                if names[index] in versions and holds.get(index) != versions[names[index]]:
                    raise refuse(f"{made.operands[index].name} is written over what is not up to date.", step)
                versions[names[index]] = versions.get(names[index], -1) + 1
            holds[index] = versions[names[index]]
        if not casts:
            kernel = plan.kernels[plan.dispatches[number].kernel]
            if made.kernels[dispatch.kernel] != (wide_kernel(kernel) if number in wide else kernel):
                raise refuse(f"{made.kernels[dispatch.kernel].file} is built otherwise.", step)
            number += 1
    ends = [made.operands[index].name for index in made.outputs]
    if number != len(plan.dispatches) or ends != [plan.operands[index].name for index in plan.outputs]:
        raise refuse(f"{number} of {len(plan.dispatches)} dispatches and the outputs {ends} are there.", number)
    for index in made.outputs:
        if holds.get(index) != versions.get(names[index]):
            raise refuse(f"the output {made.operands[index].name} is not up to date.", len(made.dispatches))


def _same(plan: Plan, number: int, made: Plan, step: int, names: Sequence[str]) -> bool:
    """Whether a dispatch that was made is one of the plan's but for storage."""
    want, have = plan.dispatches[number], made.dispatches[step]
    return (want.node, want.op, want.scalars, want.grid, want.group, want.outputs) == (
        have.node,
        have.op,
        have.scalars,
        have.grid,
        have.group,
        have.outputs,
    ) and [plan.operands[index].name for index in want.operands] == [names[index] for index in have.operands]


def _is_wide(operand: Operand) -> bool:
    return operand.dtype == WIDE and operand.name.endswith(SUFFIX)


def _named(name: str, wide: bool) -> str:
    return f"{name}{SUFFIX}" if wide else name


def _halves(plan: Plan, dispatch: Dispatch) -> tuple[bool, ...]:
    """Of each operand whether it is half: of a dispatch in half storage all those must be up to date."""
    return tuple(plan.operands[index].dtype == NARROW for index in dispatch.operands)
