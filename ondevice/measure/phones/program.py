"""The player that is pushed to a phone: a file that is given, or built with Android's NDK from android_demo/player."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from ondevice.base.paths import cache_dir
from ondevice.errors import DeviceError, UsageError
from ondevice.measure import Say
from ondevice.measure.phones.adb import Adb
from ondevice.measure.phones.facts import Phone

SOURCE = Path(__file__).resolve().parents[3] / "android_demo" / "player"
VARIABLES = ("ANDROID_NDK", "ANDROID_NDK_HOME", "ANDROID_NDK_ROOT")
TOOLCHAIN = Path("build") / "cmake" / "android.toolchain.cmake"
API = 24  # of Android: the least that the player is built for
GIVE = "give an od_player that was built for the phone with --player (android_demo/README.md says how)"
_ABIS = {183: "arm64-v8a", 40: "armeabi-v7a", 62: "x86_64", 3: "x86", 243: "riscv64"}  # e_machine of ELF


def player_for(phone: Phone, given: Path | None, say: Say) -> Path:
    """The player to push: `given`, or one that is built now for the phone's ABI.

    Raises:
        UsageError: `given` is no program, or there is neither one nor an NDK.
        DeviceError: it is for another ABI than the phone's.
    """
    path = given if given is not None else _built(phone, say)
    abi = abi_of(path)
    if abi not in phone.abis:
        what = f"it is a program for {abi}, and {phone.model} runs {', '.join(phone.abis)}."
        raise DeviceError(what, where=str(path), fix=f"build od_player for {phone.abis[0]}, and give it with --player")
    return path


def abi_of(path: Path) -> str:
    """The ABI that an ELF program is for, in Android's words. Raises UsageError where it is none."""
    try:
        with open(path, "rb") as file:
            head = file.read(20)
    except OSError as error:
        raise UsageError(f"it cannot be read ({error.strerror}).", where=str(path), fix=GIVE) from None
    if len(head) < 20 or head[:4] != b"\x7fELF" or head[5] != 1:
        raise UsageError("it is no program for a phone (not ELF, little-endian).", where=str(path), fix=GIVE)
    machine = int.from_bytes(head[18:20], "little")
    return _ABIS.get(machine, f"machine {machine}")


def _built(phone: Phone, say: Say) -> Path:
    ndk = next((Path(os.environ[name]) for name in VARIABLES if os.environ.get(name)), None)
    if ndk is None:
        raise UsageError("there is no player for the phone.", where="--player", fix=f"{GIVE}, or set ANDROID_NDK")
    if not (ndk / TOOLCHAIN).is_file():
        raise UsageError(f"it is no NDK (no {TOOLCHAIN} in it).", where=str(ndk), fix="set ANDROID_NDK to one's folder")
    cmake = shutil.which("cmake")
    if cmake is None or not (SOURCE / "CMakeLists.txt").is_file():
        lacks = "CMake" if cmake is None else "its sources, which are in the repository and not in the package"
        raise UsageError(f"the player cannot be built without {lacks}.", where="--player", fix=GIVE)
    cache = cache_dir()
    if cache is None:
        raise UsageError("there is no folder to build the player in.", where="--player", fix="set ONDEVICE_CACHE")
    folder, abi = cache / f"od_player-{phone.abis[0]}", phone.abis[0]
    say(f"building od_player for {abi} in {folder}")
    settings = [
        f"-DCMAKE_TOOLCHAIN_FILE={ndk / TOOLCHAIN}",
        f"-DANDROID_ABI={abi}",
        f"-DANDROID_PLATFORM=android-{API}",
    ]
    for command in (
        [cmake, "-S", str(SOURCE), "-B", str(folder), *settings],
        [cmake, "--build", str(folder), "--target", "od_player", "--parallel"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in (done.stderr + done.stdout).splitlines() if "rror" in line] or ["it says nothing"]
            raise UsageError(f"the player could not be built: {lines[0].strip()}.", where=str(folder), fix=GIVE)
    return folder / "od_player"


def check_runs(adb: Adb, program: str) -> str:
    """What `od_player --version` says on the phone. Raises DeviceError where it does not run."""
    answer = adb.shell(f"{program} --version")
    if answer.code:
        fix = "build it for this phone (android_demo/README.md says how), and give it with --player"
        raise DeviceError(f"od_player does not run on the phone: {answer.said}.", where=adb.where, fix=fix)
    return answer.out.strip()
