"""Whether a phone computes a bundle's launches as a device of this machine does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.bundle.reader import Bundle
from ondevice.errors import DeviceError
from ondevice.measure import Say
from ondevice.measure.doctor.examine import REFUSED, WRONG, Finding
from ondevice.measure.doctor.golden import Golden
from ondevice.measure.doctor.launches import Launch
from ondevice.measure.doctor.reference import reference_for
from ondevice.measure.doctor.runner import LaunchRunner, check_needs
from ondevice.measure.phones.adb import Adb
from ondevice.measure.phones.bench import Asked, OnPhone, object_of
from ondevice.measure.phones.folder import CACHE

GOLDEN = "golden.json"
FOUND = (0, 12, 13)  # exit codes of the player's doctor: all is well, a launch was refused, one is wrong


@dataclass(frozen=True, slots=True)
class Compared:
    """What was found of a device, and with what it was compared; facts of both."""

    findings: list[Finding]
    device: dict[str, Any]
    reference: dict[str, Any]
    called: str  # the reference


def golden_of(
    bundle: Bundle, found: list[Launch], reference: str | None, progress: Callable[[int, int], None]
) -> tuple[Golden, str]:
    """What a device of this machine gives for these launches, and what to call that device.
    Raises OnDeviceError where there is none that runs them."""
    needs = {need for launch in found for need in launch.plan.needs}
    device, called = reference_for(None, reference, needs)
    runner = LaunchRunner(bundle, device)
    check_needs(runner, found)
    return Golden(bundle, runner, found).make(progress), called


def examine_phone(
    adb: Adb,
    bundle: Bundle,
    asked: Asked,
    launches_of: Callable[[Bundle], list[Launch]],
    reference: str | None,
    progress: Callable[[int, int], None],
    say: Say,
) -> Compared:
    """Run the launches that `launches_of` finds in the plans of the phone's target on the phone, and compare them.
    Raises OnDeviceError where the phone, the player or the reference fails."""
    with OnPhone(adb, bundle, asked.player, asked.keep, say) as there, tempfile.TemporaryDirectory() as folder:
        words = ["--plans", asked.plans] if asked.plans else []
        plans = object_of(there.play("show", *words), adb.where).get("plans")
        ours = bundle.for_target(str(plans)) if bundle.manifest.targets and plans else bundle
        golden, called = golden_of(ours, launches_of(ours), reference, progress)
        file = Path(folder) / GOLDEN
        file.write_bytes(golden.dump())
        adb.push([file], f"{there.folder.path}/")
        say(f"{adb.where}: {there.phone.model} runs {len(golden.rows)} launches")
        printed = there.play("doctor", "--golden", GOLDEN, "--json", "--cache", CACHE, codes=FOUND)
        said = object_of(printed, adb.where)
    facts = {key: str(said.get(key, "")) for key in ("platform", "version", "driver")}
    name = str(said.get("device") or there.phone.model)
    return Compared(golden.findings(_rows(said, adb.where)), {"name": name} | facts, golden.facts, called)


def _rows(said: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The player's findings, checked."""
    rows = said.get("findings")
    good = type(rows) is list and all(
        type(row) is dict
        and type(row.get("launch")) is int
        and row.get("verdict") in (WRONG, REFUSED)
        and type(row.get("why")) is str
        for row in rows
    )
    if not good or rows is None:
        what = "od_player printed no findings."
        raise DeviceError(what, where=where, fix="build od_player of this version, and give it with --player")
    return rows
