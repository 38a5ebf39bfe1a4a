"""The texts of one picture as its pipeline's passes read them: parts, and chunks of tokens.
The specification is docs/prompts.md and docs/pipeline.md, "Texts"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ondevice.bundle.pipeline import Pass, PipelineSpec
from ondevice.diffusion.guidance import passes_in_use
from ondevice.diffusion.text.chunks import Chunk, Pieces, Reading, chunked, cut, room_of, warn
from ondevice.diffusion.text.emphasis import parts, plain, sections
from ondevice.errors import UsageError

EMPHASES = ("none", "mean", "compel")
LENGTHS = ("truncate", "chunk", "fit")
"""How a text is read that is longer than a text encoder takes at once: its beginning; in chunks, and an error where the
bundle has no plans for so many; in as many chunks as it has plans for."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a text: which text, its weight, and what it says; None for a text that was not given."""

    text: str
    weight: float
    words: str | None


_NONE = Part("", 1.0, None)


class Texts:
    """What the user's texts say. A part has a key, by which its values are kept: its text's name, and for all parts but
    the first a number after it.

    Args:
        given: the user's texts by the names that the pipeline has for them; None: not given.
        emphasis: one of EMPHASES.
        long: one of LENGTHS.
        most: of a text's chunks, what there are plans for.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        tokenizers: Mapping[str, Pieces],
        given: Mapping[str, str | None],
        *,
        emphasis: str = "none",
        long: str = "truncate",
        most: int = 1,
    ) -> None:
        self._tokenizers, self.emphasis, self._long, self._most = tokenizers, emphasis, long, most
        self._used = _tokenizers_of(spec)
        self._zeros = any(feed.absent for role in spec.roles() for feed in role.feed.values() if feed.kind == "tokens")
        self.parts: dict[str, Part] = {}
        self._keys: dict[str, list[str]] = {}
        self._readings: dict[str, dict[str, Reading]] = {}
        compared = _compared(spec)
        for name, text in given.items():
            found: Sequence[tuple[str | None, float]] = [(text, 1.0)]
            if text is not None and emphasis != "none" and name in compared:
                found = parts(text)
            self._keys[name] = [f"{name}/{place}" if place else name for place in range(len(found))]
            for key, (words, weight) in zip(self._keys[name], found, strict=True):
                self.parts[key] = Part(name, weight, words)

    def keys(self, text: str) -> list[str]:
        """The keys of a text's parts, in order."""
        return self._keys[text]

    def weight(self, key: str | None) -> float:
        """A part's weight; 1 of no text."""
        return 1.0 if key is None else self.parts[key].weight

    def expanded(self, passes: Sequence[Pass]) -> list[list[Pass]]:
        """Each pass as one of the parts of its text, in order; their `text` is the part's key."""
        return [[one] if one.text is None else [Pass(key, one.zeros) for key in self.keys(one.text)] for one in passes]

    def chunks(self, key: str, tokenizer: str) -> list[Chunk]:
        """The chunks of a part by one tokenizer: as many as by the one that gives most.
        Raises UsageError where there are no plans for so many."""
        found = self._read(key)
        return [*found[tokenizer].chunks, *[[] for _ in range(self.count(key) - len(found[tokenizer].chunks))]]

    def count(self, key: str | None) -> int:
        """How many chunks a part has; 1 of no text."""
        return 1 if key is None else max((len(reading.chunks) for reading in self._read(key).values()), default=1)

    def parameters(self, names: Sequence[str]) -> dict[str, Any]:
        """What must be said beside these texts to draw the picture again; nothing of texts that all ways read alike."""
        found: dict[str, Any] = {}
        keys = [key for name in names for key in self.keys(name) if self.parts[key].words is not None]
        if self.emphasis != "none" and any(self._has_signs(name) for name in names):
            found["emphasis"] = self.emphasis
        if any(self.count(key) > 1 for key in keys):
            found["long"] = "chunk"
        if self._zeros and self.parts.get("negative_prompt", _NONE).words == "" and "negative_prompt" in names:
            found["negative_given"] = True  # it is said as "", and so is one that was not given, which zeros stand for
        return found

    def _has_signs(self, name: str) -> bool:
        read = [self.parts[key].words or "" for key in self.keys(name)]
        return len(read) > 1 or sections(read[0]) not in ([[]], plain(read[0]))

    def _read(self, key: str) -> dict[str, Reading]:
        if key not in self._readings:
            self._readings[key] = self._fitted(key)
        return self._readings[key]

    def _fitted(self, key: str) -> dict[str, Reading]:
        part = self.parts[key]
        read = plain(part.words or "") if self.emphasis == "none" else sections(part.words or "")
        tokenizers = {name: self._tokenizers[name] for name in self._used}
        straight = {name: cut(read, tokenizer) for name, tokenizer in tokenizers.items()}
        chunks = {name: chunked(read, tokenizer) for name, tokenizer in tokenizers.items()}
        wanted = max((len(reading.chunks) for reading in chunks.values()), default=1)
        if self._long == "chunk" and wanted > self._most:
            what = f"it takes {wanted} chunks of tokens, and the bundle has plans for {self._most}."
            raise UsageError(what, where=part.text, fix=f"convert with `--chunks {wanted}`, or use --long truncate")
        found, most = (straight, 1) if self._long == "truncate" or self._most == 1 else (chunks, self._most)
        kept = {name: reading.first(most) for name, reading in found.items()}
        for name, (_, left_out) in kept.items():
            if left_out:
                room = most * room_of(tokenizers[name])
                warn(straight[name], left_out, room, wanted if self._long == "fit" else 1)
                break
        return {name: reading for name, (reading, _) in kept.items()}


