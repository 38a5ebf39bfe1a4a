"""Runs a sampler on symbols instead of arrays, and writes down what it did as a SamplerTable.

A sampler is written like its formula: it adds and scales `Value`s, each a weighted sum of vectors; `keep` makes a
sum a vector of its own (one row), and `call` asks the model. Slots are given out at the end, each free again
after its last use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ondevice.diffusion.samplers.start import Start
from ondevice.diffusion.samplers.table import MODEL, NOISE, Call, Row, SamplerTable
from ondevice.errors import UsageError


@dataclass(frozen=True)
class Value:
    """A weighted sum of vectors, by the vectors' numbers."""

    terms: dict[int, float]

    def __add__(self, other: Value) -> Value:
        return Value({v: self.terms.get(v, 0.0) + other.terms.get(v, 0.0) for v in (*self.terms, *other.terms)})

    def __mul__(self, factor: float) -> Value:
        return Value({v: float(factor) * weight for v, weight in self.terms.items()})

    __rmul__ = __mul__

    def __sub__(self, other: Value) -> Value:
        return self + other * -1.0

    def __truediv__(self, divisor: float) -> Value:
        # Division by zero becomes infinity, so that `Builder.table` can name the step.
        return Value({v: weight / divisor if divisor else math.inf for v, weight in self.terms.items()})


@dataclass
class _Call:
    """A call whose rows still speak of vectors."""

    timestep: float
    input_scale: float
    sample: int
    output: int
    level: tuple[float, float]
    noise: int | None = None
    rows: list[tuple[int, dict[int, float]]] = field(default_factory=list)


class Builder:
    """Collects calls and rows. `sample` is the vector that the loop starts from."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._vectors = 1
        self.sample = Value({0: 1.0})

    def _new(self) -> int:
        self._vectors += 1
        return self._vectors - 1

    def call(self, sample: Value, timestep: float, level: tuple[float, float], input_scale: float = 1.0) -> Value:
        """The model's output for `sample`, a kept vector.
        It can be used until the next call; `keep` it to use it later.

        `level`: the factors of image and noise in a sample at this timestep, as the class's `add_noise` has them.
        """
        (vector,) = sample.terms
        image, noise = level
        self._calls.append(
            _Call(float(timestep), float(input_scale), vector, self._new(), (float(image), float(noise)))
        )
        return Value({self._calls[-1].output: 1.0})

    def noise(self) -> Value:
        """A fresh draw, to be used before the next call."""
        call = self._calls[-1]
        call.noise = self._new()
        return Value({call.noise: 1.0})

    def keep(self, value: Value) -> Value:
        """`value` as a vector of its own."""
        vector = self._new()
        self._calls[-1].rows.append((vector, {v: w for v, w in value.terms.items() if w != 0.0}))
        return Value({vector: 1.0})

    def table(
        self,
        sampler: str,
        steps: int,
        result: Value,
        start: Start,
        *,
        train_steps: int,
        first_noise: float = 1.0,
        memory: bool = True,
    ) -> SamplerTable:
        """The table of the calls that were made, up to `start.end` of the schedule.

        `first_noise`: the factor of noise where a run begins from that alone; a sampler without `memory` may begin at
        each of its calls. Raises UsageError where a step divides by zero.
        """
        levels = [call.level for call in self._calls]
        (last,) = result.terms
        made = start.end - start.skipped
        if made < len(self._calls):
            last = self._calls[made].sample
        self._calls = self._calls[:made]
        first = levels[0] if start.image else (0.0, 1.0 if start.latents else float(first_noise))
        self._drop_unread(last)
        last_use = self._last_uses(last)
        slots: dict[int, int] = {0: 0}
        free: list[int] = []
        count = 1
        calls = []
        place = 0
        for call in self._calls:
            place += 1
            sample = slots[call.sample]
            rows = []
            for vector, terms in call.rows:
                place += 1
                self._check(sampler, call.timestep, terms)
                named = tuple((self._source(v, call, slots), float(w)) for v, w in terms.items())
                # Slots that nobody reads after this row are free for its result: rows work element by element.
                free = sorted({*free, *(slots.pop(v) for v in [*slots] if last_use.get(v, 0) <= place)})
                slot = free.pop(0) if free else count
                count = max(count, slot + 1)
                slots[vector] = slot
                rows.append(Row(slot, named))
            calls.append(Call(call.timestep, call.input_scale, sample, call.noise is not None, tuple(rows)))
        return SamplerTable(
            sampler=sampler,
            steps=steps,
            slots=count,
            start_image=first[0],
            start_noise=first[1],
            calls=tuple(calls),
            result=slots[last],
            begins=() if memory else tuple(levels[:made]),
            noised=tuple([*levels[1:], (1.0, 0.0)][:made]),
            train_steps=train_steps,
        )

    def _drop_unread(self, result: int) -> None:
        """Removes rows that nothing later reads, such as history kept by the last steps."""
        read = {result}
        for call in reversed(self._calls):
            for row in reversed(call.rows):
                if row[0] in read:
                    read.update(row[1])
            call.rows = [row for row in call.rows if row[0] in read]
            read.add(call.sample)

    def _last_uses(self, result: int) -> dict[int, int]:
        """When each vector is read for the last time, counting calls and rows from 1."""
        uses: dict[int, int] = {}
        place = 0
        for call in self._calls:
            place += 1
            uses[call.sample] = place
            for _, terms in call.rows:
                place += 1
                uses.update(dict.fromkeys(terms, place))
        uses[result] = place + 1
        return uses

    @staticmethod
    def _source(vector: int, call: _Call, slots: dict[int, int]) -> int:
        if vector == call.output:
            return MODEL
        return NOISE if vector == call.noise else slots[vector]

    @staticmethod
    def _check(sampler: str, timestep: float, terms: dict[int, float]) -> None:
        if not all(math.isfinite(weight) for weight in terms.values()):
            raise UsageError(
                f"the step at timestep {timestep:g} divides by zero (expected levels of noise that differ, "
                "and none without an image)",
                where=f"sampler {sampler}",
                fix=(
                    "set lower_order_final to true, use v_prediction where rescale_betas_zero_snr is "
                    "set, or use another sampler"
                ),
            )
