"""List the OpenCL devices: which one is used by default, why others are not, and what plans may need of them; and the
target that plans for this machine's CPU are made for.

python -m ondevice.devices --json
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from ondevice import cli
from ondevice.errors import NoDeviceError
from ondevice.run.discovery import Found, discover, find_device
from ondevice.run.matrix_spelling import usable
from ondevice.target import host_choice

HELP = "list the devices that were found, and why something is not used"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the devices, best first; remarks go to stderr. Exit code 10 where none can be used."""
    found, remarks = discover()
    target, why = host_choice()
    missing: NoDeviceError | None = None
    try:
        default = find_device().index
    except NoDeviceError as error:
        default, missing = None, error
    if args.json:
        rows = [{"index": d.index, "refused": d.refused} | d.facts() for d in found]
        auto = {"target": target, "why": why}
        print(json.dumps({"devices": rows, "default": default, "remarks": remarks, "auto": auto}, indent=1))
    else:
        by = "used because of ONDEVICE_DEVICE" if os.environ.get("ONDEVICE_DEVICE") else "used by default"
        for number, device in enumerate(found):
            use = by if device.index == default else f"not used: {device.refused}" if device.refused else "usable"
            about = f"{device.name}  [{device.platform}, {device.version}, driver {device.driver}]"
            has = ", ".join(device.facts()["caps"]) or "nothing beyond OpenCL 1.2"
            unit = "" if device.refused or device.kind != "cpu" else f"; {_unit(device)}"
            print(f"{number}  {device.index}  {device.kind:<4} {about}  {use}; it has {has}{unit}")
        if found:
            print(f"--target auto is {target}: {why}")
        for remark in remarks:
            print(f"not used: {remark}", file=sys.stderr)
    if missing:
        raise missing
    return 0


def _unit(device: Found) -> str:
    """How products in bfloat16 are computed on a CPU."""
    unit = usable(device)
    return f"products in bf16 by {unit.name}" if unit.name else f"products in bf16 in plain C: {unit.why}"


if __name__ == "__main__":
    raise SystemExit(cli.main_for("devices"))
