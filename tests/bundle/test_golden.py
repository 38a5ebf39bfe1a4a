"""The golden bundle: what players in other languages are tested on.
`python tests/golden/bundle/bless.py` writes it again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle.adapter_bundle import ADAPTER_CHANGES, USES, changed_weights, write_adapters
from bundle.image_bundle import IMAGE_CHANGES, image_answer, write_images
from bundle.packed_bundle import changed, packed_changes, packed_rows, wide_changes, widened, write_packed
from bundle.picture_bundle import write_picture
from bundle.refusals import MANIFEST_CHANGES, PLAN, PLAN_CHANGES
from bundle.setting import Setting
from bundle.target_bundle import DEVICES, TARGET_CHANGES, write_targets
from bundle.test_ports import PORT_CHANGES
from bundle.tiny_bundle import BIAS, KERNELS, PARTS, PICKED, edit_json, tiny_answer, write_tiny
from reference.adapters import Adapted

from ondevice.bundle import Bundle, open_bundle, writer
from ondevice.bundle.made_file import key_of
from ondevice.errors import BundleError
from ondevice.graph.ranks import SHARE

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bundle"


def expected() -> dict[str, Any]:
    """What a player must read and compute: expected.json."""
    bundle = open_bundle(GOLDEN / "tiny.ondevice", verify=True)
    plans = []
    for entry in bundle.plans:
        x = np.linspace(-4, 4, entry.sizes["width"]).astype(np.float32)
        y = tiny_answer(x).astype(np.float32)
        row = {
            "component": entry.component,
            "sizes": entry.sizes,
            "inputs": {"x": x.tolist()},
            "outputs": {"y": y.tolist()},
            "tolerance": 1e-5,
        }
        plans.append(row)
    kernels = bundle.plan("tiny", width=8).kernels
    sources = {
        dialect: {k.file: bundle.source(k.file, dialect, k.defines) for k in kernels} for dialect in ("metal", "opencl")
    }
    weights = {"tiny/bias": BIAS.tolist(), "picked": PICKED.tolist(), "parts": PARTS.tolist()}
    return {"plans": plans, "weights": weights, "sources": sources}


def expected_images() -> dict[str, Any]:
    """The same of the bundle with images: expected_images.json."""
    bundle = open_bundle(GOLDEN / "images.ondevice", verify=True)
    (entry,) = bundle.plans
    plan, weight = bundle.plan("images", **entry.sizes), bundle.array("images/w")
    x = (np.arange(weight.size) % 37 / 4 - 4.5).reshape(weight.shape)
    row = {
        "component": entry.component,
        "sizes": entry.sizes,
        "inputs": {"x": x.tolist()},
        "outputs": {"y": image_answer(x).tolist()},
        "tolerance": 1e-5,
    }
    sources = {
        dialect: {k.file: bundle.source(k.file, dialect, k.defines) for k in plan.kernels}
        for dialect in ("metal", "opencl")
    }
    return {"plans": [row], "weights": {"images/w": weight.tolist()}, "sources": sources}


def expected_targets() -> dict[str, Any]:
    """Which target's plans a device takes, and which files they are: expected_targets.json."""
    bundle = open_bundle(GOLDEN / "targets.ondevice", verify=True)
    names = [target.name for target in bundle.manifest.targets]
    plans = {name: [entry.file for entry in bundle.for_target(name).plans] for name in names}
    return {"plans": plans, "devices": [device | {"takes": target} for device, target in DEVICES]}


def shares(bundle: Bundle) -> set[str]:
    """The weights that are a device's share of one."""
    return {key for key, row in bundle.manifest.weights.items() if row.made is not None and key_of(row.made) == SHARE}


def expected_adapters() -> list[dict[str, Any]]:
    """The bytes of every weight that adapters change, but for shares of weights, which players leave alone:
    expected_adapters.json."""
    bundle = open_bundle(GOLDEN / "adapters.ondevice", verify=True)
    rows = []
    for used in USES:
        changed = changed_weights(bundle, used)
        values = {key: changed.values(key).tobytes().hex() for key in sorted(changed.keys - shares(bundle))}
        rows.append({"adapters": used, "weights": values})
    return rows


