"""Runs the roles of one picture: with which plans, what their ports are fed with and what their outputs become."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ondevice.bundle.pipeline import LATENTS, TIMESTEP, Feed, Pass, PipelineSpec, Role
from ondevice.diffusion.model_files import runs_at
from ondevice.diffusion.noise import Noise
from ondevice.diffusion.text.chunks import Chunk
from ondevice.diffusion.text.encode import encoded
from ondevice.diffusion.values import Runner, Values, chunks_of
from ondevice.errors import NumericError, UsageError

Zeros = Callable[[str, Mapping[str, int], str], np.ndarray]
"""Zeros of the shape and dtype of a port of the plan of a component at some sizes."""


@dataclass(frozen=True, slots=True)
class Plans:
    """What a pipeline knows of its components' plans: their sizes, by component, and zeros for their ports."""

    sizes: Mapping[str, Sequence[Mapping[str, int]]]
    zeros: Zeros


@dataclass(frozen=True, slots=True)
class Roles:
    """What running a role of one picture takes.

    Attributes:
        place: height and width of the picture in latent units, and how many frames it has where it has some.
        most: frames that are decoded at once; None: as many as there are plans for.
        zeros: what stands for values in a pass or where they were not made, made once.
    """

    spec: PipelineSpec
    session: Runner
    plans: Plans
    values: Values
    place: Mapping[str, int]
    most: int | None = None
    zeros: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def run(self, role: Role, text: str | None = None) -> None:
        """Run a role outside the loop, and keep what it makes; once for each chunk of a text that it reads tokens of.
        Raises NumericError where that is not finite."""
        values, sizes = self.values, self.sizes(role.component, 1, text)

        def run(chunk: Chunk | None) -> Mapping[str, Any]:
            return self.session.run_on(role.component, self._feeds(role, text, chunk), **sizes)

        tokenizer = next((feed.name for feed in role.feed.values() if feed.kind == "tokens"), None)
        if tokenizer is None or text is None:
            outputs = run(None)
        else:
            chunks = values.texts.chunks(text, tokenizer)
            outputs = encoded(chunks, run, self.session, values.tokenizers[tokenizer], values.texts.emphasis)
        for port, name in role.keep.items():
            check_finite(self.session.read(outputs[port]), f"{role.component}'s {port}")
            self.values.keep(name, outputs[port], text)

    def run_whole(self, role: Role) -> dict[str, np.ndarray]:
        """Run a role outside the loop; what it makes, by port."""
        return self.session.run(role.component, self._feeds(role), **self.sizes(role.component, 1))

    def run_for_texts(self, role: Role, texts: Sequence[str]) -> None:
        """Run a role for each text (its parts' keys); what it would make of one that was not given may be zeros."""
        absent = [text for text in texts if self.values.stands_for_zeros(role, text)]
        for text in (text for text in texts if text not in absent):
            self.run(role, text)
        for port, name in role.keep.items():
            for text in absent:
                self.values.keep(name, self._zeros_of(role, port, self.sizes(role.component, 1)), text)

    def run_in_chunks(self, role: Role) -> dict[str, np.ndarray]:
        """Run a role for as many frames at a time as its plans take; what it makes of all frames, by port.

        Raises:
            UsageError: frames are left that no plan takes.
        """
        made: dict[str, list[np.ndarray]] = {}
        for first, count in self._chunks(role.component):
            feeds = self._feeds(role)
            for port, feed in role.feed.items():
                if feed.kind == "value" and (feed.name == LATENTS or feed.name in self._kept_in_chunks()):
                    feeds[port] = feeds[port][first : first + count]
            sizes = self.sizes(role.component, 1)
            sizes |= {"frames": count} if "frames" in sizes else {}
            for port, array in self.session.run(role.component, feeds, **sizes).items():
                made.setdefault(port, []).append(array)
        return {port: np.concatenate(arrays) for port, arrays in made.items()}

    def _chunks(self, component: str) -> Iterator[tuple[int, int]]:
        """(first frame, frames) of each."""
        sizes, first = self.sizes(component, 1), 0
        plans = self.plans.sizes.get(component, ())
        have = {plan["frames"] for plan in plans if plan == sizes | {"frames": plan.get("frames")}} or {1}
        for count in chunks_of(self.values.frames, have, self.most):
            yield first, count
            first += count
        if left := self.values.frames - first:
            what = f"{component} has no plan for {left} frames that are left (it has {sorted(have)})"
            raise UsageError(what, where="frames", fix=f"ask for a multiple of {min(have)}")

    def _kept_in_chunks(self) -> set[str]:
        last = (*self.spec.after, *self.spec.fast)
        return {name for role in last if role.every == "chunk" for name in role.keep.values()}

    def feeds_of_passes(self, role: Role, passes: Sequence[Pass]) -> dict[str, Any]:
        """What the ports of a role in the loop are fed with, one after another along the first dimension for each
        pass."""
        fed: dict[str, Any] = {}
        for port, feed in role.feed.items():
            if feed.kind == "value" and feed.name == TIMESTEP:  # the same in all passes
                fed[port] = self.values.get(TIMESTEP)
            elif not self._is_there(feed):
                sizes = self.sizes(role.component, len(passes), passes[0].text)
                fed[port] = self._zeros_of(role, port, sizes)
            elif feed.kind == "value" and feed.name != LATENTS and self.spec.rates[feed.name] == "call":
                fed[port] = self._joined(feed.name, passes)
            else:
                parts = [self._in_pass(feed, one) for one in passes]
                fed[port] = np.concatenate(parts) if all(isinstance(part, np.ndarray) for part in parts) else parts
        return fed

    def _joined(self, name: str, passes: Sequence[Pass]) -> Any:
        """What a role of this call made in all passes, with zeros in those that have them."""
        value = self.values.get(name)
        if not any(name in one.zeros for one in passes):
            return value
        parts = np.split(self.session.read(value), len(passes))
        return np.concatenate(
            [np.zeros_like(part) if name in one.zeros else part for part, one in zip(parts, passes, strict=True)]
        )

    def _in_pass(self, feed: Feed, one: Pass) -> Any:
        value = self.values.fed(feed, one.text)
        if feed.kind != "value" or feed.name not in one.zeros:
            return value
        key = (feed.name, one.text or "")
        if key not in self.zeros:  # the same in every call
            zeros = np.zeros_like(self.on_host(value))
            self.zeros[key] = zeros if isinstance(value, np.ndarray) else self.session.put(zeros)
        return self.zeros[key]

    def on_host(self, value: Any) -> np.ndarray:
        """A value as an array, wherever it is."""
        return value if isinstance(value, np.ndarray) else self.session.read(value)

    def _feeds(self, role: Role, text: str | None = None, chunk: Chunk | None = None) -> dict[str, Any]:
        """What the ports of a role outside the loop are fed with; `chunk` of the text, where it reads tokens."""
        sizes = self.sizes(role.component, 1, text)
        return {
            port: self.values.fed(feed, text, chunk) if self._is_there(feed) else self._zeros_of(role, port, sizes)
            for port, feed in role.feed.items()
        }

    def _is_there(self, feed: Feed) -> bool:
        return feed.kind != "value" or self.values.is_made(feed.name)

    def _zeros_of(self, role: Role, port: str, sizes: Mapping[str, int]) -> Any:
        """Zeros for a port, of the plan of these sizes."""
        key = (role.component, port, *sorted(sizes.items()))
        if key not in self.zeros:
            self.zeros[key] = self.session.put(self.plans.zeros(role.component, sizes, port))
        return self.zeros[key]

    def sizes(self, component: str, batch: int, text: str | None = None) -> dict[str, int]:
        """The sizes of the plan to run; `text` says how many tokens it reads."""
        names = self.plans.sizes[component][0] if component in self.plans.sizes else self.place
        found = {name: size for name, size in {"batch": batch, **self.place}.items() if name in names}
        if "tokens" in names:
            length = max(tokenizer.length for tokenizer in self.values.tokenizers.values())
            found["tokens"] = length * self.values.texts.count(text)
        return found

    def has_plan(self, component: str, batch: int, text: str | None = None) -> bool:
        """Whether a component can run this many passes at once."""
        wanted = self.sizes(component, batch, text)
        plans = self.plans.sizes.get(component, ())
        return any(plan.keys() == wanted.keys() and runs_at(plan, wanted) for plan in plans)


@dataclass(frozen=True, slots=True)
class Entered:
    """A request that nothing was run for yet: what runs its roles, every number, whether a mask was given, and its
    draws."""

    roles: Roles
    numbers: dict[str, Any]
    masked: bool
    stream: Noise


def check_finite(values: np.ndarray, where: str, find: str = "--check") -> None:
    """Raises NumericError where a value is NaN or infinite; `find`: what finds the op."""
    if not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise NumericError(
            f"{bad} of {values.size} values are NaN or infinite",
            where=where,
            fix=f"find the op with {find}, or convert with --dtype fp32",
        )
