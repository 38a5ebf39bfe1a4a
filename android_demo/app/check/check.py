"""`make apk-check`: the Android app assembled, signed and verified with what Debian, PyPI and npm offer.

It is no build for people, who have Gradle and an NDK (../../README.md); it shows that the same sources make an APK. A
tool that is missing is named with the package that brings it, and the check ends with status 77: it was not run.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import api
import native
from native import LIBRARY, PAGE, run

APP = Path(__file__).parents[1]
DEMO = APP.parent
BUILD = DEMO.parent / "build" / "apk-check"
FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")
NOT_RUN = 77
JAVA_6 = 50
ABI = "arm64-v8a"
ANDROID = "http://schemas.android.com/apk/res/android"
DX = {
    "package": "qark==4.0.0",
    "jar": "qark/lib/dex2jar-2.0/lib/dx-1.7.jar",
    "sha256": "923302e666d76e126e4cdf7129318532b258b1a66e435b92ccc29e91a60357bf",
}
TYPES = {
    "package": "@nativescript/types-android@9.1.1",
    "file": "package/lib/android/android-platform-21-37-merged.d.ts",
}
TOOLS = {
    "javac": "default-jdk-headless",
    "keytool": "default-jdk-headless",
    "ld.lld": "lld",
    "readelf": "binutils",
    "aapt": "aapt",
    "zipalign": "zipalign",
    "apksigner": "apksigner",
    "npm": "npm",
}


def main() -> int:
    """All steps, each said when it is done."""
    absent = {package for tool, package in TOOLS.items() if not shutil.which(tool)}
    absent |= set() if native.clang() else {"clang"}
    absent |= set() if FRAMEWORK.exists() else {"android-framework-res"}
    if absent:
        print(f"apk-check: not run: tools are missing. Fix: apt-get install {' '.join(sorted(absent))}.")
        return NOT_RUN
    shutil.rmtree(BUILD / "out", ignore_errors=True)
    out = BUILD / "out"
    out.mkdir(parents=True)
    settings = _settings()
    jdk = Path(shutil.which("javac") or "").resolve().parents[1]

    library = native.build(BUILD / "native", jdk / "include", settings["minSdk"])
    _must_not(native.faults(library), f"{LIBRARY}: ")
    print(f"native: {LIBRARY} of {library.stat().st_size:,} bytes for {ABI}, pages of {PAGE} bytes")

    used = _compile(out)
    types = _types()
    host = [api.class_file(path.read_bytes()) for path in sorted((out / "host" / "android").rglob("*.class"))]
    _must_not(api.wrong(types, used, host, settings["minSdk"]), "")
    print(
        f"API: all that is used of android.* is on phones of API {settings['minSdk']}, or behind a check of the level"
    )

    dex = _dex(out)
    _must_not(sorted({one.name for one in used} - _classes_in(dex)), "not in the dex: ")
    print(f"dex: {len(used)} classes, {dex.stat().st_size:,} bytes")

    apk = _assemble(out, dex, library, settings)
    _verify(apk, settings)
    print(f"apk-check: passed: {apk.relative_to(DEMO.parent)}, {apk.stat().st_size:,} bytes, signed and verified")
    return 0


def _must_not(problems: list[str], before: str) -> None:
    if problems:
        raise SystemExit("\n".join(["apk-check: failed:", *(before + one for one in problems)]))


def _settings() -> dict[str, int]:
    """What Gradle's description says."""
    text = (APP / "build.gradle").read_text()
    return {
        name: int(re.search(rf"\b{name} (\d+)", text)[1])  # type: ignore[index]
        for name in ("minSdk", "targetSdk", "versionCode")
    }


def _compile(out: Path) -> list[api.ClassFile]:
    """The host's android.*, then library and app against it; parsed classes of the latter."""
    java = {name: sorted(map(str, folder.rglob("*.java"))) for name, folder in _folders().items()}
    for name in ("host", "classes"):
        (out / name).mkdir()
    flags = ["-nowarn", "-Xlint:-options", "--release", "8"]
    run("javac", *flags, "-d", out / "host", *java["host"])
    run("javac", *flags, "-cp", out / "host", "-d", out / "classes", *java["player"], *java["app"])
    return [api.class_file(path.read_bytes()) for path in sorted((out / "classes").rglob("*.class"))]


def _folders() -> dict[str, Path]:
    return {
        "host": APP / "host" / "android",
        "player": DEMO / "player" / "java",
        "app": APP / "src" / "main" / "java",
    }


def _types() -> Path:
    """Declarations of android.*, kept between runs."""
    path = BUILD / "types" / TYPES["file"]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", "--pack-destination", str(BUILD), TYPES["package"]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise _unreached("npm", TYPES["package"], done.stderr)
        run("tar", "-xzf", BUILD / done.stdout.strip().splitlines()[-1], "-C", BUILD / "types")
    return path


def _dx() -> Path:
    """The dexer, kept between runs; its bytes are known."""
    jar = BUILD / "dx.jar"
    if not jar.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(BUILD), DX["package"]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise _unreached("pip", DX["package"], done.stderr)
        with zipfile.ZipFile(next(BUILD.glob("qark-*.whl"))) as wheel:
            jar.write_bytes(wheel.read(DX["jar"]))
    if hashlib.sha256(jar.read_bytes()).hexdigest() != DX["sha256"]:
        jar.unlink()
        raise SystemExit(f"apk-check: failed: {DX['package']} holds another dx than was looked at")
    return jar


