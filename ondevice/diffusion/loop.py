"""The loop: each call of the sampler's table runs the passes of its stretch, and combines them to one prediction."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ondevice.bundle.pipeline import LATENTS, TIMESTEP, Loop, Pass, PipelineSpec, Role
from ondevice.diffusion.guidance import combined, passes_in_use
from ondevice.diffusion.inpaint import PutBack
from ondevice.diffusion.loop_state import Keeper, LoopState
from ondevice.diffusion.noise import Noise
from ondevice.diffusion.roles import Roles, check_finite
from ondevice.diffusion.samplers import SamplerTable, run_table
from ondevice.diffusion.values import Values
from ondevice.errors import UsageError

OnStep = Callable[[int, int, float, np.ndarray], np.ndarray | None]
"""Called after each pass of the network: calls done, calls in all, timestep, latents.
What it returns takes the latents' place."""


def run_loop(
    roles: Roles,
    table: SamplerTable,
    start: np.ndarray,
    stream: Noise,
    *,
    split: bool = False,
    put_back: PutBack | None = None,
    on_step: OnStep | None = None,
    keeper: Keeper | None = None,
) -> np.ndarray:
    """The final sample, float32 of `start`'s shape.

    Args:
        start: the sample that the first call begins with.
        stream: gives the noise of calls that draw some.
        split: passes run one after another where they could run at once.
        put_back: what is done to the sample after each call.
        keeper: has the state of a run that this one goes on from, and is told every state.

    Raises:
        UsageError: a call is in no stretch of the schedule; a state cannot be gone on from.
        NumericError: a call's result is not finite.
    """
    calls, values = len(table.calls), roles.values
    state = None if keeper is None else keeper.begin(table, start.shape)
    if state is not None:
        state.check(stream.position, start.size)
        stream.skip_to(state.position)
    numbers = itertools.count(0 if state is None else state.call)

    def predict(x: np.ndarray, timestep: float) -> np.ndarray:
        call = next(numbers)
        values.enter_call(call, calls)
        values.keep(LATENTS, x)
        values.keep(TIMESTEP, np.array([timestep], np.float32))
        return _predict(_stretch(roles.spec, call / calls, values), roles, split)

    def after(call: int, x: np.ndarray) -> np.ndarray | None:
        timestep = table.calls[call].timestep
        check_finite(x, f"step {call + 1} of {calls} (timestep {timestep:g})")
        changed = None if put_back is None else put_back(call, x)
        given = None if on_step is None else on_step(call + 1, calls, timestep, x if changed is None else changed)
        return changed if given is None else given

    def keep(call: int, slots: list[np.ndarray]) -> None:
        assert keeper is not None
        keeper.keep(LoopState(call, tuple(slots), stream.position), calls)

    return run_table(
        table,
        predict,
        start,
        lambda _: stream.randn(start.shape),
        after,
        begun=None if state is None else (state.call, list(state.slots)),
        keep=None if keeper is None else keep,
    )


def _stretch(spec: PipelineSpec, part: float, values: Values) -> Loop:
    """The loop of a part of the schedule, 0 to 1."""
    for loop in spec.denoise:
        if values.number(loop.start) <= part < values.number(loop.end):
            return loop
    raise UsageError(
        f"no part of the pipeline runs at {part:g} of the schedule",
        where="pipeline",
        fix="choose other parts, from 0 to 1",
    )


def _predict(loop: Loop, roles: Roles, split: bool) -> np.ndarray:
    """What the sampler takes as the model's output: all passes at once, or one after another."""
    values, texts = roles.values, roles.values.texts
    passes = texts.expanded(passes_in_use(loop, values.numbers))
    by_length: dict[int, list[Pass]] = {}
    for one in itertools.chain(*passes):
        by_length.setdefault(texts.count(one.text), []).append(one)
    outputs: dict[Pass, np.ndarray] = {}
    for alike in by_length.values():
        running = [role for role in loop.roles if values.runs(role)]
        at_once = all(roles.has_plan(role.component, len(alike), alike[0].text) for role in running)
        for group in [alike] if at_once and not split else [[one] for one in alike]:
            outputs |= zip(group, _run(loop, group, roles), strict=True)
    weighted = [[(texts.weight(one.text), outputs[one]) for one in parts] for parts in passes]
    return combined(loop, weighted, values.numbers)


def _run(loop: Loop, group: Sequence[Pass], roles: Roles) -> list[np.ndarray]:
    """The prediction of each of these passes, whose texts are of one length."""
    values, session = roles.values, roles.session
    *before, last = (role for role in loop.roles if values.runs(role))  # the last always does

    def given(role: Role) -> tuple[dict[str, Any], dict[str, int]]:
        feeds = roles.feeds_of_passes(role, group)
        return feeds, roles.sizes(role.component, len(group), group[0].text)

    for role in before:
        feeds, sizes = given(role)
        kept = session.run_on(role.component, feeds, **sizes)
        for port, name in role.keep.items():
            values.keep(name, kept[port])
    feeds, sizes = given(last)
    predicted = session.run(last.component, feeds, **sizes)
    port = next(port for port, name in last.keep.items() if name == loop.prediction)
    return np.split(predicted[port], len(group))
