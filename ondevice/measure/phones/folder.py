"""A folder on a phone with a bundle and the player: only what changed is pushed, and what is half pushed is never used.

FOLDER/od_player        the player
FOLDER/bundle/...       the bundle's files, once they are whole; of one in one file FOLDER/bundle.packed
FOLDER/files            a line per file of both that is whole: sha256, bytes, path
FOLDER/incoming/...     what is being pushed
FOLDER/cache/           kernels that the phone's driver compiled
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ondevice.bundle.format import MANIFEST
from ondevice.bundle.reader import Bundle
from ondevice.errors import DeviceError
from ondevice.measure import Say
from ondevice.measure.phones.adb import Adb, PhoneFull

ROOT = "/data/local/tmp"  # where a phone's shell may write and run programs
PLAYER, BUNDLE, PACKED, LIST, INCOMING, CACHE = "od_player", "bundle", "bundle.packed", "files", "incoming", "cache"
BATCH_BYTES, BATCH_FILES = 64 << 20, 64
SLACK = 64 << 20  # bytes that a phone must have free beside what is pushed: pictures, compiled kernels
_LINE = re.compile(r"([0-9a-f]{64}) (\d{1,13}) ([A-Za-z0-9_./+-]{1,400})")


@dataclass(frozen=True, slots=True)
class Item:
    """A file to be on the phone: its path in the folder, where it is here, and what it holds."""

    path: str
    source: Path
    size: int
    sha256: str

    @property
    def parent(self) -> str:
        return posixpath.dirname(self.path)

    @property
    def line(self) -> str:
        return f"{self.sha256} {self.size} {self.path}"


def items_of(bundle: Bundle, player: Path) -> list[Item]:
    """The player, then the bundle's manifest, then its other files, small ones first: what is wrong with a bundle shows
    before gigabytes are pushed. Of a bundle in one file, that file."""
    if bundle.path.is_file():
        return [_item(PLAYER, player), _item(PACKED, bundle.path)]
    listed = [
        Item(f"{BUNDLE}/{name}", bundle.path / name, entry.bytes, entry.sha256)
        for name, entry in bundle.manifest.files.items()
    ]
    own = [_item(PLAYER, player), _item(f"{BUNDLE}/{MANIFEST}", bundle.path / MANIFEST)]
    return own + sorted(listed, key=lambda item: (item.size > 1 << 20, item.parent, item.path))


def _item(path: str, source: Path) -> Item:
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Item(path, source, source.stat().st_size, digest)


class PhoneFolder:
    """`name` is the bundle's: two bundles of one name share a folder, and the later one takes its place."""

    def __init__(self, adb: Adb, name: str) -> None:
        self.adb = adb
        self.path = f"{ROOT}/ondevice.{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:64]}"

    def prepare(self, items: list[Item]) -> list[Item]:
        """Make the folder, remove what is none of these files or half pushed, and return those that are missing.

        Raises:
            PhoneFull: there is no room for them; the folder is removed.
            DeviceError: the connection is lost, or the phone refuses.
        """
        self._make()
        whole = self.whole()
        missing = [item for item in items if whole.get(item.path) != (item.sha256, item.size)]
        self._drop(sorted(whole.keys() - {item.path for item in items if item not in missing}))
        with self._removed_where_full():
            self._check_room(sum(item.size for item in missing))
        return missing

    def push(self, items: list[Item], say: Say) -> None:
        """Push files that `prepare` has found missing.

        Raises:
            PhoneFull: there is no room for them; the folder is removed.
            DeviceError: the connection is lost, or the phone refuses.
        """
        total, done = sum(item.size for item in items), 0
        for batch in _batches(items):
            with self._removed_where_full():
                self._push(batch)
            done += sum(item.size for item in batch)
            say(f"{self.adb.where}: pushed {done / 1e6:,.1f} of {total / 1e6:,.1f} MB")

    @contextmanager
    def _removed_where_full(self) -> Iterator[None]:
        try:
            yield
        except PhoneFull:
            self.remove()
            raise

    def whole(self) -> dict[str, tuple[str, int]]:
        """(sha256, bytes) of each file that is whole, by path: what the list says and the phone's own sizes confirm."""
        answer = self.adb.shell(
            f"cd {self.path} && cat {LIST} && echo == && find . -type f -exec stat -c '%s %n' {{}} +"
        )
        said, _, sizes = answer.out.replace("\r", "").partition("==\n")
        there = {
            name.removeprefix("./"): size for size, _, name in (line.partition(" ") for line in sizes.splitlines())
        }
        found = {match[3]: (match[1], int(match[2])) for match in map(_LINE.fullmatch, said.splitlines()) if match}
        return {path: entry for path, entry in found.items() if there.get(path) == str(entry[1])}

    def remove(self) -> None:
        """Remove the folder and all that is in it. Raises DeviceError where the connection is lost."""
        self.adb.shell(f"rm -rf {self.path}")

    def _make(self) -> None:
        answer = self.adb.shell(f"mkdir -p {self.path} && cd {self.path} && rm -rf {INCOMING} && touch {LIST}")
        if answer.code:
            what = f"{self.path} cannot be made: {answer.said}."
            raise DeviceError(what, where=self.adb.where, fix="free space on the phone, or restart it")

    def _drop(self, paths: Iterable[str]) -> None:
        """Remove files, from the list first, so that it never names what is not there."""
        for some in _chunks(list(paths)):
            patterns = " ".join(f"-e {shlex.quote(f' {path}')}" for path in some)
            names = " ".join(map(shlex.quote, some))
            self._do(f"grep -v -F {patterns} {LIST} > {LIST}.new; mv {LIST}.new {LIST} && rm -f {names}")

    def _check_room(self, needed: int) -> None:
        rows = self.adb.shell(f"df -k {self.path}").out.splitlines()
        words = rows[-1].split() if len(rows) > 1 else []
        free = next((int(words[i - 1]) << 10 for i, word in enumerate(words) if word.endswith("%") and i), None)
        if free is not None and needed and free < needed + SLACK:
            what = f"the phone has {free / 1e6:,.1f} MB free, and {(needed + SLACK) / 1e6:,.1f} MB are needed."
            raise PhoneFull(what, where=self.adb.where, fix="free space on the phone, or convert with --weights int8")

    def _push(self, batch: list[Item]) -> None:
        parent, incoming = batch[0].parent or ".", posixpath.join(INCOMING, batch[0].parent)
        self._do(f"mkdir -p {shlex.quote(parent)} {shlex.quote(incoming)}")
        self.adb.push([item.source for item in batch], f"{self.path}/{incoming}/")
        moves = []
        for item in batch:
            there = posixpath.join(incoming, item.source.name)
            # a name that a phone's shell reads as it is: the reader allows letters, digits and ._+- only
            moves.append(
                f'test "$(stat -c %s {shlex.quote(there)})" = {item.size} && mv -f {shlex.quote(there)} '
                f"{shlex.quote(item.path)} && echo {shlex.quote(item.line)} >> {LIST}"
            )
        if batch[0].path == PLAYER:
            moves.append(f"chmod 755 {PLAYER}")
        self._do(" && ".join(moves))

    def _do(self, command: str) -> None:
        answer = self.adb.shell(f"cd {self.path} && {command}")
        if answer.code:
            if "space" in answer.err.lower() + answer.out.lower():
                raise PhoneFull("no space is left on the phone.", where=self.adb.where, fix="free space on the phone")
            what = f"what was pushed to {self.path} is not whole: {answer.said}."
            raise DeviceError(what, where=self.adb.where, fix="run this again: it is pushed anew")


def _batches(items: list[Item]) -> Iterator[list[Item]]:
    """Files of one folder that are pushed together."""
    batch: list[Item] = []
    for item in items:
        full = len(batch) == BATCH_FILES or sum(one.size for one in batch) + item.size > BATCH_BYTES
        if batch and (full or item.parent != batch[0].parent or batch[0].path == PLAYER):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _chunks(paths: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(paths), BATCH_FILES):
        yield paths[start : start + BATCH_FILES]
