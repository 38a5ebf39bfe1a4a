"""Reads the `pipeline` of a manifest.
The specification is docs/pipeline.md; every check of its last section is one of here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ondevice.bundle import format as f
from ondevice.bundle.pipeline import (
    LATENTS,
    RATES,
    ROUNDS,
    TIMESTEP,
    Below,
    Combine,
    Feed,
    Guided,
    InitialNoise,
    Latents,
    Loop,
    Mask,
    Outside,
    Pass,
    PipelineSpec,
    Role,
    Sample,
    Step,
    feed_rate,
)
from ondevice.bundle.pipeline_given import MAX_NUMBERS, GivenReader, Path

MAX_ROLES, MAX_PASSES, MAX_VALUES = 64, 16, 256
MAX_LOOPS, MAX_FEEDS, MAX_STEPS = 8, 64, 1_000
KNOWN: frozenset[str] = frozenset()
"""What `needs` may name: words that a later minor version adds, and that this reader knows."""
_KEYS = ("gives", "numbers", "texts", "pictures", "latents", "sampler", "before", "denoise", "after")


def parse_pipeline(
    check: f.Checker, value: Any, components: Collection[str], tokenizers: Collection[str], samplers: Collection[str]
) -> PipelineSpec:
    """The pipeline of parsed JSON.

    Args:
        components, tokenizers, samplers: what else the manifest has, by name.

    Raises:
        BundleError: the first thing that is wrong, with its place.
    """
    gives, numbers, texts, pictures, latents, sampler, before, denoise, after = check.record(value, _KEYS, "pipeline")
    reader = _Reader(check, components, tokenizers)
    needs = check.needs(value.get("needs", []), KNOWN, "pipeline", "needs")
    check.one_of(gives, ("picture", "frames"), "pipeline", "gives")
    reader.read_numbers(numbers)
    reader.read_texts(texts)
    reader.read_pictures(pictures)
    sampler_name, steps = check.record(sampler, ("name", "steps"), "pipeline", "sampler")
    check.identifier(sampler_name, "pipeline", "sampler", "name")
    check.integer(steps, 1, MAX_STEPS, "pipeline", "sampler", "steps")
    if f"{sampler_name}_{steps}" not in samplers:
        check.fail(
            f"is {sampler_name} at {steps} steps, but samplers has no {sampler_name}_{steps}", "pipeline", "sampler"
        )
    first = [
        reader.step(row, ("pipeline", "before", i))
        for i, row in enumerate(check.array(before, (0, MAX_ROLES), "pipeline", "before"))
    ]
    if sum(isinstance(step, InitialNoise) for step in first) > 1:
        check.fail("draws the initial noise twice", "pipeline", "before")
    base = reader.latents(latents)
    reader.rates |= {LATENTS: "call", TIMESTEP: "call"}
    loops = [
        reader.loop(row, ("pipeline", "denoise", i))
        for i, row in enumerate(check.array(denoise, (1, MAX_LOOPS), "pipeline", "denoise"))
    ]
    reader.rates = {name: rate for name, rate in reader.rates.items() if rate != "call"} | {LATENTS: "picture"}
    known, optional = dict(reader.rates), set(reader.optional)
    last = reader.last(after, gives, "after")
    if (base.frames is not None) != (gives == "frames"):
        what = (
            f"is {gives}, and latents.frames is {f.shown(base.frames)} (expected frames and their number, or neither)"
        )
        check.fail(what, "pipeline", "gives")
    reader.always(gives, "after")
    fast: tuple[Role, ...] = ()
    if "fast" in value:  # it reads nothing that `after` keeps, and keeps what the pipeline gives once more
        reader.hidden = reader.rates.keys() - known - {gives}
        of_after, reader.rates, reader.optional = reader.rates, known, optional
        fast = reader.last(value["fast"], gives, "fast")
        reader.always(gives, "fast")
        reader.rates |= of_after
    return PipelineSpec(
        needs=needs,
        gives=gives,
        numbers=reader.numbers,
        texts=reader.texts,
        pictures=reader.pictures,
        latents=base,
        sampler=sampler_name,
        steps=steps,
        before=tuple(first),
        denoise=tuple(loops),
        after=last,
        rates=reader.rates | reader.made_in_calls | {LATENTS: "call", TIMESTEP: "call"},
        outside=reader.outside(value["outside"], gives) if "outside" in value else None,
        fast=fast,
    )


class _Reader(GivenReader):
    """What was read so far: names, and of values how often they change."""

    def __init__(self, check: f.Checker, components: Collection[str], tokenizers: Collection[str]) -> None:
        super().__init__(check)
        self.components, self.tokenizers = components, tokenizers
        self.rates: dict[str, str] = {}
        self.made_in_calls: dict[str, str] = {}
        self.optional: set[str] = set()  # values that are not always made
        self.hidden: set[str] = set()  # names of values that may not be read here, nor be another's

    def latents(self, value: Any) -> Latents:
        at: Path = ("pipeline", "latents")
        channels, scale, scaling, shift = self.check.record(value, ("channels", "scale", "scaling", "shift"), *at)
        frames, begin, strength = (value.get(key) for key in ("frames", "begin", "strength"))
        if begin is not None and self.rates.get(begin if type(begin) is str else "") != "picture":
            self.check.fail(f"is {f.shown(begin)} (expected a value that is made once per picture)", *at, "begin")
        if (begin is None) != (strength is None):
            self.check.fail(
                "is there alone (expected begin and strength, or neither)",
                *at,
                "strength" if begin is None else "begin",
            )
        for key, number in (("frames", frames), ("strength", strength)):
            if number is not None:
                self.check.one_of(number, self.plain(windowed=False), *at, key)
        if "rounds" in value and strength is None:
            self.check.fail("is there alone (expected begin and strength beside it)", *at, "rounds")
        count = self.check.integer(channels, 1, 64, *at, "channels")
        return Latents(
            count,
            self.check.integer(scale, 1, 64, *at, "scale"),
            self.number(scaling, 1e-9, 1e9, *at, "scaling"),
            self.number(shift, -1e9, 1e9, *at, "shift"),
            frames,
            begin,
            strength,
            self.preview(value["preview"], count, (*at, "preview")) if "preview" in value else (),
            self.mask(value["mask"], begin, (*at, "mask")) if "mask" in value else None,
            self.check.one_of(value.get("rounds", ROUNDS[0]), ROUNDS, *at, "rounds"),
        )

    def mask(self, value: Any, begin: str | None, at: Path) -> Mask:
        """Where a part of a picture is drawn anew."""
        picture, strength = self.check.record(value, ("picture", "strength"), *at)
        if begin is None:
            self.check.fail("is there alone (expected begin and strength beside it)", *at)
        return Mask(self.prepared(picture, "mask", *at, "picture"), self.number(strength, 0, 1, *at, "strength"))

    def outside(self, value: Any, gives: str) -> Outside:
        """Whose pixels the result has outside of which mask."""
        at: Path = ("pipeline", "outside")
        picture, mask = self.check.record(value, ("picture", "mask"), *at)
        if gives != "picture":
            self.check.fail(f"is there, and {gives} are given (expected a picture)", *at)
        return Outside(self.prepared(picture, "fit", *at, "picture"), self.prepared(mask, "mask", *at, "mask"))

    def preview(self, value: Any, channels: int, at: Path) -> tuple[tuple[float, ...], ...]:
        """Red, green and blue of latents' channels and one."""
        rows = self.check.array(value, (3, 3), *at)
        size = channels + 1, channels + 1
        return tuple(
            tuple(self.number(one, -1e9, 1e9, *at, i, k) for k, one in enumerate(self.check.array(row, size, *at, i)))
            for i, row in enumerate(rows)
        )

    def last(self, value: Any, gives: str, key: str) -> tuple[Role, ...]:
        """What comes after the loop: `after`, or `fast` in its place."""
        roles = tuple(
            self.role(row, ("pipeline", key, i), ("picture", "chunk"))
            for i, row in enumerate(self.check.array(value, (1, MAX_ROLES), "pipeline", key))
        )
        if gives not in roles[-1].keep.values():
            self.check.fail(f"keeps no {gives} in its last role (expected what the pipeline gives)", "pipeline", key)
        return roles

    def always(self, gives: str, key: str) -> None:
        """Refuse what only some pictures would be given."""
        if gives in self.optional:
            self.check.fail(f"makes no {gives} where an optional picture is not given", "pipeline", key)

    def step(self, row: Any, at: Path) -> Step:
        """A step of `before`."""
        table = self.check.table(row, f.MAX_RANK, *at)
        below = self.below(table["below"], (*at, "below")) if "below" in table else None
        if "noise" in table:
            self.check.one_of(table["noise"], (LATENTS,), *at, "noise")
            if below is not None:
                self.check.fail(
                    "is there, and the noise is always drawn (expected it of a role or sample)", *at, "below"
                )
            return InitialNoise()
        if "sample" not in table:
            return self.role(row, at, ("bundle", "picture", "text"), below)
        moments, take, keep = self.check.record(row, ("sample", "take", "keep"), *at)
        if self.rates.get(moments if type(moments) is str else "") != "picture":
            self.check.fail(f"is {f.shown(moments)} (expected a value that is made once per picture)", *at, "sample")
        draw = self.check.one_of(take, ("draw", "mean"), *at, "take") == "draw"
        self.keep(keep, "picture", moments in self.optional or below is not None, *at, "keep")
        return Sample(moments, draw, self.flag(row, "scaled", at), keep, below)

    def below(self, value: Any, at: Path) -> Below:
        """Where a number is below a value, a step is done."""
        number, limit = self.check.array(value, (2, 2), *at)
        self.check.one_of(number, self.plain(windowed=False), *at, 0)
        return Below(number, self.number(limit, -f.FLOAT32_MAX, f.FLOAT32_MAX, *at, 1))

    def keep(self, value: Any, rate: str, optional: bool, *path: str | int | tuple[str]) -> None:
        others = *self.rates, *self.made_in_calls, *self.hidden
        name = self.name(value, (*self.numbers, *self.texts, *self.pictures, *others), *path)
        self.rates[name] = rate
        if rate == "call":
            self.made_in_calls[name] = rate
        if (count := len({*others, name, LATENTS, TIMESTEP})) > MAX_VALUES:
            self.check.fail(f"keeps {count} values (expected at most {MAX_VALUES})", "pipeline")
        if optional:
            self.optional.add(name)

    def role(
        self, row: Any, at: Path, rates: Sequence[str], below: Below | None = None, *, always: bool = False
    ) -> Role:
        """A run of a component, as often as one of `rates`; it says of which where there are several. `always`: it may
        not depend on a picture that is optional."""
        component, feed, keep = self.check.record(row, ("run", "feed", "keep"), *at)
        self.check.one_of(component, self.components, *at, "run")
        every = rates[0]
        if len(rates) > 1:
            every = self.check.one_of(self.check.record(row, ("every",), *at)[0], rates, *at, "every")
        feeds = {
            port: self.feed(source, (*at, "feed", (port,)))
            for port, source in self.check.table(feed, MAX_FEEDS, *at, "feed").items()
        }
        optional = False
        for port, source in feeds.items():
            self.check.text(port, *at, "feed")
            self.changes(source, every, (*at, "feed", (port,)))
            missing = source.kind == "value" and source.name in self.optional
            missing |= source.kind == "picture" and self.pictures[source.name].optional
            optional |= missing and source.absent is None
        optional |= below is not None
        if optional and always:
            self.check.fail("reads what is not made where an optional picture is not given", *at, "feed")
        for port, name in self.check.table(keep, MAX_FEEDS, *at, "keep").items():
            self.check.text(port, *at, "keep")
            self.keep(name, "picture" if every == "chunk" else every, optional, *at, "keep", (port,))
        return Role(component, every, feeds, keep, below)

    def changes(self, feed: Feed, every: str, at: Path) -> None:
        """Refuse a feed that changes more often than its role runs."""
        rate = feed_rate(feed, self.rates, self.numbers)
        if RATES.index(rate) > RATES.index("picture" if every == "chunk" else every):
            self.check.fail(f"changes once per {rate}, and the role runs once per {every}", *at)

    def feed(self, value: Any, at: Path) -> Feed:
        table = self.check.table(value, 2, *at)
        kinds = [kind for kind in ("value", "tokens", "picture", "numbers") if kind in table]
        if len(kinds) != 1:
            self.check.fail(
                f"is {f.shown(value)} of {', '.join(kinds) or 'no kind'} (expected value, tokens, picture or numbers)",
                *at,
            )
        kind, given, absent = kinds[0], table[kinds[0]], table.get("absent")
        if absent is not None and (absent != "zeros" or kind not in ("value", "tokens")):
            self.check.fail(f'is {f.shown(absent)} (expected "zeros", for a value or tokens)', *at, "absent")
        if kind == "numbers":
            rows = self.check.array(given, (1, MAX_NUMBERS), *at, kind)
            return Feed(kind, numbers=tuple(self.listed(row, (*at, kind, i)) for i, row in enumerate(rows)))
        known: Collection[str] = {"value": self.rates, "tokens": self.tokenizers, "picture": self.pictures}[kind]
        self.check.one_of(given, known, *at, kind)
        noise = (
            self.constant_or_number(table["noise"], *at, "noise") if kind == "picture" and "noise" in table else None
        )
        return Feed(kind, given, absent, noise)

    def listed(self, value: Any, at: Path) -> float | str | Mapping[str, float | str]:
        """One of a list of numbers."""
        if type(value) is not dict:
            return self.constant_or_number(value, *at)
        if value.keys() != self.texts.keys():
            self.check.fail(f"is {f.shown(value)} (expected a number for each text)", *at)
        return {text: self.constant_or_number(number, *at, (text,)) for text, number in value.items()}

    def loop(self, row: Any, at: Path) -> Loop:
        start, end, roles, prediction, passes, combine = self.check.record(
            row, ("from", "until", "roles", "prediction", "passes", "combine"), *at
        )
        start, end = self.constant_or_number(start, *at, "from"), self.constant_or_number(end, *at, "until")
        rows = self.check.array(roles, (1, MAX_ROLES), *at, "roles")
        runs = tuple(
            self.role(one, (*at, "roles", i), ("call",), always=i == len(rows) - 1) for i, one in enumerate(rows)
        )
        self.check.one_of(prediction, runs[-1].keep.values(), *at, "prediction")
        found = [
            self.one_pass(one, (*at, "passes", i))
            for i, one in enumerate(self.check.array(passes, (1, MAX_PASSES), *at, "passes"))
        ]
        reads_texts = any(
            feed_rate(feed, self.rates, self.numbers) == "text" for role in runs for feed in role.feed.values()
        )
        for i, one in enumerate(found):
            if reads_texts != (one.text is not None):
                self.check.fail(
                    f"has {'no' if reads_texts else 'a'} text, and its roles read {'one' if reads_texts else 'none'}",
                    *at,
                    "passes",
                    i,
                )
        rescale = row.get("rescale")
        if rescale is not None:
            self.check.one_of(rescale, self.plain(), *at, "rescale")
        sums = self.combine(combine, len(found), (*at, "combine"))
        if rescale is not None and not sums.add:
            self.check.fail("is there, and nothing is combined", *at, "rescale")
        guided = self.guided(row["guided"], len(found), (*at, "guided")) if row.get("guided") is not None else None
        return Loop(start, end, runs, prediction, tuple(found), sums, guided, rescale)

    def one_pass(self, row: Any, at: Path) -> Pass:
        table = self.check.table(row, f.MAX_RANK, *at)
        text = table.get("text")
        if text is not None:
            self.check.one_of(text, self.texts, *at, "text")
        zeros = self.check.array(table.get("zeros", []), (0, MAX_FEEDS), *at, "zeros")
        known = self.rates.keys() - {TIMESTEP}
        return Pass(text, tuple(self.check.one_of(name, known, *at, "zeros", i) for i, name in enumerate(zeros)))

    def combine(self, value: Any, passes: int, at: Path) -> Combine:
        first, add = self.check.record(value, ("first", "add"), *at)
        self.check.integer(first, 0, passes - 1, *at, "first")
        terms = []
        for i, row in enumerate(self.check.array(add, (0, MAX_PASSES), *at, "add")):
            number, plus, minus = self.check.array(row, (3, 3), *at, "add", i)
            self.check.one_of(number, self.numbers, *at, "add", i, 0)
            terms.append(
                (
                    number,
                    *(self.check.integer(one, 0, passes - 1, *at, "add", i, j) for j, one in ((1, plus), (2, minus))),
                )
            )
        return Combine(first, tuple(terms))

    def guided(self, value: Any, passes: int, at: Path) -> Guided:
        number, above, alone = self.check.record(value, ("number", "above", "alone"), *at)
        self.check.one_of(number, self.numbers, *at, "number")
        return Guided(
            number, self.number(above, -1e6, 1e6, *at, "above"), self.check.integer(alone, 0, passes - 1, *at, "alone")
        )
