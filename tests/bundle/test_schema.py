"""The published schemas describe what is written, and the reader refuses whatever they refuse
(and no more than BundleError)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from bundle.adapter_bundle import write_adapters
from bundle.image_bundle import IMAGE_PLAN, write_images
from bundle.refusals import PLAN
from bundle.target_bundle import FAST_PLAN, write_targets
from bundle.tiny_bundle import write_tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.bundle.format import MANIFEST, load_json
from ondevice.bundle.manifest import parse_manifest
from ondevice.bundle.plan_file import parse_plan
from ondevice.errors import BundleError

KINDS = ("bundle", "plan")


def validator(kind: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((resources.files("ondevice.bundle") / f"{kind}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


VALIDATORS = {kind: validator(kind) for kind in KINDS}


BUNDLES = {
    "tiny": (write_tiny, PLAN),
    "images": (write_images, IMAGE_PLAN),
    "targets": (write_targets, FAST_PLAN),
    "adapters": (write_adapters, PLAN),
}


@pytest.fixture(scope="module", params=BUNDLES.values(), ids=BUNDLES)
def written(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Any]:
    write, file = request.param
    path = write(tmp_path_factory.mktemp("schema") / "t")
    return {"bundle": json.loads((path / MANIFEST).read_text()), "plan": json.loads((path / file).read_text())}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_fits_its_schema(written: dict[str, Any], kind: str) -> None:
    VALIDATORS[kind].validate(written[kind])


@pytest.mark.parametrize("name", BUNDLES)
def test_golden_bundle_fits_its_schema(name: str) -> None:
    root = Path(__file__).resolve().parents[1] / "golden" / "bundle" / f"{name}.ondevice"
    VALIDATORS["bundle"].validate(json.loads((root / MANIFEST).read_text()))
    for file in (root / "plans").iterdir():
        VALIDATORS["plan"].validate(json.loads(file.read_text()))


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def reader(kind: str, manifest: Any) -> Callable[[Any], object]:
    """The hand-written checks: parsed JSON -> Manifest or Plan."""
    if kind == "bundle":
        return parse_manifest
    good = parse_manifest(manifest)
    return lambda value: parse_plan(value, "p", good.weights, good.kernels)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10),
    st.sampled_from(
        [
            -1,
            511,
            512,
            513,
            1024,
            1025,
            65535,
            65536,
            2**31 - 1,
            2**31,
            2**32,
            2**40,
            2**40 + 512,
            2**53 + 1,
            2**64,
            10**400,
            -(10**400),
        ]
    ),
    st.sampled_from([0.5, -0.0, 8.0, 1e-300, 3.5e38, -1e308]),
    st.text(max_size=3),
    st.sampled_from(
        [
            "",
            "../x",
            "/x",
            "f16",
            "i32",
            "x\n",
            "a" * 600,
            "ifif",
            "pick.cl",
            "weights/tiny-000.bin",
            "plans/tiny_width8.json",
            "tiny",
            "0" * 64,
            "\0",
            "\ud800",
        ]
    ),
)
VALUES = st.one_of(
    LEAVES,
    st.just([]),
    st.just({}),
    st.lists(LEAVES, max_size=9),
    st.dictionaries(st.text(max_size=3), LEAVES, max_size=3),
)


def mutate(value: Any, data: st.DataObject) -> None:
    """One random change inside a JSON value: another value, a deleted, doubled, swapped or renamed entry."""
    path = data.draw(st.sampled_from(list(places(value))))
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    match data.draw(st.sampled_from(["set", "set", "set", "nudge", "delete", "swap", "double", "rename"])):
        case "set":
            parent[key] = data.draw(VALUES)
        case "nudge" if isinstance(parent[key], (int, float)) and abs(parent[key]) < 1e30:
            parent[key] = data.draw(
                st.sampled_from(
                    [
                        parent[key] + 1,
                        parent[key] - 1,
                        -parent[key],
                        parent[key] * 2,
                        float(parent[key]),
                        bool(parent[key]),
                        str(parent[key]),
                    ]
                )
            )
        case "delete":
            del parent[key]
        case "swap":
            keys = list(parent) if isinstance(parent, dict) else range(len(parent))
            other = data.draw(st.sampled_from(list(keys)))
            parent[key], parent[other] = parent[other], parent[key]
        case "double" if isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        case "rename" if isinstance(parent, dict):
            parent[data.draw(st.text(max_size=4) | st.sampled_from(["a\n", "../a", "A" * 600]))] = parent.pop(key)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=500)
@given(data=st.data())
def test_mutations_are_refused_or_valid(written: dict[str, Any], kind: str, data: st.DataObject) -> None:
    value = copy.deepcopy(written[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        if next(places(value), None):
            mutate(value, data)
    read = reader(kind, written["bundle"])
    try:
        read(value)
    except BundleError as exc:
        assert str(exc).startswith(("bundle.json: ", "p: "))
        str(exc).encode()  # can be printed
        assert len(str(exc)) < 1000
    else:
        assert VALIDATORS[kind].is_valid(value), [error.message for error in VALIDATORS[kind].iter_errors(value)]


@settings(deadline=None, max_examples=200)
@given(
    data=st.binary(max_size=200) | st.text(alphabet='{}[]",:0123456789.eE-truefalsn\\ud8', max_size=200).map(str.encode)
)
def test_any_bytes_are_json_or_refused(data: bytes) -> None:
    try:
        value = load_json(data, "x")
        parse_manifest(value)
    except BundleError:
        return
    pytest.fail(f"{value} was taken for a manifest")
