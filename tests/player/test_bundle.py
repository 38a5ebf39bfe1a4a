"""Bundles as the C++ player reads them: the golden ones are what Python reads, and it refuses what Python refuses."""

import copy
import json
import random
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from bundle.adapter_bundle import write_adapters
from bundle.image_bundle import write_images
from bundle.picture_bundle import write_picture
from bundle.refusals import MANIFEST_CHANGES, PLAN, PLAN_CHANGES
from bundle.setting import Setting
from bundle.target_bundle import write_targets
from bundle.tiny_bundle import edit_json, write_tiny

from ondevice.bundle import open_bundle
from ondevice.bundle.manifest import Manifest
from ondevice.bundle.plan_file import parse_plan, weight_bytes
from ondevice.errors import BundleError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bundle"
BUNDLES = ("tiny", "images", "targets", "picture", "adapters")
WRITERS = {"": write_tiny, "_images": write_images, "_targets": write_targets, "_pictures": write_picture,
           "_adapters": write_adapters}  # fmt: skip
# Where C++ shows the same in other words: sizes, and numbers of more than 64 bits.
SECOND = "plans[{}] is a second plan of tiny at "
OWN_WORDS = {
    SECOND.format(1) + "{'width': 8}": SECOND.format(1) + "width=8.",
    SECOND.format(2) + "{'width': 8} for wide": SECOND.format(2) + "width=8 for wide.",
    SECOND.format(2) + "{'width': 8} for fast": SECOND.format(2) + "width=8 for fast.",
    "dispatches[0].grid has 18446744073709551616 work-items (expected at most 80)": (
        "dispatches[0].grid has more than 18446744073709551615 work-items (expected at most 80)."
    ),
    "dispatches[0].scalars[1] is 1000": "dispatches[0].scalars[1] is Infinity (expected a finite float32).",
}


def rows(kind):
    return json.loads((GOLDEN / f"refused{kind}.json").read_text())


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
        assert line.startswith(f"9 {where}: {OWN_WORDS.get(message, message)}") and ". Fix: " in line, line


def test_harmless_changes_are_taken(ask, tmp_path):
    edits = [("bundle.json", [change]) for change, message in MANIFEST_CHANGES if not message]
    edits += [(PLAN, [change]) for change, message in PLAN_CHANGES if not message]
    assert set(ask("verify", changed(tmp_path, "", edits))) == {"ok"}


def test_defines_are_in_the_order_of_their_names(tool, tmp_path):
    path = write_tiny(tmp_path / "t")
    edit_json(path, PLAN, Setting(("kernels", 0, "defines"), {"WEIGHTS": 4, "Z": -1, "F16": 1}))
    (source, _) = json.loads(tool("check_bundle", "show", path).stdout)["plans"][""][0]["sources"]["opencl"]
    assert source.startswith("#define F16 1\n#define WEIGHTS 4\n#define Z -1\n#define KERNEL(name)")


PLACES = 600  # of 512 bytes, in the arena of random plans


def made_plan(whole, places, dispatches, outputs):
    """A plan whose operand t0 is its input. `places`: where each operand begins, and how many it takes; an image over
    each follows. `dispatches`: the operands of each, the last of which it writes."""
    operands = [
        {"name": f"t{i}", "dtype": "f32", "shape": [128 * count], "bytes": 512 * count, "offset": 512 * place}
        for i, (place, count) in enumerate(places)
    ]
    views = [
        {"name": f"t{i}:image", "kind": "image2d", "view": i, "width": 32, "height": 1} for i in range(len(places))
    ]
    kernel = {"name": "twice", "defines": {}, "outputs": 1, "scalars": ""}
    call = whole["dispatches"][0] | {"scalars": [], "grid": [1, 1, 1], "group": [1, 1, 1]}
    # Programs: of one buffer, of two, of an image.
    programs = [2 if row[0] >= len(places) else len(row) - 2 for row in dispatches]
    return whole | {
        "arena": 512 * PLACES,
        "inputs": [0],
        "outputs": outputs,
        "kernels": [kernel | {"inputs": count} for count in (1, 2, 1)],
        "operands": [*operands, *views, next(row for row in whole["operands"] if "weight" in row)],
        "dispatches": [
            call | {"kernel": program, "operands": row} for program, row in zip(programs, dispatches, strict=True)
        ],
    }


def small_plan(chance, whole):
    """A few operands at random places."""
    count, size = chance.randint(2, 12), chance.choice((1, 1, 2))
    ready, dispatches = [0], []
    for new in range(1, count):
        reads = [chance.choice(ready) for _ in range(chance.randint(1, 2))]
        if len(reads) == 1 and chance.random() < 0.4:
            reads = [reads[0] + count]
        written = new if chance.random() < 0.9 else chance.choice(range(count))
        dispatches.append([*reads, written])
        ready = [*ready[-1:], written]
    return made_plan(whole, [(chance.randrange(24), size) for _ in range(count)], dispatches, [ready[-1]])


def wide_plan(chance, whole):
    """Hundreds of operands one after the other, of which some stay; then one over all their places, and another that
    may be in it: neighbours are far apart in the order of offsets."""
    few = list(range(1, 301))
    chance.shuffle(few)
    over, last = len(few) + 1, len(few) + 2
    places = [(0, 1), *((10 + place, 1) for place in few), (1, 400), (chance.choice((few[0], 350, 450)), 1)]
    dispatches = [*([i, i + 1] for i in range(len(few))), [0, over], [0, last]]
    stay = chance.sample(range(1, over), chance.choice((0, 0, 1, 2)))
    return made_plan(whole, places, dispatches, [0, last, *stay, *chance.choice(([], [over]))])


def test_memory_is_checked_as_in_python(ask, tmp_path):
    """Plans whose operands are at random places: taken by both, or refused by both with the same words."""
    chance = random.Random(5)
    path = write_images(tmp_path / "t")
    edit_json(path, "bundle.json", Setting(("plans", 0, "arena"), 512 * PLACES))
    bundle = open_bundle(path)
    whole = json.loads((path / bundle.plans[0].file).read_text())
    made = [small_plan(chance, whole) for _ in range(400)] + [wide_plan(chance, whole) for _ in range(40)]
    taken = [0, 0]
    for number, (value, line) in enumerate(zip(made, ask("plans", map(json.dumps, made), path), strict=True)):
        try:
            parse_plan(value, "plan", bundle.manifest.weights, bundle.manifest.kernels)
            assert line == "ok"
            taken[number >= 400] += 1
        except BundleError as exc:
            assert line == f"9 {exc}"
    assert 100 < taken[0] < 300 and 5 < taken[1] < 35, taken


def test_letters_that_people_cannot_see_are_those_of_unicode(tool):
    ranges = [tuple(map(int, line.split())) for line in tool("check_bundle", "printable").stdout.splitlines()]
    hidden = {letter for first, last in ranges for letter in range(first, last + 1)}
    assert sum(last - first + 1 for first, last in ranges) == len(hidden) > 2000
    for letter in range(0x110000):
        category = unicodedata.category(chr(letter))
        if category != "Cn":  # a letter that is none yet may be one in a later Unicode
            assert (letter in hidden) == (not chr(letter).isprintable()), hex(letter)
