"""The values of one picture: what roles gave, the user's numbers and pictures, and what a role's ports are fed with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ondevice.bundle.pipeline import LATENTS, TIMESTEP, Below, Feed, PipelineSpec, Role, Sample
from ondevice.diffusion.given_pictures import GivenPictures
from ondevice.diffusion.guidance import with_ramps
from ondevice.diffusion.noise import Noise
from ondevice.diffusion.text.chunks import Chunk, Pieces, padded
from ondevice.diffusion.text.texts import Texts
from ondevice.errors import UsageError


class Runner(Protocol):
    """What is asked of a session (`ondevice.run.session.Session`).
    Values that stay on the device are its own business."""

    def run(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> dict[str, np.ndarray]: ...

    def run_on(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> dict[str, Any]: ...

    def read(self, value: Any) -> np.ndarray: ...

    def put(self, array: np.ndarray) -> Any: ...

    def release(self, component: str) -> None: ...


class Values:
    """Values by name; those that change with the text also by the key of a text's part, which is `text` here.

    Args:
        numbers: of `resolved`.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        tokenizers: Mapping[str, Pieces],
        texts: Texts,
        pictures: GivenPictures,
        numbers: Mapping[str, Any],
        stream: Noise,
    ) -> None:
        self._spec, self.tokenizers, self.texts, self.pictures = spec, tokenizers, texts, pictures
        self.numbers = dict(numbers)
        self._chosen, self._stream = dict(numbers), stream
        self.frames = frames_of(spec, numbers)
        self._kept: dict[tuple[str, str | None], Any] = {}
        self._made = {LATENTS, TIMESTEP}  # or sure to be made in time
        for step in spec.before:
            if isinstance(step, Role) and self.runs(step):
                self._made |= set(step.keep.values())
            elif isinstance(step, Sample) and self.samples(step):
                self._made.add(step.keep)
        for role in spec.loop_roles():
            if self.runs(role):
                self._made |= set(role.keep.values())

    def enter_call(self, call: int, calls: int) -> None:
        """Numbers that have a window are 0 in calls outside of it.
        Reference: diffusers' control_guidance_start and _end."""
        numbers = dict(self._chosen)
        for name, number in self._spec.numbers.items():
            if number.window is not None:
                start, end = (self._chosen[edge] for edge in number.window)
                numbers[name] = self._chosen[name] if call / calls >= start and (call + 1) / calls <= end else 0.0
        self.numbers = with_ramps(self._spec, numbers, self.frames)

    def keep(self, name: str, value: Any, text: str | None = None) -> None:
        """A value that a role made for a text, or for none."""
        self._kept[name, text] = value
        self._made.add(name)

    def get(self, name: str, text: str | None = None) -> Any:
        """A value that was made."""
        return self._kept[name, text if self._spec.rates[name] == "text" else None]

    def kept(self, names: Sequence[str]) -> dict[tuple[str, str | None], Any]:
        """The values of these names that were made, by name and text."""
        return {key: value for key, value in self._kept.items() if key[0] in names}

    def is_made(self, name: str) -> bool:
        """Whether a value is made with the pictures and numbers that were given."""
        return name in self._made

    @property
    def latents(self) -> np.ndarray:
        """What the loop works on, or, after it, what the decoder is given."""
        return np.asarray(self._kept[LATENTS, None])

    def runs(self, role: Role) -> bool:
        """Whether what a role needs is there: where a picture was not given, what reads it does not run."""
        for feed in role.feed.values():
            if feed.kind == "picture" and not self.pictures.has(feed.name):
                return False
            if feed.kind == "value" and feed.absent is None and feed.name not in self._made:
                return False
        return self._is_below(role.below)

    def samples(self, step: Sample) -> bool:
        """Whether there are moments to sample from."""
        return step.moments in self._made and self._is_below(step.below)

    def _is_below(self, below: Below | None) -> bool:
        return below is None or self._chosen[below.number] < below.limit

    def stands_for_zeros(self, role: Role, text: str) -> bool:
        """Whether a text was not given, and zeros stand for what a role would make of it."""
        return self.texts.parts[text].words is None and any(
            feed.kind == "tokens" and feed.absent == "zeros" for feed in role.feed.values()
        )

    def fed(self, feed: Feed, text: str | None, chunk: Chunk | None = None) -> Any:
        """What a feed gives for a text, `chunk` of it where it is tokens; of a value only where it was made."""
        if feed.kind == "value":
            return self.get(feed.name, text)
        if feed.kind == "numbers":
            name = "" if text is None else self.texts.parts[text].text
            chosen = [number[name] if isinstance(number, Mapping) else number for number in feed.numbers]
            return np.array([[self.number(one) for one in chosen]], np.float32)
        if feed.kind == "tokens":
            return padded(chunk or [], self.tokenizers[feed.name])[np.newaxis]
        prepared = self.pictures.prepared(feed.name)
        if feed.noise is None:
            return prepared
        return prepared + np.float32(self.number(feed.noise)) * self._stream.randn(prepared.shape)

    def number(self, value: float | str) -> float:
        """A constant, or a number by name."""
        return float(self.numbers[value]) if isinstance(value, str) else value


def frames_of(spec: PipelineSpec, numbers: Mapping[str, Any]) -> int:
    """How many frames are drawn."""
    return 1 if spec.latents.frames is None else int(numbers[spec.latents.frames])


def chunks_of(frames: int, have: Collection[int], most: int | None = None) -> list[int]:
    """How many frames at a time something works on that has plans for so many: always the most that are left, and at
    most `most`; fewer in all than `frames` where no plan takes the last ones."""
    found: list[int] = []
    while left := frames - sum(found):
        count = max((one for one in have if one <= min(left, most or left)), default=0)
        if not count:
            break
        found.append(count)
    return found


def resolved(spec: PipelineSpec, given: Mapping[str, float | None], size: tuple[int, int]) -> dict[str, Any]:
    """Every number of a pipeline: as given, or its default; and the ramps between them, one number per frame.

    Raises:
        UsageError: there is no such number, or it is out of range.
    """
    found: dict[str, float] = {"width": float(size[0]), "height": float(size[1])}
    for name in given:
        if name not in spec.numbers or spec.numbers[name].ramp is not None:
            have = ", ".join(known for known, number in spec.numbers.items() if number.ramp is None) or "none"
            raise UsageError(f"this model has no such number (it has {have})", where=name, fix="leave it out")
    for name, number in spec.numbers.items():
        if number.ramp is not None:
            continue
        chosen = given.get(name)
        value = number.default if chosen is None else float(chosen)
        value = found[value] if isinstance(value, str) else value
        if value is None or not number.low <= value <= number.high:
            raise UsageError(
                f"out of range (got {value}, expected {number.low:g} to {number.high:g})",
                where=name,
                fix="choose another",
            )
        if name == spec.latents.frames and (value < 1 or value % 1):
            raise UsageError(f"not a number of frames (got {value:g}, expected a whole one)", where=name, fix="use 14")
        found[name] = value
    return with_ramps(spec, found, frames_of(spec, found))
