"""Paint the app's screens on the host: `screens.py BUNDLE.odpack`, into ../screens.

The activity, its views and the player are the app's own; android.* is ../host, by Java's 2D graphics. Fonts are the
host's (Debian: fonts-roboto-unhinted), and so are the progress bar's and the check box's shapes. For the drivers that
Python has: `eval "$(python tests/player/opencl_environment.py)"` before.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from check import APP, BUILD, DEMO
from native import PLAYER, run
from PIL import Image

PROMPT = "a red circle on a blue background"


def main(bundle: str) -> None:
    """Build the player for this machine, run the app over `bundle`, and keep what it painted."""
    jdk = Path(shutil.which("javac") or "").resolve().parents[1]
    player, classes = BUILD / "host-player", BUILD / "host-classes"
    run("cmake", "-S", PLAYER, "-B", player, f"-DOD_JNI={jdk / 'include'}")
    run("cmake", "--build", player, "--target", "ondevice_jni")
    shutil.rmtree(classes, ignore_errors=True)
    folders = [APP / "host", APP / "src" / "main" / "java", DEMO / "player" / "java"]
    sources = [path for folder in folders for path in sorted(folder.rglob("*.java"))]
    run("javac", "-nowarn", "-Xlint:-options", "--release", "8", "-d", classes, *sources)
    os.environ["LD_PRELOAD"] = str(jdk / "lib" / "libjsig.so")  # compilers of devices handle signals as the JVM does
    with tempfile.TemporaryDirectory() as folder:
        (damaged := Path(folder) / "damaged.odpack").write_bytes(Path(bundle).read_bytes()[:4096])
        (out := Path(folder) / "screens").mkdir()
        flags = [f"-Djava.library.path={player}", "-Djava.awt.headless=true", f"-Dhost.folder={folder}/phone"]
        arguments = ["dev.ondevice.demo.Screens", out, Path(bundle).absolute(), damaged, PROMPT]
        run("java", *flags, "-cp", classes, *arguments)
        (APP / "screens").mkdir(exist_ok=True)
        for path in sorted(out.glob("*.png")):
            with Image.open(path) as painted:  # a palette is a quarter of the size
                painted.quantize(160).save(APP / "screens" / path.name, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
