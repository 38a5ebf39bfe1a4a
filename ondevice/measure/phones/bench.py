"""A bundle on a phone over adb: pushed, measured, and removed again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.bundle.format import MANIFEST, load_json
from ondevice.bundle.reader import Bundle
from ondevice.errors import BundleError, DeviceError, KernelBuildError, NoDeviceError, NumericError, OnDeviceError
from ondevice.measure import Say
from ondevice.measure.phones.adb import Adb
from ondevice.measure.phones.facts import phone_of, state_of
from ondevice.measure.phones.folder import BUNDLE, CACHE, PACKED, PLAYER, PhoneFolder, items_of
from ondevice.measure.phones.program import check_runs, player_for
from ondevice.measure.phones.result import Result, parse_result

ERRORS: dict[int, type[OnDeviceError]] = {
    9: BundleError,
    10: NoDeviceError,
    11: KernelBuildError,
    12: DeviceError,
    13: NumericError,
}
RESULT, LOG, PID = "result.json", "log", "pid"
KILLED = 128 + 9  # what the system does to a process that it has no memory for


@dataclass(frozen=True, slots=True)
class Asked:
    """How a bundle is measured: `warmups` pictures, then `repeats` that count, each of `steps` (0: the bundle's), with
    the plans of a target ("": the phone's own). `player`: the program to push; None: it is built. `keep`: leave the
    folder on the phone for the next time."""

    repeats: int
    warmups: int = 1
    steps: int = 0
    plans: str = ""
    player: Path | None = None
    keep: bool = False


class OnPhone:
    """The player and a bundle on one phone, for as long as a `with` lasts."""

    def __init__(self, adb: Adb, bundle: Bundle, player: Path | None, keep: bool, say: Say) -> None:
        self.adb, self._bundle, self._keep, self._say = adb, bundle, keep, say
        self.phone = phone_of(adb)
        self._player = player_for(self.phone, player, say)
        self._place = PACKED if bundle.path.is_file() else BUNDLE
        self.folder = PhoneFolder(adb, bundle.path.name)

    def __enter__(self) -> OnPhone:
        items = items_of(self._bundle, self._player)
        try:
            missing = self.folder.prepare(items)
            # the player and the manifest first, as they show at once what would fail after gigabytes
            first = [item for item in missing if item in (items[:2] if self._place == BUNDLE else items[:1])]
            self.folder.push(first, lambda _line: None)
            check_runs(self.adb, f"{self.folder.path}/{PLAYER}")
            if self._place == BUNDLE:
                self._check_version()
            self.folder.push([item for item in missing if item not in first], self._say)
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._clean()

    def play(self, verb: str, *words: str, codes: Collection[int] = (0,)) -> str:
        """What a verb of the player prints, run in the folder on the pushed bundle, where it ends with one of `codes`.

        Raises:
            OnDeviceError: of the class that the player's exit code says, in its words.
            DeviceError: the connection is lost.
        """
        line = " ".join(map(shlex.quote, [verb, self._place, *words]))
        answer = self.adb.shell(
            f"cd {self.folder.path} || exit 1; ./{PLAYER} {line} > {RESULT} 2> {LOG} & echo $! > {PID}; wait $!; "
            f"code=$?; rm -f {PID}; cat {RESULT}; tail -c 4000 {LOG} >&2; exit $code",
            timeout=None,
        )
        if answer.code not in codes:
            raise _failure(answer.code, answer.err, self.adb.where)
        return answer.out

    def _check_version(self) -> None:
        """Refuse a bundle that is newer than the player while only its manifest is there."""
        try:
            self.play("verify")
        except OnDeviceError as error:
            if error.what.startswith(MANIFEST):  # else a file is missing, as is to be expected
                raise

    def _clean(self) -> None:
        """Nothing stays behind, unless that was asked for; where the connection is lost, the next run sees to it."""
        with suppress(DeviceError):
            # after Ctrl-C the player still draws: a phone's shell does not end with its connection
            self.adb.shell(f"cd {self.folder.path} && test -f {PID} && kill $(cat {PID}) && rm -f {PID}")
            if not self._keep:
                self.folder.remove()


def bench(adb: Adb, bundle: Bundle, asked: Asked, say: Say) -> Result:
    """Measure a bundle on a phone.

    Raises:
        UsageError: the player is no program, or cannot be built.
        OnDeviceError: the phone, its driver or the player failed.
    """
    words = ["--repeat", str(asked.repeats), "--warmup", str(asked.warmups), "--json", "--cache", CACHE]
    words += ["--steps", str(asked.steps)] if asked.steps else []
    words += ["--plans", asked.plans] if asked.plans else []
    with OnPhone(adb, bundle, asked.player, asked.keep, say) as there:
        before = state_of(adb)
        say(f"{adb.where}: {there.phone.model} draws {asked.warmups + asked.repeats + 1} pictures")
        printed = there.play("bench", *words)
        after = state_of(adb)
        found = {"phone": there.phone.to_json(), "phone_before": before.to_json(), "phone_after": after.to_json()}
    data = json.dumps(object_of(printed, adb.where) | found).encode()
    return parse_result(data, f"{adb.where}: od_player bench")


def object_of(printed: str, where: str) -> dict[str, Any]:
    """The JSON object that a player printed. Raises DeviceError where it is none."""
    try:
        value = load_json(printed.encode(), where)
    except BundleError:
        value = None
    if type(value) is not dict:
        what = "od_player printed no result."
        raise DeviceError(what, where=where, fix="build od_player of this version, and give it with --player")
    return value


def _failure(code: int, said: str, where: str) -> OnDeviceError:
    """The player's own error as an exception; of a player that a phone killed, what killed it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.startswith("error: ")), "")
    if code in ERRORS and last:
        what, _, fix = last.removeprefix("error: ").partition(" Fix: ")
        return ERRORS[code](what, where=where, fix=fix.rstrip("."))
    if code == KILLED:
        fix = "close other apps, or convert with --weights int8, --tile-vae or a smaller --size"
        return DeviceError("the phone ended od_player: it has no memory left for it.", where=where, fix=fix)
    if code > 128:
        fix = "run `ondevice doctor BUNDLE --device adb`, which names the kernel that does it"
        return DeviceError(f"od_player was ended by signal {code - 128}.", where=where, fix=fix)
    said = last.removeprefix("error: ") or (lines[-1] if lines else "it printed nothing")
    return DeviceError(f"od_player ended with exit code {code}: {said}", where=where)
