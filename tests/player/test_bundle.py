"""Bundles as the C++ player reads them: the golden ones are what Python reads, and it refuses what Python refuses."""

import copy
import itertools
import json
import os
import random
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from bundle.image_bundle import write_images
from bundle.picture_bundle import write_picture
from bundle.refusals import MANIFEST_CHANGES, PLAN, PLAN_CHANGES, Setting
from bundle.target_bundle import write_targets
from bundle.test_checks import BAD_JSON, cut, grow, link_out, loop, make_directory, make_pipe, remove
from bundle.tiny_bundle import edit_json, replace_file, write_tiny

from ondevice.bundle import open_bundle
from ondevice.bundle.format import MAX_JSON_BYTES
from ondevice.bundle.manifest import Manifest
from ondevice.bundle.plan_file import parse_plan, weight_bytes
from ondevice.errors import BundleError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bundle"
BUNDLES = ("tiny", "images", "targets", "picture")
WRITERS = {"": write_tiny, "_images": write_images, "_targets": write_targets, "_pictures": write_picture}
# Where C++ shows the same in other words: sizes, and numbers of more than 64 bits.
SECOND = "plans[{}] is a second plan of tiny at "
OWN_WORDS = {
    SECOND.format(1) + "{'width': 8}": SECOND.format(1) + "width=8.",
    SECOND.format(2) + "{'width': 8} for wide": SECOND.format(2) + "width=8 for wide.",
    SECOND.format(2) + "{'width': 8} for fast": SECOND.format(2) + "width=8 for fast.",
    "dispatches[0].scalars[1] is 1000": "dispatches[0].scalars[1] is Infinity (expected a finite float32).",
}


def rows(kind):
    return json.loads((GOLDEN / f"refused{kind}.json").read_text())


@pytest.fixture
def ask(tool):
    """`ask(verb, lines, *arguments)`: what the tool says of each line, in one process."""

    def call(verb, lines, *arguments):
        done = tool("check_bundle", verb, *arguments, input="".join(f"{line}\n" for line in lines))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    return call


def seen(bundle):
    """A bundle as Python reads it, in the words of the tool."""
    manifest: Manifest = bundle.manifest
    names = [target.name for target in manifest.targets] or [""]
    return {
        "version": list(manifest.version),
        "texts": [manifest.producer, manifest.model["family"], manifest.model["source"]],
        "components": manifest.components,
        "kernels": list(manifest.kernels),
        "preludes": list(manifest.preludes),
        "samplers": list(manifest.samplers),
        "tokenizers": {name: [x.kind, x.length, list(x.files)] for name, x in manifest.tokenizers.items()},
        "files": {name: [x.bytes, x.sha256] for name, x in manifest.files.items()},
        "weights": {
            key: [x.dtype, list(x.shape), x.file, x.offset, list(bundle.array(key).tobytes())]
            for key, x in manifest.weights.items()
        },
        "plans": {name: plans(bundle.for_target(name) if name else bundle) for name in names},
    }


def plans(bundle):
    return [plan(bundle, entry, bundle.plan(entry.component, **entry.sizes)) for entry in bundle.plans]


def plan(bundle, entry, read):
    return {
        "file": entry.file,
        "component": read.component,
        "sizes": read.sizes,
        "dtype": read.dtype,
        "needs": list(read.needs),
        "arena": read.arena,
        "weight_bytes": weight_bytes(read),
        "inputs": list(read.inputs),
        "outputs": list(read.outputs),
        "kernels": [[x.file, *(part for define in x.defines for part in define)] for x in read.kernels],
        "operands": [
            [x.name, x.dtype, list(x.shape), x.nbytes, x.offset or 0, x.weight or "", -1 if x.view is None else x.view]
            for x in read.operands
        ],
        "dispatches": [
            [x.kernel, list(x.operands), list(x.scalars), *x.grid, *x.group, x.node, x.op, x.flops, x.reads, x.writes]
            for x in read.dispatches
        ],
        "sources": {
            dialect: [bundle.source(x.file, dialect, x.defines) for x in read.kernels]
            for dialect in bundle.manifest.preludes
        },
    }


