"""od_player for aarch64, run under qemu: `make aarch64-check`, or `python -m benchmarks.aarch64 [--work DIR]`.

Builds od_player with a cross compiler, unpacks PoCL for arm64 into a folder (nothing is installed), draws a picture of
the demo model by both and compares it with the host's. Compiling 60 kernels under qemu takes a quarter of an hour.
Exit code 0: the same picture; 1: another; 77: not run, for what it names is not here.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ondevice import cli

ROOT = Path(__file__).parents[1]
PLAYER = ROOT / "android_demo" / "player"
TOOLS = {
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "qemu-aarch64-static": "qemu-user-static",
    "apt-get": "apt",
    "dpkg": "dpkg",
}
PACKAGES = ("pocl-opencl-icd", "ocl-icd-libopencl1")
PROMPT, STEPS = "a green star on a yellow background", 4
NOT_RUN = 77
ALIKE = 40.0  # dB; PoCL's and the host's kernels round sums in another order


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run, or stop with what it said."""
    done = subprocess.run([*map(str, command)], text=True, capture_output=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


def unpacked(work: Path) -> Path:
    """A root of arm64 libraries with PoCL: apt's state is a folder of its own, so that the machine's stays as it is."""
    root, state, cache = work / "root", work / "apt" / "state", work / "apt" / "cache"
    if (root / "ready").exists():
        return root
    for folder in (state / "lists" / "partial", cache / "archives" / "partial", root):
        folder.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    own = {"APT::Architecture": "arm64", "APT::Architectures": "arm64"}
    own |= {"Dir::State": state, "Dir::State::status": state / "status", "Dir::Cache": cache}
    apt = ["apt-get", "-qq", *(word for key, value in own.items() for word in ("-o", f"{key}={value}"))]
    run(*apt, "update")
    run(*apt, "install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES)
    for package in (cache / "archives").glob("*.deb"):
        run("dpkg", "-x", package, root)
    (root / "ready").touch()
    return root


def emulated(work: Path, root: Path, build: Path) -> list[str]:
    """The command line before od_player's own words."""
    libraries, vendors, tools = root / "usr" / "lib" / "aarch64-linux-gnu", work / "vendors", work / "tools"
    for folder in (vendors, tools, work / "kernels"):
        folder.mkdir(exist_ok=True)
    (vendors / "pocl.icd").write_text(f"{next(libraries.glob('libpocl.so.2.*'))}\n")
    # PoCL calls a linker by this name; the machine's own knows nothing of aarch64.
    support = Path(run("aarch64-linux-gnu-g++", "-print-libgcc-file-name").stdout.strip()).parent
    linker = tools / "ld"
    linker.write_text(
        f'#!/bin/sh\nexec aarch64-linux-gnu-ld -L{support} -L/usr/aarch64-linux-gnu/lib "$@"\n', encoding="utf-8"
    )
    linker.chmod(0o755)
    variables = {
        "LD_LIBRARY_PATH": libraries,
        "ONDEVICE_OPENCL": libraries / "libOpenCL.so.1",
        "OCL_ICD_VENDORS": vendors,
        "POCL_CACHE_DIR": work / "kernels",
        "PATH": f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin",
    }
    settings = [word for key, value in variables.items() for word in ("-E", f"{key}={value}")]
    return ["qemu-aarch64-static", "-L", str(root), *settings, str(build / "od_player")]


def main(argv: list[str] | None = None) -> int:
    """Build, draw twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "aarch64", metavar="DIR", help="kept between runs"
    )
    work = parser.parse_args(argv).work.resolve()
    if missing := [package for tool, package in TOOLS.items() if shutil.which(tool) is None]:
        print(f"not run: install {' '.join(missing)}")
        return NOT_RUN
    work.mkdir(parents=True, exist_ok=True)
    build, bundle = work / "player", work / "demo.ondevice"
    toolchain = PLAYER / "toolchains" / "aarch64.cmake"
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    run(cmake, "-S", PLAYER, "-B", build, f"-DCMAKE_TOOLCHAIN_FILE={toolchain}")
    run(cmake, "--build", build, "--parallel", "2")
    command = emulated(work, unpacked(work), build)
    cli.main(["convert", "demo", "--out", str(bundle), "--force"])
    environment = {key: value for key, value in os.environ.items() if key not in ("LD_LIBRARY_PATH", "PYOPENCL_HOME")}
    words = ["--steps", str(STEPS), "--out"]
    run(*command, "draw", bundle, PROMPT, *words, work / "player.png", env=environment)
    cli.main(["generate", str(bundle), PROMPT, *words, str(work / "python.png")])
    one, other = (np.asarray(Image.open(work / name), np.float64) for name in ("player.png", "python.png"))
    off = float(((one - other) ** 2).mean())
    alike = 10 * math.log10(255**2 / off) if off else math.inf
    print(
        f"od_player for aarch64 under qemu and Python here: {alike:.1f} dB, {int(np.abs(one - other).max())} of 255 off"
    )
    return 0 if alike >= ALIKE else 1


if __name__ == "__main__":
    raise SystemExit(main())
