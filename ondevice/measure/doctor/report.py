"""What was found of a device: in words, as JSON, and as a list of programs to avoid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ondevice.errors import DeviceError, NumericError, OnDeviceError
from ondevice.measure.doctor.examine import REFUSED, RIGHT, UNKNOWN, WRONG, Finding
from ondevice.target.avoid import AvoidedProgram

FACTS = ("name", "platform", "version", "driver")
LISTED = 8  # findings that are printed


def to_text(findings: Sequence[Finding], device: str, reference: str) -> str:
    """A line for each finding that is not right, the first LISTED of them, and one for all."""
    counts = Counter(one.verdict for one in findings)
    odd = [one for one in findings if one.verdict != RIGHT]
    lines = [f"{one.verdict}: {one.launch.where}: {one.why}" for one in odd[:LISTED]]
    lines += [f"... {len(odd) - LISTED} more"] * (len(odd) > LISTED)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (WRONG, REFUSED, UNKNOWN) if counts[verdict])
    alike = sum(one.launch.alike for one in findings)
    lines.append(
        f"{device}: {counts[RIGHT]} of {len(findings)} distinct launches ({alike} dispatches) are as on {reference}"
        f"{f'; {said}' if said else ''}"
    )
    return "\n".join(lines)


def to_json(
    findings: Sequence[Finding], device: Mapping[str, Any], reference: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """All findings as rows; `device` and `reference` are facts of both."""
    return {
        "model": source,
        "device": {key: device[key] for key in FACTS if key in device},
        "reference": {key: reference[key] for key in FACTS if key in reference},
        "findings": [_row(one) for one in findings],
    }


def _row(finding: Finding) -> dict[str, Any]:
    launch = finding.launch
    row: dict[str, Any] = {
        "verdict": finding.verdict,
        "plan": launch.file,
        "dispatch": launch.number,
        "alike": launch.alike,
        "node": launch.dispatch.node,
        "op": launch.dispatch.op,
        "kernel": launch.kernel.file,
        "defines": dict(launch.kernel.defines),
    }
    if finding.wrong:
        row["wrong"] = {key: _number(value) for key, value in asdict(finding.wrong).items()}
    return row | ({"why": finding.why} if finding.why else {})


def _number(value: Any) -> Any:
    """JSON has neither NaN nor infinity: those are texts."""
    return str(value) if isinstance(value, float) and value - value != 0 else value


def to_avoid(findings: Sequence[Finding], digests: Mapping[str, str]) -> list[AvoidedProgram]:
    """The programs that were wrong or refused, each once with its first reason.

    Args:
        digests: sha256 of each kernel's text, by its name.
    """
    found: dict[Any, AvoidedProgram] = {}
    for one in findings:
        if one.verdict in (WRONG, REFUSED):
            kernel = one.launch.kernel
            entry = AvoidedProgram(kernel.file, digests[kernel.file], kernel.defines, one.why)
            found.setdefault(kernel, entry)
    return list(found.values())


def failure(findings: Sequence[Finding], device: str, out: str) -> OnDeviceError | None:
    """What to raise: for the first launch that is wrong, else for the first that was refused; None where all is well.

    Args:
        out: the file that the list of programs went to; "": none was asked for.
    """
    bad = [one for one in findings if one.verdict in (WRONG, REFUSED)]
    if not bad:
        return None
    first = next((one for one in bad if one.verdict == WRONG), bad[0])
    what = f"{len(bad)} of {len(findings)} launches are not as they should be; the first: {first.why}."
    fix = f"convert again with `--avoid {out}`" if out else "name a file with --out, and `convert --avoid` it"
    error = NumericError if first.verdict == WRONG else DeviceError
    return error(what, where=f"{device}: {first.launch.where}", fix=fix)