def rounded(value):
    """Floats as the nearest float32, which is what C++ holds."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(np.float32(value)) if isinstance(value, float) else value


@pytest.mark.parametrize("name", BUNDLES)
def test_golden_bundles_are_read_as_in_python(tool, ask, name):
    path = GOLDEN / f"{name}.ondevice"
    shown = json.loads(tool("check_bundle", "show", path).stdout)
    assert rounded(shown) == rounded(seen(open_bundle(path)))
    assert ask("verify", [path]) == ["ok"]


@pytest.mark.parametrize("name", ["tiny", "images"])
def test_weights_and_sources_are_those_of_the_golden_files(tool, name):
    wanted = json.loads((GOLDEN / ("expected.json" if name == "tiny" else f"expected_{name}.json")).read_text())
    shown = json.loads(tool("check_bundle", "show", GOLDEN / f"{name}.ondevice").stdout)
    dtypes = {"f16": "<f2", "f32": "<f4", "i32": "<i4", "i8": "i1"}
    for key, values in wanted["weights"].items():
        dtype, shape, _, _, data = shown["weights"][key]
        np.testing.assert_array_equal(np.frombuffer(bytes(data), dtypes[dtype]).reshape(shape), values)
    read = shown["plans"][""][0]
    for dialect, sources in wanted["sources"].items():
        named = dict(zip((kernel[0] for kernel in read["kernels"]), read["sources"][dialect], strict=True))
        assert named == sources


def test_devices_take_the_targets_of_the_golden_file(ask):
    wanted = json.loads((GOLDEN / "expected_targets.json").read_text())
    path = GOLDEN / "targets.ondevice"
    out = ask("target", (json.dumps(device) for device in wanted["devices"]), path)
    for device, line in zip(wanted["devices"], out, strict=True):
        assert line == device["takes"] if device["takes"] else "runs none of the bundle's plans" in line
    assert (
        "12 GPU(TM) 740 runs none of the bundle's plans (wide: it needs work group of 4 (the device has 3))" in out[6]
    )
    unknown = {
        "name": "GPU 9",
        "version": "",
        "needs": ["half"],
        "limits": dict.fromkeys(wanted["devices"][0]["limits"], 0),
    }
    assert ask("target", [json.dumps(unknown)], path) == ["fast"], "what is not known stands in no way"


def test_a_target_is_asked_for_by_its_name(ask):
    path = GOLDEN / "targets.ondevice"
    assert ask("name", [], path, "wide") == ["1"]
    assert ask("name", [], path, "gpu")[0].startswith(
        "2 --plans: targets.ondevice has no plans of gpu (it has those of fast, wide, any). Fix: name one of these."
    )
    assert (
        "it is for one kind of devices, so none has a name). Fix: leave it out."
        in (ask("name", [], GOLDEN / "tiny.ondevice", "gpu")[0])
    )


def changed(folder, kind, edits):
    """Copies of a small bundle, each with its changes; gives their paths."""
    source, paths = WRITERS[kind](folder / f"source{kind}"), []
    for number, (file, changes) in enumerate(edits):
        path = shutil.copytree(source, folder / f"{kind}{number}" / "t")
        for change in changes:
            edit_json(path, file, change)
        paths.append(path)
    return paths


@pytest.fixture
def tiny(tmp_path):
    """`tiny()`: a new copy of the tiny bundle, called "t"."""
    source, numbers = write_tiny(tmp_path / "tiny"), itertools.count()
    return lambda: shutil.copytree(source, tmp_path / f"copy{next(numbers)}" / "t")


def words(line):
    """What is wrong, without where."""
    assert line.startswith("9 ") and ". Fix: " in line, line
    return line.split(": ", 1)[1]


@pytest.mark.parametrize("kind", WRITERS)
def test_every_golden_refusal_is_refused_in_pythons_words(ask, tmp_path, kind):
    wanted = rows(kind)
    edits = [
        (
            row["file"],
            [Setting(tuple(x["path"]), copy.deepcopy(x.get("value", ...))) for x in (row, *row.get("also", ()))],
        )
        for row in wanted
    ]
    out = ask("verify", changed(tmp_path, kind, edits))
    for row, line in zip(wanted, out, strict=True):
        message = row["message"]
        where, message = message.split(": ", 1) if message.startswith("plans/") else (row["file"], message)
        where = PLAN if message.startswith("uses") else where
        assert line.startswith(f"9 {where}: "), line
        assert words(line).startswith(OWN_WORDS.get(message, message)), line


def test_harmless_changes_are_taken(ask, tmp_path):
    edits = [("bundle.json", [change]) for change, message in MANIFEST_CHANGES if not message]
    edits += [(PLAN, [change]) for change, message in PLAN_CHANGES if not message]
    assert set(ask("verify", changed(tmp_path, "", edits))) == {"ok"}


def test_what_is_no_json_is_refused(ask, tmp_path):
    paths = []
    bad = [row for row in BAD_JSON if b"99999" not in row[0]]  # how many digits Python reads is its own business
    for data, _ in bad:
        paths.append(tmp_path / str(len(paths)))
        paths[-1].mkdir()
        (paths[-1] / "bundle.json").write_bytes(data)
    for line, (_, message) in zip(ask("open", paths), bad, strict=True):
        assert words(line).startswith(message.split(" (")[0]), line


FILES = ("weights/tiny-000.bin", PLAN, "scheduler/scheduler_config.json")
DAMAGE = {
    remove: "is missing from t. Fix",
    cut: "is cut or changed (got",
    grow: "is cut or changed (got",
    link_out: "is a link out of t or not a regular file. Fix",
    loop: "is missing from t. Fix",
    make_pipe: "is a link out of t or not a regular file. Fix",
    make_directory: "is a link out of t or not a regular file. Fix",
}


def test_damaged_files_are_refused(ask, tmp_path, tiny):
    paths, wanted = [], []
    for damage, message in DAMAGE.items():
        for name in FILES:
            paths.append(tiny())
            damage(paths[-1] / name)
            wanted.append(f"9 {name}: {message}")
    for damage in (link_out, make_pipe, make_directory):
        paths.append(tiny())
        damage(paths[-1] / "bundle.json")
        wanted.append("9 bundle.json: is a link out of t or not a regular file. Fix")
    paths.append(tiny())
    os.truncate(paths[-1] / "bundle.json", 1 << 40)
    wanted.append(f"9 bundle.json: is too large (got {1 << 40} bytes, expected at most {MAX_JSON_BYTES}).")
    empty = tmp_path / "empty"
    empty.mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path in (empty, tmp_path / "pipe", tmp_path / "nowhere"):
        paths.append(path)
        wanted.append(f"9 {path}: is not a bundle (no bundle.json in it). Fix: give the folder that")
    for line, message in zip(ask("open", paths), wanted, strict=True):
        assert line.startswith(message), line


def test_links_inside_are_followed(ask, tmp_path):
    path = write_tiny(tmp_path / "t")
    (path / PLAN).rename(path / "plans" / "real.json")
    (path / PLAN).symlink_to("real.json")
    (tmp_path / "link").symlink_to(path, target_is_directory=True)
    beside = shutil.copytree(path, tmp_path / "tt", symlinks=True)
    (beside / "kernels" / "pick.cl").unlink()
    (beside / "kernels" / "pick.cl").symlink_to(path / "kernels" / "pick.cl")  # "t" is how "tt" begins
    assert ask("verify", [tmp_path / "link", f"{path}/"]) == ["ok"] * 2
    (out,) = ask("verify", [beside])
    assert out.startswith("9 kernels/pick.cl: is a link out of tt or not a regular file")


def test_a_flipped_bit_and_what_is_no_text_are_found(ask, tiny):
    paths, wanted = [], []
    for name in (
        "weights/tiny-000.bin",
        "kernels/pick.cl",
        "kernels/prelude/opencl.h",
        PLAN,
        "tokenizers/tiny/merges.txt",
    ):
        paths.append(tiny())
        data = bytearray((paths[-1] / name).read_bytes())
        data[len(data) // 2] ^= 1
        (paths[-1] / name).write_bytes(data)
        wanted.append(f"9 {name}: was changed: its sha256 is not the one in bundle.json. Fix")
    for name, data, message in (
        ("kernels/pick.cl", b"\xff", "is not UTF-8 text. Fix"),
        ("kernels/pick.cl", b" " * ((4 << 20) + 1), "is too large (got 4194305 bytes, expected at most 4194304)"),
        ("samplers/tiny_2.json", b"[1]", "is a list of 1 (expected an object"),
        ("scheduler/scheduler_config.json", b"{", "is not valid JSON"),
    ):
        paths.append(tiny())
        replace_file(paths[-1], name, data)
        wanted.append(f"9 {name}: {message}")
    assert ask("open", paths) == ["ok"] * len(paths)
    for line, message in zip(ask("verify", paths), wanted, strict=True):
        assert line.startswith(message), line


def test_memory_is_checked_as_in_python(ask):
    """Plans whose operands are at random places, some of them read as images: taken by both, or refused by both with
    the same words."""
    chance, made = random.Random(5), []
    bundle = open_bundle(GOLDEN / "images.ondevice")
    whole = json.loads((bundle.path / bundle.plans[0].file).read_text())
    weight = next(row for row in whole["operands"] if "weight" in row)
    call = whole["dispatches"][0] | {"scalars": [], "grid": [1, 1, 1], "group": [1, 1, 1]}
    kernel = {"name": "twice", "defines": {}, "outputs": 1, "scalars": ""}
    kernels = [kernel | {"inputs": 1}, kernel | {"inputs": 2}, kernel | {"inputs": 1}]  # the last reads images
    for _ in range(2000):
        count, shape = chance.randint(2, 12), chance.choice(([128], [128], [256]))
        size = 4 * shape[0]
        operands = [
            {"name": f"t{i}", "dtype": "f32", "shape": shape, "bytes": size}
            | {"offset": 512 * chance.randint(0, (whole["arena"] - size) // 512)}
            for i in range(count)
        ]
        image = {"kind": "image2d", "width": 32, "height": 1}
        views = [image | {"name": f"t{i}:image", "view": i} for i in range(count)]
        ready, dispatches = [0], []
        for new in range(1, count):
            reads = [chance.choice(ready) for _ in range(chance.randint(1, 2))]
            program = len(reads) - 1
            if program == 0 and chance.random() < 0.4:
                program, reads = 2, [reads[0] + count]
            written = new if chance.random() < 0.9 else chance.choice(range(count))
            dispatches.append(call | {"kernel": program, "operands": [*reads, written]})
            ready = [*ready[-1:], written]
        value = whole | {"inputs": [0], "outputs": [ready[-1]], "kernels": kernels, "dispatches": dispatches}
        made.append(value | {"operands": [*operands, *views, weight]})
    out, taken = ask("plans", map(json.dumps, made), bundle.path), 0
    for value, line in zip(made, out, strict=True):
        try:
            parse_plan(value, "plan", bundle.manifest.weights, bundle.manifest.kernels)
            assert line == "ok"
            taken += 1
        except BundleError as exc:
            assert line == f"9 {exc}"
    assert 300 < taken < 1700


def test_letters_that_people_cannot_see_are_those_of_unicode(tool):
    ranges = [tuple(map(int, line.split())) for line in tool("check_bundle", "printable").stdout.splitlines()]
    hidden = {letter for first, last in ranges for letter in range(first, last + 1)}
    assert sum(last - first + 1 for first, last in ranges) == len(hidden) > 2000
    for letter in range(0x110000):
        category = unicodedata.category(chr(letter))
        if category != "Cn":  # a letter that is none yet may be one in a later Unicode
            assert (letter in hidden) == (not chr(letter).isprintable()), hex(letter)