def _unreached(client: str, package: str, said: str) -> SystemExit:
    print(f"apk-check: not run: {client} has no {package}. Fix: connect to its registry.\n{said}")
    return SystemExit(NOT_RUN)


def _dex(out: Path) -> Path:
    # This dx takes classes of Java 6. Those of Java 8 without lambdas and default methods differ in their number alone.
    older = out / "java6"
    shutil.copytree(out / "classes", older)
    for path in older.rglob("*.class"):
        data = path.read_bytes()
        path.write_bytes(data[:6] + struct.pack(">H", JAVA_6) + data[8:])
    dex = out / "classes.dex"
    run("java", "-cp", _dx(), "com.android.dx.command.Main", "--dex", f"--output={dex}", older)
    return dex


def _classes_in(dex: Path) -> set[str]:
    """Names of the classes that a dex file defines, as class files spell them."""
    data = dex.read_bytes()
    if data[:8] != b"dex\n035\0":
        raise SystemExit(f"apk-check: failed: {dex.name} is no dex file of version 035")
    strings, types, count, begin = (struct.unpack_from("<I", data, at)[0] for at in (60, 68, 96, 100))
    names = set()
    for index in range(count):
        kind = struct.unpack_from("<I", data, begin + 32 * index)[0]
        text = struct.unpack_from("<I", data, types + 4 * kind)[0]
        at = struct.unpack_from("<I", data, strings + 4 * text)[0] + 1  # after its length, of one byte below 128
        at += 1 if data[at - 1] >= 128 else 0
        names.add(data[at : data.index(b"\0", at)].decode().removeprefix("L").removesuffix(";"))
    return names


def _manifest(out: Path, settings: dict[str, int]) -> Path:
    """The manifest with what Gradle adds to it."""
    ElementTree.register_namespace("android", ANDROID)
    tree = ElementTree.parse(APP / "src" / "main" / "AndroidManifest.xml")
    root = tree.getroot()
    root.set("package", "dev.ondevice.demo")
    root.set(f"{{{ANDROID}}}versionCode", str(settings["versionCode"]))
    root.set(f"{{{ANDROID}}}versionName", "apk-check")
    levels = {f"{{{ANDROID}}}{name}SdkVersion": str(settings[f"{name}Sdk"]) for name in ("min", "target")}
    root.insert(0, ElementTree.Element("uses-sdk", levels))
    for application in root.iter("application"):
        application.set(f"{{{ANDROID}}}extractNativeLibs", "false")
    path = out / "AndroidManifest.xml"
    tree.write(path, encoding="utf-8", xml_declaration=True)
    return path


def _assemble(out: Path, dex: Path, library: Path, settings: dict[str, int]) -> Path:
    """Resources, dex and library in one file; aligned and signed with a key made for it."""
    bare, aligned, signed = out / "bare.apk", out / "aligned.apk", out / "ondevice.apk"
    resources = ["-S", APP / "src" / "main" / "res", "-I", FRAMEWORK]
    run("aapt", "package", "-f", "-M", _manifest(out, settings), *resources, "-F", bare)
    with zipfile.ZipFile(bare, "a") as apk:
        apk.write(dex, "classes.dex", zipfile.ZIP_DEFLATED)
    run("zipalign", "-f", "4", bare, aligned)
    with zipfile.ZipFile(aligned, "a") as apk:
        name = f"lib/{ABI}/{LIBRARY}"
        entry = zipfile.ZipInfo(name)
        # Android's field of alignment (0xD935: a multiple, then zeros), which the signer keeps to: the library is
        # mapped from the APK itself, so it begins at a page.
        begin = apk.fp.tell() + 30 + len(name) + 6  # type: ignore[union-attr]
        padding = -begin % PAGE
        entry.extra = struct.pack("<HHH", 0xD935, 2 + padding, PAGE) + bytes(padding)
        apk.writestr(entry, library.read_bytes())
    key = BUILD / "debug.p12"
    if not key.exists():
        name = ["-alias", "debug", "-dname", "CN=debug", "-validity", "10000"]
        run(
            "keytool",
            "-genkeypair",
            "-keystore",
            key,
            "-storepass",
            "android",
            "-keyalg",
            "RSA",
            "-keysize",
            "2048",
            *name,
        )
    run("apksigner", "sign", "--ks", key, "--ks-pass", "pass:android", "--out", signed, aligned)
    return signed


def _verify(apk: Path, settings: dict[str, int]) -> None:
    problems = []
    run("apksigner", "verify", "--min-sdk-version", settings["minSdk"], apk)
    run("zipalign", "-c", "-p", "4", apk)
    with zipfile.ZipFile(apk) as file:
        entry = file.getinfo(f"lib/{ABI}/{LIBRARY}")
        file.fp.seek(entry.header_offset + 26)  # type: ignore[union-attr]
        names, extra = struct.unpack("<HH", file.fp.read(4))  # type: ignore[union-attr]
        begin = entry.header_offset + 30 + names + extra
        if entry.compress_type != zipfile.ZIP_STORED or begin % PAGE:
            problems.append(f"{LIBRARY} begins at {begin}, which is no page of {PAGE} bytes")
    badging = run("aapt", "dump", "badging", apk)
    for said in [
        "package: name='dev.ondevice.demo'",
        f"sdkVersion:'{settings['minSdk']}'",
        f"targetSdkVersion:'{settings['targetSdk']}'",
        "launchable-activity: name='dev.ondevice.demo.MainActivity'",
        f"native-code: '{ABI}'",
    ]:
        problems += [] if said in badging else [f"aapt does not say {said}"]
    _must_not(problems, "")


if __name__ == "__main__":
    sys.exit(main())
