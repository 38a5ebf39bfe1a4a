"""A picture as data: how a bundle's plans, tokenizers and tables are joined. The specification is docs/pipeline.md.

These are the checked values; `ondevice.bundle.pipeline_file` reads them. A player that can do what these words say
draws with every family of models, and knows none of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

LATENTS, TIMESTEP = "latents", "timestep"  # values that the loop makes
RESERVED = (LATENTS, TIMESTEP, "width", "height")
PREPARE = ("fit", "unit", "mask", "masked", "clip_vision", "edges")
RATES = ("bundle", "picture", "text", "call")
"""How often a value may change, from never to always."""

ROUNDS = ("down", "up")
"""What becomes of a part of a call that a strength leaves."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number that the user may give.

    Attributes:
        default: its value where none is given: a number, or the name of another number, `width` or `height`.
        low, high: what is allowed, both included.
        window: names of two numbers, parts of the schedule: in calls outside of them the number is 0.
        ramp: names of two numbers instead of all others: one value per frame, evenly from the first to the second.
    """

    default: float | str | None
    low: float
    high: float
    window: tuple[str, str] | None = None
    ramp: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """A picture that the user gives, how it is prepared (PREPARE), and whether it may be left out.
    `of`: it is made of these instead: a picture and its mask (`masked`), or one picture, prepared in another way."""

    prepare: str
    optional: bool
    of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mask:
    """Where this picture is given, latents are put back outside of it after each call; `strength` is then the default
    of the run's strength."""

    picture: str
    strength: float


@dataclass(frozen=True, slots=True)
class Outside:
    """Pixels outside of `mask` are those of `picture`."""

    picture: str
    mask: str


@dataclass(frozen=True, slots=True)
class Below:
    """A step of `before` is done where the number is below `limit`."""

    number: str
    limit: float


@dataclass(frozen=True, slots=True)
class Latents:
    """float32 [frames, channels, height / scale, width / scale].

    What a decoder is given is latents / scaling + shift. `begin` names the value that a run begins from where it was
    made (an encoded picture), `strength` the number that says how much of the schedule is then run, and `rounds`, one
    of ROUNDS, to how many calls that comes. `frames` names a number, or is None for pictures. `preview`: red, green and
    blue of a small picture of them, each a factor per channel and a constant; empty where they are not known.
    """

    channels: int
    scale: int
    scaling: float
    shift: float
    frames: str | None = None
    begin: str | None = None
    strength: str | None = None
    preview: tuple[tuple[float, ...], ...] = ()
    mask: Mask | None = None
    rounds: str = "down"


@dataclass(frozen=True, slots=True)
class Feed:
    """Where a port's numbers come from. `kind` is the first key of the JSON object, `name` its value.

    value: a kept value, or `latents` or `timestep`; `absent` "zeros": zeros where it was not made.
    tokens: int32 [1, length], the ids of the text that the role runs for, by the tokenizer `name`; `absent` "zeros": a
    text that was not given is not run, and what the role keeps of it are zeros; else it is the empty text.
    picture: the prepared picture `name`; `noise` (a number, or a number's name) times a normal draw is added.
    numbers: float32 [1, n]: each a constant, the name of a number, or one of these per text.
    """

    kind: str
    name: str = ""
    absent: str | None = None
    noise: float | str | None = None
    numbers: tuple[float | str | Mapping[str, float | str], ...] = ()


