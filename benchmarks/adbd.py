"""Phones over adb, against the real protocol: `make adb-check`, or `python -m benchmarks.adbd [--work DIR]`.

Debian 13's adbd runs on this machine as a phone's does: in a root of its own (made once by debootstrap), with a network
and mounts of its own (`unshare`), so that no other adb is met and nothing stays. The tests marked `adb` then push the
real od_player, and the bundle is drawn with the host's OpenCL. Needs root. Exit code 77: not run, for what it names is
not here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = {"adb": "adb", "debootstrap": "debootstrap", "unshare": "util-linux", "ip": "iproute2"}
SUITE, MIRROR = "trixie", "http://deb.debian.org/debian"
STORAGE = "300m"  # that the phone has
NOT_RUN = 77
SYSTEM = {"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "proc", "run", "sbin", "sys", "usr", "var", "data"}


def main(argv: list[str] | None = None) -> int:
    """Make the root if need be, and run the tests in namespaces of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "adbd", help="where the root is kept")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    root = args.work.resolve() / "root"
    if args.inside:
        return _inside(root)
    if why := _missing() or _unmade(root):
        print(f"adb-check: not run: {why}")
        return NOT_RUN
    again = [sys.executable, "-m", "benchmarks.adbd", "--work", str(args.work), "--inside"]
    return subprocess.run(["unshare", "--net", "--mount", *again], cwd=ROOT, check=False).returncode


def _missing() -> str:
    if os.geteuid() != 0:
        return "adbd runs as root. Fix: run it as root, such as in a container."
    if absent := sorted(package for tool, package in TOOLS.items() if not shutil.which(tool)):
        return f"tools are missing. Fix: apt-get install {' '.join(absent)}."
    probe = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    return f"{probe.stderr.strip()}. Fix: give the container the capability SYS_ADMIN." if probe.returncode else ""


def _unmade(root: Path) -> str:
    """Make the root; why it could not be made, if so."""
    if (root / "ready").exists():
        return ""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    command = ["debootstrap", "--variant=minbase", "--include=adbd", SUITE, str(root), MIRROR]
    print(f"adb-check: {' '.join(command)}", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"{(done.stderr or done.stdout).strip().splitlines()[-1]}. Fix: connect to a Debian mirror."
    (root / "ready").touch()
    return ""


def _inside(root: Path) -> int:
    """In the namespaces: what a phone has, and the tests."""

    def run(*command: str) -> None:
        subprocess.run(command, check=True)

    run("ip", "link", "set", "lo", "up")
    storage = root / "data" / "local" / "tmp"
    storage.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "proc", "proc", str(root / "proc"))
    run("mount", "--rbind", "/dev", str(root / "dev"))
    run("mount", "-t", "tmpfs", "-o", f"size={STORAGE}", "tmpfs", str(storage))
    # where the host's OpenCL is: a phone has a driver of its own
    for top in {Path(sys.prefix).resolve().parts[1], ROOT.parts[1], Path.home().parts[1]} - SYSTEM:
        (root / top).mkdir(exist_ok=True)
        run("mount", "--rbind", f"/{top}", str(root / top))
    environment = os.environ | {"ONDEVICE_ADBD": str(root)}
    tests = [sys.executable, "-m", "pytest", "-rs", "-m", "adb", "tests/measure/phones"]
    return subprocess.run(tests, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
