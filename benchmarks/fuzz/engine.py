"""One reader's campaign: inputs made of earlier ones, those that reach a new branch kept to make others from."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from benchmarks.fuzz.coverage import MAP
from benchmarks.fuzz.mutate.data import havoc
from benchmarks.fuzz.oracle import ACCEPTED, FINDING, Judge, Verdict
from benchmarks.fuzz.reader import Reader, Words

RAW = 0.1  # of the inputs are changed as bytes, whatever their format
RECENT = 16
KEPT = 4096  # inputs to choose from


@dataclass(slots=True)
class Counts:
    """What came of the inputs so far."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    findings: int = 0


@dataclass(slots=True)
class Campaign:
    """`next` makes an input, `give` runs it.
    With one seed the same inputs come in the same order, however the time is cut into slices."""

    reader: Reader
    judge: Judge
    rng: Random
    guided: bool = True
    counts: Counts = field(default_factory=Counts)
    corpus: list[bytes] = field(default_factory=list)
    taken: list[bytes] = field(default_factory=list)  # those of the corpus that were accepted
    seen: int = 0  # coverage
    found: dict[tuple[str, str], tuple[bytes, Verdict]] = field(default_factory=dict)
    words: Words = field(default_factory=Words)
    _seeding: bool = False
    _seeds: list[bytes] = field(default_factory=list)

    def begin(self) -> None:
        """Make the seeds; they are given first. What their making takes of the code is not counted."""
        self._seeds = self.reader.seeds()[::-1]
        if not self._seeds:
            raise ValueError(f"the reader {self.reader.name} has no seeds")

    def next(self) -> bytes:
        """The next input."""
        self._seeding = bool(self._seeds)
        if self._seeds:
            return self._seeds.pop()
        rng = self.rng
        kind = rng.random()  # what was refused early hides the checks behind, so that what was taken comes first
        data = rng.choice(
            self.taken if kind < 0.4 and self.taken else self.corpus[-RECENT:] if kind < 0.8 else self.corpus
        )
        for _ in range(1 + int(rng.expovariate(1.0))):
            other = rng.choice(self.corpus)
            change = havoc if rng.random() < RAW else self.reader.mutate
            try:
                data = change(data, rng, other, self.words)
            except RecursionError:  # nested too deeply for changes by format, which is for the reader to refuse
                data = havoc(data, rng, other, self.words)
        return data[: self.reader.limit]

    def give(self, data: bytes) -> Verdict:
        """Run it, keep it if it went where none went before."""
        MAP.clear()
        verdict = self.judge.judge(self.reader, data)
        taken = MAP.snapshot()
        self.counts.inputs += 1
        new = taken | self.seen != self.seen
        if verdict.outcome == FINDING:
            self.counts.findings += 1
            self.found.setdefault(verdict.signature, (data, verdict))
        elif verdict.outcome == ACCEPTED:
            self.counts.accepted += 1
        else:
            self.counts.refused += 1
        if new or self._seeding:
            self.seen |= taken
            if (self.guided or self._seeding) and len(self.corpus) < KEPT:
                self.corpus.append(data)
                if verdict.outcome == ACCEPTED:
                    self.taken.append(data)
        if self._seeds == [] and self.words == Words():
            self.words = _words(self.seen)
        return verdict

    @property
    def edges(self) -> int:
        """Branches that the inputs have taken."""
        return MAP.branches(self.seen)


def _words(seen: int) -> Words:
    found = MAP.words(seen)
    return Words(
        tuple(word for word in found if isinstance(word, str)) or ("",),
        tuple(word for word in found if isinstance(word, bytes)) or (b"",),
        tuple(word for word in found if isinstance(word, int)) or (0,),
    )