def most_chunks(
    plans: Mapping[str, Sequence[Mapping[str, int]]], place: Mapping[str, int], tokenizers: Mapping[str, Pieces]
) -> int:
    """How many chunks a text may have: what all components that have plans for several can read.

    Args:
        plans: sizes of each component's plans.
        place: height and width of the picture in latent units.
    """
    lengths = {tokenizer.length for tokenizer in tokenizers.values()}
    counts: set[int] | None = None
    for sizes in plans.values():
        fitting = [one for one in sizes if all(one.get(name, size) == size for name, size in place.items())]
        if tokens := {one["tokens"] for one in fitting if "tokens" in one}:
            own = {count // length for count in tokens for length in lengths}
            counts = own if counts is None else counts & own
    return max(counts or {1}) if len(lengths) == 1 else 1


def check_parts(spec: PipelineSpec, numbers: Mapping[str, Any], texts: Texts) -> None:
    """Refuse a text of several parts where its pass runs alone, in any call. Raises UsageError."""
    for loop in spec.denoise:
        if loop.guided is None or len(loop.passes) == 1:
            continue
        in_calls = spec.numbers[loop.guided.number].window is not None  # outside of which it is 0
        text = loop.passes[loop.guided.alone].text
        if (in_calls or len(passes_in_use(loop, numbers)) == 1) and text is not None and len(texts.keys(text)) > 1:
            what = "AND joins texts by guidance, and there is none here."
            raise UsageError(what, where=text, fix="use a guidance above 1, or write `and`")


def _tokenizers_of(spec: PipelineSpec) -> list[str]:
    feeds = (feed for role in spec.roles() for feed in role.feed.values())
    return list(dict.fromkeys(feed.name for feed in feeds if feed.kind == "tokens"))


def _compared(spec: PipelineSpec) -> set[str]:
    """Texts all of whose passes are compared with another: only these may have parts."""
    compared: set[str] = set()
    others: set[str] = set()
    for loop in spec.denoise:
        plus = {plus for _, plus, _ in loop.combine.add}
        never = {loop.combine.first, *(minus for _, _, minus in loop.combine.add)}
        for place, one in enumerate(loop.passes):
            if one.text is not None:
                (compared if place in plus - never else others).add(one.text)
    return compared - others
