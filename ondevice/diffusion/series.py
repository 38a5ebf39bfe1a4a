"""Several pictures that differ in their noise alone: what no noise goes into is made for the first, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ondevice.bundle.pipeline import LATENTS, PipelineSpec, Role, Sample, Step
from ondevice.diffusion.noise import NOISE_FIELDS
from ondevice.diffusion.request import Request
from ondevice.diffusion.text.texts import Texts
from ondevice.diffusion.values import Values
from ondevice.errors import UsageError


class Series:
    """What the steps of `before` made of one request, but for its noise. Another request begins anew."""

    def __init__(self, spec: PipelineSpec) -> None:
        self._spec, self._fixed = spec, fixed_steps(spec.before)
        self._request: Request | None = None
        self._adapters: Mapping[str, Any] = {}
        self.texts: Texts | None = None  # read once, so that what is left out of them is said once
        self._made: dict[int, Mapping[tuple[str, str | None], Any]] = {}

    def enter(self, request: Request, adapters: Mapping[str, Any]) -> None:
        """The next picture's request, and the adapters that it is drawn with; nothing is kept where it differs in more
        than its noise."""
        same = self._request is not None and differ_in_noise_alone(self._request, request)
        if not same or adapters != self._adapters:
            self._made.clear()
            self.texts = None
        self._request, self._adapters = request, adapters

    def restore(self, number: int, values: Values) -> bool:
        """Whether step `number` was done for an earlier picture; then its values are there."""
        if number not in self._made:
            return False
        for (name, text), value in self._made[number].items():
            values.keep(name, value, text)
        return True

    def store(self, number: int, role: Role, values: Values) -> None:
        """Keep what step `number` made, if the next picture's is the same."""
        if number in self._fixed:
            self._made[number] = values.kept(tuple(role.keep.values()))

    def between(self, other: Series, mix: Callable[[Any, Any], Any]) -> Series:
        """What `mix` makes of this one's values and of `other`'s, in place of what this one's request would.
        Both are what `encode_texts` left. Raises UsageError where the texts have not the same parts and chunks."""
        found = Series(self._spec)
        found._request, found._adapters, found.texts = self._request, self._adapters, self.texts
        for number, ours in self._made.items():
            theirs = other._made[number]
            if ours.keys() != theirs.keys():
                what = "texts of several parts (AND) have no way between them."
                raise UsageError(what, where="prompt", fix="write both without AND")
            found._made[number] = {key: mix(value, theirs[key]) for key, value in ours.items()}
        return found


def fixed_steps(before: Sequence[Step]) -> set[int]:
    """The roles of `before`, by their place in it, that no draw goes into."""
    fixed, drawn = set(), {LATENTS}
    for number, step in enumerate(before):
        if isinstance(step, Sample) and (step.draw or step.moments in drawn):
            drawn.add(step.keep)
        elif isinstance(step, Role):
            if any(
                feed.noise is not None or (feed.kind == "value" and feed.name in drawn) for feed in step.feed.values()
            ):
                drawn |= {*step.keep.values()}
            else:
                fixed.add(number)
    return fixed


def differ_in_noise_alone(one: Request, other: Request) -> bool:
    """Whether all other fields are the same objects, as `series_of` makes them; latents stand for noise."""
    return all(
        getattr(one, field.name) is getattr(other, field.name)
        for field in fields(Request)
        if field.name not in (*NOISE_FIELDS, "latents")
    )


def series_of(request: Request, count: int) -> Iterator[Request]:
    """`count` requests with the seeds s, s + 1, s + 2...; where there is a variation, its seeds go on instead.

    Raises:
        UsageError: no picture is asked for, or the last one's seed is none.
    """
    if count < 1:
        raise UsageError(f"no picture is asked for (got {count}, expected 1 or more)", where="count", fix="use 1")

    def at(number: int) -> Request:
        if request.variation_seed is not None:
            return replace(request, variation_seed=request.variation_seed + number)
        return replace(request, seed=request.seed + number)

    at(count - 1).noise()  # a seed that is none is refused before anything is drawn
    return (at(number) for number in range(count))
