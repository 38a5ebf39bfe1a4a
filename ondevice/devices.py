"""List the OpenCL devices: which one is used, and why others are not."""

from __future__ import annotations

import argparse
import json
import sys

from ondevice import cli
from ondevice.run.opencl import INSTALL, OpenCLDevice, discover

HELP = "list the devices that were found, and why something is not used"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the devices, best first; remarks go to stderr."""
    found, remarks = discover()
    usable = [device for device in found if device.refused is None]
    if args.json:
        rows = [{"index": d.index, "refused": d.refused} | OpenCLDevice(d).facts() for d in found]
        print(json.dumps({"devices": rows, "default": usable[0].index if usable else None, "remarks": remarks}, indent=1))
        return 0
    for number, device in enumerate(found):
        use = device.refused or ("used by default" if device is usable[0] else "usable")
        print(f"{number}  {device.index}  {device.kind:<4} {device.name}  [{device.platform}, {device.version}, driver {device.driver}]  {use}")
    for remark in remarks:
        print(f"not used: {remark}", file=sys.stderr)
    if not usable:
        print(f"no usable device; {INSTALL}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.main_for("devices"))
