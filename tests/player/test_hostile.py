"""Bundles that are made to break a player are refused: by Python and by the C++ player, and with the same words."""

import json
from itertools import takewhile

import pytest
from player import hostile, hostile_adapters, hostile_files, hostile_packed, hostile_plans

from ondevice.bundle import open_bundle
from ondevice.errors import BundleError

GOLDEN = hostile.GOLDEN.parent / "player" / "hostile.json"


def cases():
    """Which the Swift player refuses, too (ios_demo/Player/Tests/drawn.py)."""
    return [
        *hostile.manifests(), *hostile_plans.plans(), *hostile_plans.ports(), *hostile_plans.pipelines(),
        *hostile_files.files(), *hostile_packed.packed(), *hostile_adapters.adapters(),
    ]  # fmt: skip


def common(a, b):
    """How both begin."""
    return a[: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))]


def test_every_hostile_bundle_is_refused_by_python_and_by_the_player(tool, tmp_path, request):
    made = {case.what: case for case in cases()}
    paths, python = [], []
    for number, case in enumerate(made.values()):
        (tmp_path / str(number)).mkdir()
        paths.append(case.make(tmp_path / str(number)))
        with pytest.raises(BundleError) as caught:
            open_bundle(paths[-1], verify=True)
        python.append(str(caught.value).replace(str(paths[-1]), paths[-1].name))
    done = tool("check_bundle", "verify", input="".join(f"{path}\n" for path in paths))
    lines = [line.replace(str(path), path.name) for line, path in zip(done.stdout.splitlines(), paths, strict=True)]
    assert done.returncode == 0 and all(line.startswith("9 ") for line in lines)
    if request.config.getoption("--bless", default=False):
        # Numbers are shown as each language does, and what is wrong with a text that is no JSON.
        same = [common(own, line[2:]).split(". Fix")[0] for own, line in zip(python, lines, strict=True)]
        rows = [json.dumps([what, message], ensure_ascii=True) for what, message in zip(made, same, strict=True)]
        GOLDEN.write_text("[\n" + ",\n".join(rows) + "\n]\n")
    expected = dict(json.loads(GOLDEN.read_text()))
    assert list(expected) == list(made) and len(made) >= 200
    for message, own, line in zip(expected.values(), python, lines, strict=True):
        assert len(message) > 25 and own.startswith(message) and line[2:].startswith(message), (message, own, line)
