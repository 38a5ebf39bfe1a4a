"""A sampler as a table of numbers, and its replay.

Every sampler here is linear in (samples, model outputs, noise) at each step, so a table says all there is to say:

    slot[0] = start_image * image + start_noise * noise
    for call in calls:
        output = model(call.input_scale * slot[call.sample], call.timestep)
        noise  = one fresh draw, if call.draws_noise
        for row in call.rows:                # in order
            slot[row.slot] = sum(coefficient * source for source, coefficient in row.terms)
    result = slot[result]

A source is a slot's number, MODEL (the output just made) or NOISE (the draw just made). All terms of a row are read
before its slot is written; element by element, a row may thus work in place. docs/samplers.md has the JSON form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ondevice.diffusion.samplers.settings import shown
from ondevice.errors import BundleError

MODEL = -1
NOISE = -2
LARGEST = 1e30  # of a table's numbers: a player multiplies them in float32
MAX_TRAIN_STEPS = 100_000

_MAX_CALLS, _MAX_SLOTS, _MAX_ROWS, _MAX_TERMS = 20_000, 16, 8, 20


@dataclass(frozen=True)
class Row:
    """`slot` becomes the sum of coefficient * source over `terms` (source, coefficient)."""

    slot: int
    terms: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Call:
    """One pass of the model and what follows it.

    `timestep` is what the model is told. `draws_noise` says that one draw is taken from the stream, even where its
    coefficient is zero: later draws must come out as in the reference.
    """

    timestep: float
    input_scale: float
    sample: int
    draws_noise: bool
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class SamplerTable:
    """A compiled sampler. `slots` buffers of the sample's shape are enough to replay it.

    `begins`, of a sampler without memory: for each call the factors of image and noise in slot 0 where a run
    begins at that call. `noised`: for each call the factors of image and noise at the next call's timestep, which is
    where the sample then is; [1, 0] after the last. `train_steps`: timesteps of the training schedule. Tables of older
    versions have neither.
    """

    sampler: str
    steps: int
    slots: int
    start_image: float
    start_noise: float
    calls: tuple[Call, ...]
    result: int
    begins: tuple[tuple[float, float], ...] = ()
    noised: tuple[tuple[float, float], ...] = ()
    train_steps: int | None = None

    def start(self, noise: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
        """float32: what slot 0 holds before the first call."""
        start = np.float32(self.start_noise) * noise.astype(np.float32)
        return start if image is None else np.float32(self.start_image) * image.astype(np.float32) + start

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists, the form that a bundle stores."""
        data = asdict(self)
        data["calls"] = [
            {
                **asdict(call),
                "rows": [{"slot": row.slot, "terms": [list(term) for term in row.terms]} for row in call.rows],
            }
            for call in self.calls
        ]
        data["begins"] = [list(factors) for factors in self.begins]
        data["noised"] = [list(factors) for factors in self.noised]
        if self.train_steps is None:
            del data["train_steps"]
        return data

    @classmethod
    def from_json(cls, data: Any, where: str = "sampler table") -> SamplerTable:
        """The table that `to_json` wrote.
        `data` is not trusted: BundleError names the first thing that cannot be replayed."""
        top = _fields(data, _TOP, where, optional=("begins", "noised", "train_steps"))
        slots = _integer(top["slots"], 1, _MAX_SLOTS, f"{where}: slots")
        calls = _sequence(top["calls"], 1, _MAX_CALLS, f"{where}: calls")
        written = {0}
        return cls(
            sampler=_name(top["sampler"], f"{where}: sampler"),
            steps=_integer(top["steps"], 1, _MAX_CALLS, f"{where}: steps"),
            slots=slots,
            start_image=_number(top["start_image"], f"{where}: start_image"),
            start_noise=_number(top["start_noise"], f"{where}: start_noise"),
            calls=tuple(_call(call, slots, written, f"{where}: calls[{i}]") for i, call in enumerate(calls)),
            result=_source(
                _integer(top["result"], 0, slots - 1, f"{where}: result"), written, False, f"{where}: result"
            ),
            begins=_begins(top.get("begins", []), slots, len(calls), f"{where}: begins"),
            noised=_pairs(top.get("noised", []), len(calls), f"{where}: noised"),
            train_steps=(
                _integer(top["train_steps"], 1, MAX_TRAIN_STEPS, f"{where}: train_steps")
                if "train_steps" in top
                else None
            ),
        )


def run_table(
    table: SamplerTable,
    model_fn: Callable[[np.ndarray, float], np.ndarray],
    sample: np.ndarray,
    noise_fn: Callable[[int], np.ndarray] | None = None,
    on_call: Callable[[int, np.ndarray], np.ndarray | None] | None = None,
    *,
    begun: tuple[int, list[np.ndarray]] | None = None,
    keep: Callable[[int, list[np.ndarray]], None] | None = None,
) -> np.ndarray:
    """Replays `table` in float32.

    `sample` is `table.start(...)`; `model_fn(input, timestep)` gives an array of the same shape;
    `noise_fn(call's number)` gives one draw of that shape, in the order of calls;
    `on_call(call's number, sample after it)` is told after each call, and what it returns takes the sample's place;
    `keep(the next call's number, slots)` is told after that. `begun`: what it was told in a run that this one goes on
    from, in the place of `sample`; slots that were not written are empty.
    """
    first, slots = begun or (0, [sample.astype(np.float32)] + [np.empty(0, np.float32)] * (table.slots - 1))
    for i, call in enumerate(table.calls[first:], first):
        current = slots[call.sample]
        sources: dict[int, np.ndarray] = {MODEL: model_fn(current * np.float32(call.input_scale), call.timestep)}
        if call.draws_noise:
            if noise_fn is None:
                raise ValueError(f"{table.sampler} draws noise; run_table needs a noise_fn")
            sources[NOISE] = noise_fn(i)
        for row in call.rows:
            total = np.zeros_like(current)
            for source, coefficient in row.terms:
                total += np.float32(coefficient) * (sources[source] if source < 0 else slots[source])
            slots[row.slot] = total
        if on_call is not None:
            sample_slot = table.calls[i + 1].sample if i + 1 < len(table.calls) else table.result
            if (changed := on_call(i, slots[sample_slot])) is not None:
                slots[sample_slot] = changed
        if keep is not None:
            keep(i + 1, slots)
    return slots[table.result]