def refused() -> list[dict[str, Any]]:
    """One change per row, after which a reader must refuse tiny.ondevice: refused.json."""
    changes = [("bundle.json", *row) for row in MANIFEST_CHANGES] + [(PLAN, *row) for row in PLAN_CHANGES]
    return [_row(file, change, message) for file, change, message in changes if isinstance(change, Setting) and message]


def _row(file: str, change: Setting, message: str) -> dict[str, Any]:
    also = {"also": [_change(other) for other in change.also]} if change.also else {}
    return {"file": file} | _change(change) | also | {"message": message}


def _change(change: Setting) -> dict[str, Any]:
    return {"path": list(change.path)} | ({} if change.to is ... else {"value": change.to})


def _rows(rows: list[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


def bless(target: Path = GOLDEN) -> None:
    """Write the bundles, what they hold and compute, and what is to be refused.
    The producer's version is left out, as a release changes nothing."""
    version, writer.__version__ = writer.__version__, "golden"
    try:
        write_packed(target / "tiny.odpack")
        write_images(target / "images.ondevice", force=True)
        write_targets(target / "targets.ondevice", force=True)
        write_adapters(target / "adapters.ondevice", force=True)
        write_picture(target / "picture.ondevice", force=True)
    finally:
        writer.__version__ = version
    data = (target / "tiny.odpack").read_bytes()
    (target / "tiny_zip64.odpack").write_bytes(widened(data))
    rows = packed_rows("tiny.odpack", data, packed_changes)
    rows += packed_rows("tiny_zip64.odpack", widened(data), wide_changes)
    (target / "refused_packed.json").write_text(_rows(rows))
    (target / "expected.json").write_text(json.dumps(expected(), indent=1) + "\n")
    (target / "expected_images.json").write_text(json.dumps(expected_images()) + "\n")
    (target / "expected_targets.json").write_text(json.dumps(expected_targets(), indent=1) + "\n")
    (target / "expected_adapters.json").write_text(_rows(expected_adapters()))
    (target / "refused.json").write_text(_rows(refused()))
    (target / "refused_adapters.json").write_text(_rows([_row(*change) for change in ADAPTER_CHANGES]))
    (target / "refused_images.json").write_text(_rows([_row(*change) for change in IMAGE_CHANGES]))
    (target / "refused_targets.json").write_text(_rows([_row(*change) for change in TARGET_CHANGES]))
    (target / "refused_pictures.json").write_text(_rows([_row(*change) for change in PORT_CHANGES]))


def test_golden_files_are_what_is_written_today(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A difference is a change of the format: it needs a new version and a line in docs/bundle.md,
    or it is a mistake."""
    if request.config.getoption("--bless", default=False):
        bless()
    bless(tmp_path)
    written = {p.relative_to(tmp_path): p for p in tmp_path.rglob("*") if p.is_file()}
    kept = {p.relative_to(GOLDEN): p for p in GOLDEN.rglob("*") if p.is_file() and p.suffix not in {".py", ".pyc"}}
    assert written.keys() == kept.keys()
    for name in written:
        assert written[name].read_bytes() == kept[name].read_bytes(), name


def test_adapted_weights_are_what_the_page_says() -> None:
    """By a reading of docs/adapters.md that shares nothing with ours."""
    bundle = open_bundle(GOLDEN / "adapters.ondevice", verify=True)
    adapted = Adapted(
        json.loads((GOLDEN / "adapters.ondevice" / "bundle.json").read_text()), lambda key: bundle.array(key)
    )
    for row in json.loads((GOLDEN / "expected_adapters.json").read_text()):
        found = adapted.changed(row["adapters"])
        assert {key: values.hex() for key, values in found.items()} == row["weights"]
        assert all(found[key] != bundle.array(key).tobytes() for key in found)
        ours = changed_weights(bundle, row["adapters"])
        assert {key: ours.values(key).tobytes().hex() for key in ours.keys - shares(bundle)} == row["weights"]


def test_an_adapter_changes_shares_as_it_changes_the_whole() -> None:
    """Which golden bundles say by a key of their own."""
    bundle = open_bundle(GOLDEN / "adapters.ondevice")
    rows = json.loads((GOLDEN / "adapters.ondevice" / "bundle.json").read_text())["weights"]
    shared = {key for key, row in rows.items() if "share" in row}
    assert len(shared) == 4 and shared == shares(bundle) and not any("made" in rows[key] for key in shared)
    changed = changed_weights(bundle, [("first", 1.0)])
    assert changed.keys >= shared
    rows, panels = changed.values("tiny/rows"), changed.values("tiny/gated").reshape(2, 40, 2, 4)
    gated = panels.transpose(1, 2, 0, 3).reshape(40, 2, 8)[:, :, :7].reshape(40, 14)
    for number in range(2):
        share, of_gated = (changed.values(f"tiny/{name}_{number + 1}of2") for name in ("rows", "gated"))
        np.testing.assert_array_equal(share, rows[:, 3 * number : 3 * number + 3])
        np.testing.assert_array_equal(of_gated[0, :, :7], gated[:, number::2])


def test_expected_json_is_true_of_the_reader() -> None:
    wanted = json.loads((GOLDEN / "expected.json").read_text())
    bundle = open_bundle(GOLDEN / "tiny.ondevice", verify=True)
    for key, values in wanted["weights"].items():
        np.testing.assert_array_equal(bundle.array(key).astype(np.float64), values)
    assert wanted["sources"]["opencl"]["pick"].endswith(KERNELS["pick.cl"])
    assert [(p["component"], p["sizes"]) for p in wanted["plans"]] == [(p.component, p.sizes) for p in bundle.plans]


REFUSED = [
    (write, row)
    for name, write in (
        ("refused.json", write_tiny),
        ("refused_images.json", write_images),
        ("refused_targets.json", write_targets),
        ("refused_adapters.json", write_adapters),
        ("refused_pictures.json", write_picture),
    )
    for row in json.loads((GOLDEN / name).read_text())
]


@pytest.mark.parametrize(
    ("write", "row"), REFUSED, ids=[f"{row['file']}-{'-'.join(map(str, row['path']))}" for _, row in REFUSED]
)
def test_refused_json_is_true_of_the_reader(tmp_path: Path, write: Callable[[Path], Path], row: dict[str, Any]) -> None:
    path = write(tmp_path / "t")
    for change in (row, *row.get("also", ())):
        edit_json(path, row["file"], Setting(tuple(change["path"]), copy.deepcopy(change.get("value", ...))))
    with pytest.raises(BundleError):
        open_bundle(path, verify=True)


@pytest.mark.parametrize("name", ["tiny.odpack", "tiny_zip64.odpack"])
def test_one_file_holds_what_the_folder_does(name: str) -> None:
    bundle, folder = open_bundle(GOLDEN / name, verify=True), open_bundle(GOLDEN / "tiny.ondevice")
    assert bundle.manifest == folder.manifest and bundle.plan("tiny", width=8) == folder.plan("tiny", width=8)
    for file in ("bundle.json", *folder.manifest.files):
        assert bundle.files.read(file) == folder.files.read(file)
    np.testing.assert_array_equal(bundle.array("picked"), PICKED)


@pytest.mark.parametrize(
    "row", json.loads((GOLDEN / "refused_packed.json").read_text()), ids=lambda row: row["what"].replace(" ", "_")
)
def test_changed_files_are_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / row["file"]
    path.write_bytes(changed((GOLDEN / row["file"]).read_bytes(), row))
    with pytest.raises(BundleError) as refusal:
        open_bundle(path)
    assert str(refusal.value).startswith(row["message"])
    assert "Fix: copy the file again, or write it again with `ondevice pack`" in str(refusal.value)
