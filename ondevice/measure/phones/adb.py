"""One phone by `adb`: commands, files, and what went wrong in words."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ondevice.errors import DeviceError, NoDeviceError

ALIVE = 10.0  # seconds in which a phone answers that is there
SHORT = 60.0  # seconds that a question to a phone may take
INSTALL = "install Android's platform-tools (Debian: apt-get install adb), or put their folder into PATH"
CONNECT = "connect one, switch on USB debugging in its developer options, and look at `adb devices`"
_STATES = {
    "unauthorized": ("has not allowed this machine", "unlock it and tap Allow on the question about USB debugging"),
    "offline": ("does not answer (offline)", "plug it in again, or run `adb reconnect`"),
    "no permissions": ("may not be opened by this user", "add the udev rules of android-sdk-platform-tools-common"),
    "recovery": ("is in its recovery system", "start it"),
    "sideload": ("waits for a system image", "start it"),
    "bootloader": ("is in its boot loader", "start it"),
    "authorizing": ("is about to ask whether it allows this machine", "tap Allow, and run it again"),
    "connecting": ("is being connected", "run it again in a moment"),
}
_LOST = re.compile(
    r"device '?[^']*'? not found|device offline|no devices/emulators|error: closed|connection reset|protocol fault|"
    r"failed to read|broken pipe|device still connecting|transport",
    re.IGNORECASE,
)
_FULL = re.compile(r"no space left|not enough space|disk quota|ENOSPC", re.IGNORECASE)


class PhoneFull(DeviceError):
    """The phone's storage has no room for what is pushed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a command: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """One line of what it printed, for a message."""
        lines = [line.strip() for line in (self.err + "\n" + self.out).splitlines() if line.strip()]
        return lines[-1][:200] if lines else f"exit code {self.code}"


class Adb:
    """A phone that is connected and has allowed this machine."""

    def __init__(self, program: str, serial: str) -> None:
        self.program, self.serial = program, serial

    def shell(self, command: str, timeout: float | None = SHORT) -> Answer:
        """Run a command in the phone's shell; its own exit code and output.

        Raises:
            DeviceError: the connection is lost, or the phone does not answer within `timeout` seconds (None: it may
                take any time).
        """
        return self._run(["shell", command], timeout)

    def push(self, files: Sequence[Path], folder: str) -> None:
        """Copy files into a folder of the phone, under their own names.

        Raises:
            PhoneFull: there is no room for them.
            DeviceError: the connection is lost, or the phone refuses.
        """
        answer = self._run(["push", *map(str, files), folder], None)
        if answer.code:
            if _FULL.search(answer.out + answer.err):
                raise PhoneFull("no space is left on the phone.", where=self.where, fix="free space on the phone")
            self._refused(f"{folder} cannot be written: {answer.said}")

    @property
    def where(self) -> str:
        """The phone, in errors."""
        return f"adb:{self.serial}"

    def _refused(self, what: str) -> NoReturn:
        raise DeviceError(f"{what}.", where=self.where, fix="look at `adb shell`, or restart the phone")

    def _run(self, words: Sequence[str], timeout: float | None) -> Answer:
        command = [self.program, "-s", self.serial, *words]
        try:
            done = subprocess.run(command, capture_output=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            what = f"the phone has not answered for {timeout:g} s."
            raise DeviceError(what, where=self.where, fix="plug it in again, and look at `adb devices`") from None
        answer = Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
        # a push that was cut may say nothing of the connection, and a command has an exit code of its own
        if answer.code and (words[0] != "shell" or _LOST.search(answer.err)) and not self._connected():
            raise DeviceError(
                f"the connection to the phone was lost ({answer.said}).",
                where=self.where,
                fix="connect it and run this again: what was pushed so far is kept, and finished or removed then",
            )
        return answer

    def _connected(self) -> bool:
        try:
            command = [self.program, "-s", self.serial, "shell", "true"]
            return subprocess.run(command, capture_output=True, timeout=ALIVE, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False


def find_phones(spec: str) -> list[Adb]:
    """The phones that "adb", "adb:SERIAL" or "adb:all" names; "adb" is the only one that is connected.

    Raises:
        NoDeviceError: there is no adb, no such phone, none, or several where one is meant; or it does not allow this
            machine.
    """
    program = shutil.which("adb")
    if program is None:
        raise NoDeviceError("there is no `adb` in PATH.", where="--device", fix=INSTALL)
    wanted = spec.partition(":")[2]
    found = connected(program)
    if not found:
        raise NoDeviceError("no phone is connected.", where="--device", fix=CONNECT)
    if wanted == "all":
        ready = [serial for serial, state in found.items() if state == "device"]
        for serial in ready or found:
            _check_state(serial, found[serial])
        return [Adb(program, serial) for serial in ready]
    if wanted and wanted not in found:
        what = f"no phone {wanted} is connected (there are {', '.join(found)})."
        raise NoDeviceError(what, where="--device", fix="name one of these")
    if not wanted and len(found) > 1:
        what = f"several phones are connected ({', '.join(found)})."
        fix = "name one with --device adb:SERIAL, or all with adb:all"
        raise NoDeviceError(what, where="--device", fix=fix)
    serial = wanted or next(iter(found))
    _check_state(serial, found[serial])
    return [Adb(program, serial)]


def connected(program: str) -> dict[str, str]:
    """State of each phone that adb knows, by serial. Raises NoDeviceError where adb itself fails."""
    try:
        done = subprocess.run([program, "devices"], capture_output=True, timeout=SHORT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoDeviceError(f"{program} does not run ({error}).", where="--device", fix=INSTALL) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it says nothing"]
        fix = "run `adb kill-server`, and try again"
        raise NoDeviceError(f"`adb devices` failed: {said[0]}.", where="--device", fix=fix)
    rows = done.stdout.decode(errors="replace").splitlines()[1:]
    pairs = (row.split("\t", 1) for row in rows if "\t" in row)
    return {serial.strip(): state.strip() for serial, state in pairs}


def _check_state(serial: str, state: str) -> None:
    if state == "device":
        return
    known = next((words for name, words in _STATES.items() if state.startswith(name)), None)
    what, fix = known or (f"is in the state {state!r}", CONNECT)
    raise NoDeviceError(f"the phone {what}.", where=f"adb:{serial}", fix=fix)