@dataclass(frozen=True, slots=True)
class Role:
    """A run of a component: its ports' feeds, and the values that its outputs become. `every` is one of RATES, or
    `chunk`: once per so many frames as a plan takes."""

    component: str
    every: str
    feed: Mapping[str, Feed]
    keep: Mapping[str, str]  # output port -> value
    below: Below | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Latents of an encoder's `moments` [n, 2c, h, w], a mean and the logarithm of a variance:
    a draw, or the mean alone.

    `scaled`: they become (x - shift) * scaling, what the loop works on.
    """

    moments: str
    draw: bool
    scaled: bool
    keep: str
    below: Below | None = None


@dataclass(frozen=True, slots=True)
class InitialNoise:
    """Here the noise that the loop begins with is drawn."""


Step = Role | Sample | InitialNoise


@dataclass(frozen=True, slots=True)
class Pass:
    """One run of the loop's roles in a call: for which text, and with which values exchanged for zeros."""

    text: str | None
    zeros: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Guided:
    """All passes run where the number is above `above`; else the pass `alone` is the only one."""

    number: str
    above: float
    alone: int


@dataclass(frozen=True, slots=True)
class Combine:
    """prediction = out[first] + sum of number * (out[plus] - out[minus]), in float32,
    in the order of `add` (number, plus, minus)."""

    first: int
    add: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """A stretch of the schedule, from one part of it to another (0 to 1, or numbers' names).

    `prediction` is the value that the sampler takes as the model's output. `rescale` names the number phi of guidance
    that is scaled back to the deviation of pass `combine.add[-1]`'s `plus` (docs/pipeline.md, "Rescaled guidance").
    """

    start: float | str
    end: float | str
    roles: tuple[Role, ...]
    prediction: str
    passes: tuple[Pass, ...]
    combine: Combine
    guided: Guided | None = None
    rescale: str | None = None


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """All of it. `texts` says of each whether it may be left out."""

    needs: tuple[str, ...]
    gives: str
    numbers: Mapping[str, Number]
    texts: Mapping[str, bool]
    pictures: Mapping[str, Given]
    latents: Latents
    sampler: str
    steps: int
    before: tuple[Step, ...]
    denoise: tuple[Loop, ...]
    after: tuple[Role, ...]
    rates: Mapping[str, str]  # of every value: how often it changes
    outside: Outside | None = None
    fast: tuple[Role, ...] = ()  # what may run in the place of `after`: sooner done, and not as exact

    def roles(self) -> Iterator[Role]:
        """Every run, in order."""
        yield from (step for step in self.before if isinstance(step, Role))
        for loop in self.denoise:
            yield from loop.roles
        yield from self.after
        yield from self.fast

    @property
    def decoder(self) -> Role:
        """The run that makes what the pipeline gives; its component may be there in bands."""
        return self.after[-1]

    def loop_roles(self) -> Iterator[Role]:
        """The runs of each call."""
        for loop in self.denoise:
            yield from loop.roles

    def begins_from_picture(self, component: str) -> bool:
        """Whether a component runs only where an optional picture is given."""
        feeds = [feed for role in self.roles() if role.component == component for feed in role.feed.values()]
        return any(feed.kind == "picture" and self.pictures[feed.name].optional for feed in feeds)

    def runs_with(self, component: str, given: Collection[str]) -> bool:
        """Whether a component runs where these pictures are given, and of those that are optional no others."""
        there = {name for name, picture in self.pictures.items() if not picture.optional or name in given}
        there |= {name for name, picture in self.pictures.items() if picture.of and {*picture.of} <= there}
        runs = (role for role in self.roles() if role.component == component)
        return any(all(feed.name in there for feed in run.feed.values() if feed.kind == "picture") for run in runs)


def feed_rate(feed: Feed, rates: Mapping[str, str], numbers: Mapping[str, Number]) -> str:
    """How often what a feed gives changes: one of RATES; `rates` of values."""
    if feed.kind == "value":
        return rates[feed.name]
    if feed.kind == "tokens":
        return "text"
    if feed.kind == "picture":
        return "picture"
    used = [name for number in feed.numbers for name in (number.values() if isinstance(number, Mapping) else [number])]
    if any(isinstance(name, str) and name in numbers and numbers[name].window for name in used):
        return "call"
    if any(isinstance(number, Mapping) for number in feed.numbers):
        return "text"
    return "picture" if any(isinstance(name, str) for name in used) else "bundle"
