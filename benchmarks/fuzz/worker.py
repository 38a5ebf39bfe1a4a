"""One process that feeds readers, in turns, until its time is over.
Whoever started it sees in files what it does, also after it died."""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import time
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from benchmarks.fuzz import coverage
from benchmarks.fuzz.minimise import smaller

if TYPE_CHECKING:
    from benchmarks.fuzz.engine import Campaign
    from benchmarks.fuzz.oracle import Judge, Verdict
    from benchmarks.fuzz.reader import Reader

SLICE = 0.3  # seconds of one reader's turn
HEAD = struct.Struct("<Q64sI")  # inputs given, name of the reader, bytes of the input
WINDOW = 1 << 18


class Window:
    """A file that holds the input being read."""

    def __init__(self, path: Path, *, make: bool = False) -> None:
        if make:
            path.write_bytes(bytes(WINDOW))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), WINDOW)
        self._given = 0

    def show(self, reader: str, data: bytes) -> None:
        """Before an input is run."""
        self._given += 1
        self._map[HEAD.size : HEAD.size + len(data)] = data
        HEAD.pack_into(self._map, 0, self._given, reader.encode(), len(data))

    def seen(self) -> tuple[int, str, bytes]:
        """(inputs given, name of the reader, the input)."""
        given, reader, size = HEAD.unpack_from(self._map, 0)
        return given, reader.rstrip(b"\0").decode(), bytes(self._map[HEAD.size : HEAD.size + size])


def main(folder: Path, number: int, order: dict[str, Any]) -> None:
    """Run the readers that `order` names, and keep `stats-N.json` up to date in the folder."""
    coverage.install()
    from benchmarks.fuzz.oracle import Judge, bound_memory, quiet
    from benchmarks.fuzz.readers import all_readers

    os.nice(order["nice"])
    readers = [reader for name, reader in all_readers(*order["modules"]).items() if name in order["readers"]]
    window = Window(folder / f"window-{number}", make=True)
    with Judge(folder / f"scratch-{number}") as judge:
        turns = Turns(folder, number, order, window, judge, readers)
        quiet()
        bound_memory()
        turns.run()


class Turns:
    """The readers' campaigns, one after the other, again and again."""

    def __init__(
        self, folder: Path, number: int, order: dict[str, Any], window: Window, judge: Judge, readers: list[Reader]
    ) -> None:
        from benchmarks.fuzz.engine import Campaign  # what it imports must be counted, so only now

        self.folder, self.number, self.order, self.window = folder, number, order, window
        self.campaigns = [
            Campaign(reader, judge, Random(f"{order['seed']} {reader.name}"), guided=order["guided"])
            for reader in readers
        ]
        self.spent = dict.fromkeys((reader.name for reader in readers), 0.0)  # seconds of CPU
        self.saved: set[tuple[str, str, str]] = set()

    def run(self) -> None:
        """Until the time is over or each campaign has had its inputs."""
        end = time.monotonic() + self.order["seconds"] if self.order["seconds"] else float("inf")
        for campaign in self.campaigns:
            campaign.begin()
        self.campaigns[0].judge.forget_peak()
        while time.monotonic() < end:
            left = [campaign for campaign in self.campaigns if not self._is_over(campaign)]
            for campaign in left:
                self._turn(campaign, min(time.monotonic() + SLICE, end))
            self.write()
            if not left:
                break

    def _is_over(self, campaign: Campaign) -> bool:
        return 0 < self.order["inputs"] <= campaign.counts.inputs

    def _turn(self, campaign: Campaign, until: float) -> None:
        name, begun = campaign.reader.name, time.process_time()
        while time.monotonic() < until and not self._is_over(campaign):
            data = campaign.next()
            self.window.show(name, data)
            verdict = campaign.give(data)
            if verdict.kind and (name, *verdict.signature) not in self.saved:
                self.saved.add((name, *verdict.signature))
                self.save(campaign, data, verdict)
        self.spent[name] += time.process_time() - begun

    def save(self, campaign: Campaign, data: bytes, verdict: Verdict) -> None:
        """Make the input small and write it with what it shows."""
        reader = campaign.reader

        def same(other: bytes) -> bool:
            self.window.show(reader.name, other)
            return campaign.judge.judge(reader, other).signature == verdict.signature

        path = self.folder / f"{os.getpid()}-{len(self.saved)}.input"
        path.write_bytes(smaller(data, same))
        finding = {"reader": reader.name, "kind": verdict.kind, "place": verdict.place, "what": verdict.what}
        path.with_suffix(".finding").write_text(json.dumps(finding))

    def write(self) -> None:
        """The counts so far, whole or not at all."""
        rows = {
            campaign.reader.name: {
                **asdict(campaign.counts),
                "kept": len(campaign.corpus),
                "taken": hex(campaign.seen),
                "cpu": self.spent[campaign.reader.name],
            }
            for campaign in self.campaigns
        }
        path = self.folder / f"stats-{self.number}.json"
        path.with_suffix(".part").write_text(json.dumps(rows))
        path.with_suffix(".part").replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
