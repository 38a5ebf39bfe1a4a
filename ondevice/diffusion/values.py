"""The values of one picture: what roles gave, the user's numbers and pictures, and what a role's ports are fed with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ondevice.bundle.pipeline import LATENTS, TIMESTEP, Feed, Pass, PipelineSpec, Role
from ondevice.diffusion.image import from_pixels, resize
from ondevice.diffusion.noise import Noise
from ondevice.diffusion.text.chunks import Chunk, Pieces, padded
from ondevice.diffusion.text.texts import Texts
from ondevice.errors import UsageError

PREPARED = ("fit",)  # ways to prepare a picture that are here


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
        pictures: uint8 [h, w, 3] by name.
        size: (width, height) in pixels.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        tokenizers: Mapping[str, Pieces],
        texts: Texts,
        pictures: Mapping[str, np.ndarray],
        numbers: Mapping[str, float],
        size: tuple[int, int],
        stream: Noise,
    ) -> None:
        self._spec, self._pictures, self.tokenizers, self.texts = spec, pictures, tokenizers, texts
        self.numbers = dict(numbers)
        self._chosen, self._size, self._stream = dict(numbers), size, stream
        self._kept: dict[tuple[str, str | None], Any] = {}
        self._prepared: dict[str, np.ndarray] = {}
        self._zeros: dict[tuple[str, str | None], Any] = {}

    def enter_call(self, call: int, calls: int) -> None:
        """Numbers that have a window are 0 in calls outside of it.
        Reference: diffusers' control_guidance_start and _end."""
        for name, number in self._spec.numbers.items():
            if number.window is not None:
                start, end = (self._chosen[edge] for edge in number.window)
                self.numbers[name] = self._chosen[name] if call / calls >= start and (call + 1) / calls <= end else 0.0

    def keep(self, name: str, value: Any, text: str | None = None) -> None:
        """A value that a role made for a text, or for none."""
        self._kept[name, text] = value

    def get(self, name: str, text: str | None = None) -> Any | None:
        """A value, if it was made."""
        return self._kept.get((name, text if self._spec.rates[name] == "text" else None))

    def kept(self, names: Sequence[str]) -> dict[tuple[str, str | None], Any]:
        """The values of these names that were made, by name and text."""
        return {key: value for key, value in self._kept.items() if key[0] in names}

    @property
    def latents(self) -> np.ndarray:
        """What the loop works on, or, after it, what the decoder is given."""
        return np.asarray(self._kept[LATENTS, None])

    def runs(self, role: Role) -> bool:
        """Whether what a role needs is there: where a picture was not given, what reads it does not run."""
        for feed in role.feed.values():
            if feed.kind == "picture" and feed.name not in self._pictures:
                return False
            missing = (
                feed.kind == "value" and feed.absent is None and not any(name == feed.name for name, _ in self._kept)
            )
            if missing and feed.name not in (LATENTS, TIMESTEP):
                return False
        return True

    def stands_for_zeros(self, role: Role, text: str) -> bool:
        """Whether a text was not given, and zeros stand for what a role would make of it."""
        return self.texts.parts[text].words is None and any(
            feed.kind == "tokens" and feed.absent == "zeros" for feed in role.feed.values()
        )

    def feeds(self, role: Role, text: str | None = None, chunk: Chunk | None = None) -> dict[str, Any]:
        """What the ports of a role outside the loop are fed with; `chunk` of the text, where it reads tokens."""
        return {port: self._one(feed, text, chunk) for port, feed in role.feed.items()}

    def feeds_of_passes(self, role: Role, passes: Sequence[Pass], zeros_like: Callable[[Any], Any]) -> dict[str, Any]:
        """What the ports of a role in the loop are fed with, one after another along the first dimension for each pass.

        `zeros_like` makes zeros of a value that a pass exchanges for them.
        """
        fed: dict[str, Any] = {}
        for port, feed in role.feed.items():
            if feed.kind == "value" and feed.name != LATENTS and self._spec.rates[feed.name] == "call":
                # the timestep is the same in all passes; what a role of this call made is joined
                fed[port] = self.get(feed.name)
                continue
            parts = []
            for one in passes:
                key = feed.name, one.text
                if feed.kind != "value" or feed.name not in one.zeros:
                    parts.append(self._one(feed, one.text))
                    continue
                if key not in self._zeros:  # the same in every call
                    self._zeros[key] = zeros_like(self._one(feed, one.text))
                parts.append(self._zeros[key])
            fed[port] = np.concatenate(parts) if all(isinstance(part, np.ndarray) for part in parts) else parts
        return fed

    def _one(self, feed: Feed, text: str | None, chunk: Chunk | None = None) -> Any:
        if feed.kind == "value":
            return self.get(feed.name, text)
        if feed.kind == "numbers":
            name = "" if text is None else self.texts.parts[text].text
            chosen = [number[name] if isinstance(number, Mapping) else number for number in feed.numbers]
            return np.array([[self.number(one) for one in chosen]], np.float32)
        if feed.kind == "tokens":
            return padded(chunk or [], self.tokenizers[feed.name])[np.newaxis]
        return self._picture(feed)

    def _picture(self, feed: Feed) -> np.ndarray:
        name = feed.name
        if name not in self._prepared:
            self._prepared[name] = from_pixels(resize(self._pictures[name], *self._size))
        if feed.noise is None:
            return self._prepared[name]
        return self._prepared[name] + np.float32(self.number(feed.noise)) * self._stream.randn(
            self._prepared[name].shape
        )

    def number(self, value: float | str) -> float:
        """A constant, or a number by name."""
        return self.numbers[value] if isinstance(value, str) else value


def resolved(spec: PipelineSpec, given: Mapping[str, float | None], size: tuple[int, int]) -> dict[str, float]:
    """Every number of a pipeline: as given, or its default.

    Raises:
        UsageError: there is no such number, or it is out of range.
    """
    found: dict[str, float] = {"width": float(size[0]), "height": float(size[1])}
    for name in given:
        if name not in spec.numbers:
            have = ", ".join(spec.numbers) or "none"
            raise UsageError(f"this model has no such number (it has {have})", where=name, fix="leave it out")
    for name, number in spec.numbers.items():
        chosen = given.get(name)
        value = number.default if chosen is None else float(chosen)
        value = found[value] if isinstance(value, str) else value
        if value is None or not number.low <= value <= number.high:
            raise UsageError(
                f"out of range (got {value}, expected {number.low:g} to {number.high:g})",
                where=name,
                fix="choose another",
            )
        found[name] = value
    return found
