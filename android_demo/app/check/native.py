"""The player's library for arm64 phones, without an NDK: the sources that an NDK compiles, with the few declarations of
bionic.h, linked against libraries that hold nothing but those names."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PAGE = 16384
TARGET = "aarch64-linux-android"
LIBRARY = "libondevice_jni.so"
HERE = Path(__file__).parent
PLAYER = HERE.parents[1] / "player"
HEADERS = [
    "android/log", "dirent", "dlfcn", "errno", "fcntl", "math", "stdio", "stdlib", "string", "sys/mman", "sys/stat",
    "time", "unistd",
]  # fmt: skip


def clang() -> str | None:
    """Clang for C++ with LLD beside it."""
    names = ["clang++", *(f"clang++-{version}" for version in range(21, 13, -1))]
    return next((found for name in names if (found := shutil.which(name))), None)


def build(folder: Path, jni: Path, level: int) -> Path:
    """Compile and link the library for phones of API `level`. `jni` is a JDK's folder of headers."""
    compiler = clang()
    assert compiler
    target = [compiler, f"--target={TARGET}{level}", "-nostdlib"]
    headers = folder / "headers"
    for name in HEADERS:
        path = headers / f"{name}.h"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#include <bionic.h>\n")
    sources = [p for p in sorted((PLAYER / "src").rglob("*.cpp")) if p.parent.name != "tool"]
    sources.append(PLAYER / "jni" / "ondevice_jni.cpp")
    asked = re.search(
        r"target_compile_options\(ondevice_player PUBLIC(.*?)\)", (PLAYER / "CMakeLists.txt").read_text(), re.S
    )
    assert asked
    options = [flag for flag in asked[1].split() if flag.startswith("-f")]
    include = [f"-I{PLAYER / 'include'}", f"-I{PLAYER / 'src'}", f"-I{HERE}"]
    system = [word for path in (headers, jni, jni / "linux") for word in ("-isystem", str(path))]

    def compiled(source: Path) -> str:
        out = folder / "objects" / (str(source.relative_to(PLAYER)).replace("/", "_") + ".o")
        out.parent.mkdir(parents=True, exist_ok=True)
        flags = ["-std=c++17", "-O2", "-fPIC", "-ffreestanding", "-nostdlibinc", "-fstack-protector-strong", *options]
        run(*target, *flags, *include, *system, "-c", source, "-o", out)
        return str(out)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    libraries = _named_libraries(folder / "libraries", target)
    out = folder / LIBRARY
    link = ["-shared", "-fuse-ld=lld", f"-Wl,-z,max-page-size={PAGE}", "-Wl,--no-undefined", f"-Wl,-soname,{LIBRARY}"]
    run(*target, *link, *objects, *libraries, "-o", out)
    return out


def _named_libraries(folder: Path, target: list[str]) -> list[str]:
    """A shared library for each of bionic.h's, with its functions' names and nothing in them."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = re.split(r"^// (lib\w+)\.so$", (HERE / "bionic.h").read_text(), flags=re.M)[1:]
    out = []
    for name, declared in zip(parts[::2], parts[1::2], strict=True):
        functions = re.findall(r"^\w.*?\b(\w+)\((?!\*)", declared, re.M)
        source = folder / f"{name}.c"
        source.write_text("".join(f"void {function}(void) {{}}\n" for function in functions))
        compiler = [re.sub(r"clang\+\+", "clang", target[0]), *target[1:]]
        flags = ["-w", "-ffreestanding", "-shared", "-fPIC", "-fuse-ld=lld", f"-Wl,-soname,{name}.so"]
        run(*compiler, *flags, source, "-o", folder / f"{name}.so")
        out.append(str(folder / f"{name}.so"))
    return out


def faults(library: Path) -> list[str]:
    """What a phone's linker would refuse, or an app be harmed by."""
    text = run("readelf", "--wide", "--program-headers", "--dynamic", "--dyn-syms", library)
    out = []
    aligned = [int(line.split()[-1], 16) for line in re.findall(r"^  LOAD .*$", text, re.M)]
    if not aligned or min(aligned) < PAGE:
        out.append(f"its segments are aligned to {aligned}, and pages may have {PAGE} bytes")
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", text))
    if needed - {"libc.so", "libm.so", "libdl.so", "liblog.so"}:
        out.append(f"it needs {sorted(needed)}")
    if "TEXTREL" in text:
        out.append("it has relocations in its text")
    exported = {line.split()[-1] for line in text.splitlines() if re.search(r" GLOBAL +DEFAULT +\d+ ", line)}
    if "JNI_OnLoad" not in exported or any(not name.startswith(("od_", "JNI_OnLoad")) for name in exported):
        out.append(f"it exports {sorted(exported)}")
    return out


def run(*command: object) -> str:
    """Run a tool; what it prints. Its own words end the check where it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"apk-check: failed: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout
