"""The Android app's logic and the Java library on the host's JVM, through the real JNI library.

With a player that draws nothing (android_demo/app/tests/fake_player.cpp), by which a test says when time passes.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from player.opencl_environment import environment

from ondevice import cli
from ondevice.run.opencl import choose_device

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "android_demo"
SOURCES = [
    path
    for folder in ("player/java", "app/src/main/java", "app/host", "app/tests")
    for path in sorted((DEMO / folder).rglob("*.java"))
]
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wno-sign-conversion", "-Werror"]


LINT = "cast,deprecation,fallthrough,finally,overrides,rawtypes,serial,static,try,unchecked"  # what every JDK knows
PROMPT = "a green star on a yellow background, é 😀"


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=240, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def jdk():
    """Folder of a JDK."""
    javac = shutil.which("javac")
    if not javac:
        pytest.skip("not run: javac is missing (apt-get install default-jdk-headless)")
    return Path(javac).resolve().parents[1]


@pytest.fixture(scope="session")
def classes(jdk, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    lint = f"-Xlint:{LINT},-options"
    run(jdk / "bin" / "javac", lint, "-Werror", "--release", "8", "-d", folder, *SOURCES)
    return folder


@pytest.fixture(scope="session")
def java(jdk, classes, tmp_path_factory):
    """`java(name, *arguments)`: run a class with a player that draws nothing; gives what it prints."""
    folder = tmp_path_factory.mktemp("jni")
    sources = [DEMO / "player" / "jni" / "ondevice_jni.cpp", DEMO / "app" / "tests" / "fake_player.cpp"]
    headers = [f"-I{DEMO / 'player' / 'include'}", *(f"-isystem{jdk / 'include' / part}" for part in ("", "linux"))]
    shared = ["-shared", "-fPIC", "-std=c++17", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden"]
    run("g++", *shared, *WARNINGS, *headers, *sources, "-o", folder / "libondevice_jni.so")

    def call(name, *arguments, checks=("-Xcheck:jni",), **options):
        flags = [*checks, f"-Djava.library.path={folder}", "-Djava.awt.headless=true", "-Dfile.encoding=UTF-8"]
        out = run(jdk / "bin" / "java", *flags, "-cp", classes, name, *arguments, **options)
        assert "WARNING" not in out, out  # of -Xcheck:jni
        return out

    return call


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "fake.ondevice").write_text("bundle")
    (tmp_path / "not a bundle").write_text("picture")
    return tmp_path / "fake.ondevice"


@pytest.mark.parametrize(
    "name",
    [
        "draws",
        "drawsWithAnAdapter",
        "drawsWithAControlPicture",
        "cancels",
        "givesMemoryBack",
        "saysWhatIsWrong",
        "survivesRotation",
        "keepsNoHalfOfAPicture",
        "survivesTheProcess",
        "measures",
    ],
)
def test_the_app(java, bundle, name):
    assert java("dev.ondevice.demo.AppCheck", name, bundle.parent) == "passed\n"


@pytest.mark.parametrize(
    "name",
    [
        "passesAllThatIsAsked",
        "refusesWhatIsNoRequest",
        "throwsOnWhatAWatchThrows",
        "hearsOfAThousandSteps",
        "closesWhileAnotherThreadDraws",
    ],
)
def test_the_library(java, bundle, name):
    assert java("dev.ondevice.player.PlayerCheck", name, bundle) == "passed\n"


def test_its_screens_are_painted(java, bundle, tmp_path):
    """The activity's own views, touched and painted (android_demo/app/host)."""
    java(
        "dev.ondevice.demo.Screens",
        tmp_path,
        bundle,
        bundle.with_name("not a bundle"),
        "patient",
        checks=[f"-Dhost.folder={tmp_path / 'phone'}"],  # the JDK's own fonts fail -Xcheck:jni
    )
    names = {"start", "ready", "drawing", "done", "history", "device", "benchmark", "memory", "error"}
    painted = {path.stem: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert painted.keys() == names and len({*painted.values()}) == len(names)


def test_a_bundle_is_opened_by_descriptor(java, bundle):
    """As the system's file picker gives it; the text of a refusal names the document."""
    for path, said in [
        (bundle, "passed"),
        (bundle.with_name("not a bundle"), "9 picked: is no bundle. Fix: copy the bundle again."),
    ]:
        descriptor = os.open(path, os.O_RDONLY)
        out = java("dev.ondevice.player.PlayerCheck", "passesAllThatIsAsked", path, descriptor, pass_fds=[descriptor])
        os.close(descriptor)
        assert out == f"{said}\n"


@pytest.mark.device
@pytest.mark.phones
def test_the_app_draws_what_python_draws(jdk, classes, player_build, tmp_path):
    """Over the player itself and a bundle in one file: cancelled midway, put away for memory, and measured."""
    bundle, packed, picture = tmp_path / "demo.ondevice", tmp_path / "demo.odpack", tmp_path / "python.png"
    assert cli.main(["convert", "demo", "--out", str(bundle)]) == 0
    assert cli.main(["pack", str(bundle), "--out", str(packed)]) == 0
    # The device's compiler handles signals that the JVM lives by; libjsig lets both have them.
    variables = environment(LD_PRELOAD=str(jdk / "lib" / "libjsig.so"), ONDEVICE_DEVICE=choose_device().name)
    flags = [f"-Djava.library.path={player_build}", "-Dfile.encoding=UTF-8"]
    check = ["-cp", classes, "dev.ondevice.demo.DrawCheck", tmp_path, packed, PROMPT]
    assert run(jdk / "bin" / "java", *flags, *check, env=variables) == "passed\n"
    drawn = ["generate", str(packed), PROMPT, "--steps", "4", "--seed", "7", "--out", str(picture)]
    assert cli.main(drawn) == 0
    assert (tmp_path / "picture.png").read_bytes() == picture.read_bytes()
    assert cli.main(["bench", str(tmp_path / "rows.jsonl"), "--device", "apple"]) == 0


def test_classes_are_read_as_javac_writes_them(classes, apk_api):
    """By `make apk-check`, which looks up on a phone whatever they name."""
    activity = apk_api.class_file((classes / "dev/ondevice/demo/MainActivity.class").read_bytes())
    own = "dev/ondevice/demo/"
    assert activity.bases == ["android/app/Activity", f"{own}Presenter$View", f"{own}Screen$Actions"]
    assert (f"{own}MainActivity", "setContentView", "(Landroid/view/View;)V") in activity.references
    assert ("onActivityResult", "(IILandroid/content/Intent;)V") in activity.members
    assert apk_api.class_file((classes / "android/view/Gravity.class").read_bytes()).constants["CENTER"] == 17