_TOP = ("sampler", "steps", "slots", "start_image", "start_noise", "calls", "result")
_CALL = ("timestep", "input_scale", "sample", "draws_noise", "rows")
_FIX = "convert the checkpoint again"


def _call(data: Any, slots: int, written: set[int], where: str) -> Call:
    """`written` holds the slots that have a value, and grows as rows are read."""
    fields = _fields(data, _CALL, where)
    draws = fields["draws_noise"]
    if not isinstance(draws, bool):
        raise BundleError(
            f"wrong type (got {shown(draws)!r}, expected true or false)", where=f"{where}: draws_noise", fix=_FIX
        )
    sample = _source(_integer(fields["sample"], 0, slots - 1, f"{where}: sample"), written, draws, f"{where}: sample")
    rows = []
    for i, row in enumerate(_sequence(fields["rows"], 1, _MAX_ROWS, f"{where}: rows")):
        place = f"{where}: rows[{i}]"
        parts = _fields(row, ("slot", "terms"), place)
        slot = _integer(parts["slot"], 0, slots - 1, f"{place}: slot")
        terms = []
        for term in _sequence(parts["terms"], 0, _MAX_TERMS, f"{place}: terms"):
            source, coefficient = _sequence(term, 2, 2, f"{place}: term")
            source = _source(_integer(source, NOISE, slots - 1, f"{place}: source"), written, draws, f"{place}: source")
            terms.append((source, _number(coefficient, f"{place}: coefficient")))
        written.add(slot)
        rows.append(Row(slot, tuple(terms)))
    return Call(
        timestep=_number(fields["timestep"], f"{where}: timestep"),
        input_scale=_number(fields["input_scale"], f"{where}: input_scale"),
        sample=sample,
        draws_noise=draws,
        rows=tuple(rows),
    )


def _begins(data: Any, slots: int, calls: int, where: str) -> tuple[tuple[float, float], ...]:
    """None, or a pair per call; a table of more slots would read some before they are written."""
    rows = _sequence(data, 0, calls, where)
    if rows and (len(rows) != calls or slots > 1):
        got = f"{len(rows)} items for {calls} calls and {slots} slots"
        raise BundleError(f"wrong list (got {got}, expected one for each call, and one slot)", where=where, fix=_FIX)
    return _pairs(data, calls, where)


def _pairs(data: Any, calls: int, where: str) -> tuple[tuple[float, float], ...]:
    """None, or (image, noise) per call."""
    rows = _sequence(data, 0, calls, where)
    if rows and len(rows) != calls:
        raise BundleError(f"wrong list (got {len(rows)} items, expected one for each call)", where=where, fix=_FIX)
    pairs = [_sequence(row, 2, 2, f"{where}[{i}]") for i, row in enumerate(rows)]
    return tuple(
        (_number(image, f"{where}[{i}]"), _number(noise, f"{where}[{i}]")) for i, (image, noise) in enumerate(pairs)
    )


def _fields(data: Any, names: tuple[str, ...], where: str, optional: tuple[str, ...] = ()) -> Mapping[str, Any]:
    if not isinstance(data, dict) or set(data) - set(optional) != set(names):
        got = ", ".join(sorted(map(shown, data)))[:120] if isinstance(data, dict) else type(data).__name__
        raise BundleError(f"wrong fields (got {got or 'none'}, expected {', '.join(names)})", where=where, fix=_FIX)
    return data


def _sequence(data: Any, low: int, high: int, where: str) -> list[Any]:
    if not isinstance(data, list) or not low <= len(data) <= high:
        got = f"{len(data)} items" if isinstance(data, list) else type(data).__name__
        raise BundleError(f"wrong list (got {got}, expected {low} to {high} items)", where=where, fix=_FIX)
    return data


def _integer(data: Any, low: int, high: int, where: str) -> int:
    if type(data) is not int or not low <= data <= high:
        raise BundleError(
            f"out of range (got {shown(data)}, expected an integer from {low} to {high})", where=where, fix=_FIX
        )
    return data


def _number(data: Any, where: str) -> float:
    # Beyond float32 a player would read infinity.
    if type(data) not in (int, float) or not abs(data) <= LARGEST:
        raise BundleError(
            f"not a number a player can hold (got {shown(data)}, expected a float32)", where=where, fix=_FIX
        )
    return float(data)


def _name(data: Any, where: str) -> str:
    if not isinstance(data, str) or not (data.isascii() and data.isidentifier()) or len(data) > 40:
        raise BundleError(f"not a sampler's name (got {shown(data)!r}, expected a word)", where=where, fix=_FIX)
    return data


def _source(source: int, written: set[int], draws: bool, where: str) -> int:
    if source >= 0 and source not in written:
        raise BundleError(f"slot {source} is read before it is written", where=where, fix=_FIX)
    if source == NOISE and not draws:
        raise BundleError("noise is used but not drawn", where=where, fix=_FIX)
    return source
