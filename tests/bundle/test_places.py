"""Where a bundle goes: what is there by the end, who else wants the name, links, and what killed runs left."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle.test_atomic import MAKERS, snapshot
from bundle.tiny_bundle import MODEL, tiny_weights, write_tiny

from ondevice.base import publish
from ondevice.base.publish import rename
from ondevice.base.publish.hidden import Claim
from ondevice.bundle import WeightSource, open_bundle
from ondevice.errors import BundleError


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system on which two names cannot change places in one step."""
    monkeypatch.setattr(rename, "_renames", lambda: None)


@pytest.mark.parametrize("how", ["write", "open"])
def test_an_old_bundle_that_cannot_come_back_is_kept_until_it_can(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_exchange: None, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_tiny(tmp_path / "t", model=MODEL | {"source": "old"})
    real, calls = os.rename, []

    def only_the_first(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        if len(calls) > 2:  # the first finds the place taken, the second moves the old one away
            raise OSError(errno.EIO, "bad disk")
        real(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", only_the_first)
        with pytest.raises(OSError):
            write_tiny(path, force=True)
    (hidden,) = tmp_path.iterdir()
    assert open_bundle(hidden / "old").model["source"] == "old"
    for claim in list(Claim.living.values()):  # the process ends
        os.close(claim._lock or 0)
        Claim.living.pop(claim.path)
    if how == "write":
        with pytest.raises(BundleError, match="is there already"):
            write_tiny(path)
    assert open_bundle(path, verify=True).model["source"] == "old" and [p.name for p in tmp_path.iterdir()] == ["t"]
    assert caplog.messages == [f"t is back where it was: a run that was killed had moved it to {hidden.name}"]


def test_old_and_new_change_places_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny(tmp_path / "t", model=MODEL | {"source": "old"})
    seen: list[str] = []

    def watched(one: Path, other: Path) -> bool:
        seen.append(open_bundle(path).model["source"])
        done = rename.exchange(one, other)
        seen.append(open_bundle(path).model["source"])
        return done

    monkeypatch.setattr(publish, "exchange", watched)
    write_tiny(path, force=True)
    assert seen == ["old", "tests"] and [p.name for p in tmp_path.iterdir()] == ["t"]


def meanwhile(act: Callable[[], Any]) -> dict[str, WeightSource]:
    """Weights that let `act` happen while they are written."""

    def values() -> np.ndarray:
        act()
        return np.arange(4, dtype=np.int32)

    return tiny_weights() | {"picked": WeightSource(values, "i32", (4,))}


@pytest.mark.parametrize("one_step", [True, False])
def test_the_slower_of_two_runs_for_one_name_loses_nothing_of_the_first(
    tmp_path: Path, request: Any, one_step: bool
) -> None:
    if not one_step:
        request.getfixturevalue("no_exchange")
    path = tmp_path / "t"
    with pytest.raises(BundleError, match="is there already") as caught:
        write_tiny(path, weights=meanwhile(lambda: write_tiny(path, model=MODEL | {"source": "first"})))
    assert str(tmp_path) in str(caught.value) and ".partial-" not in str(caught.value)
    assert open_bundle(path, verify=True).model["source"] == "first" and [p.name for p in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("make", MAKERS)
def test_what_a_stranger_puts_there_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], force: bool
) -> None:
    monkeypatch.setattr(publish, "exchange", lambda *_: pytest.fail("it is not even moved"))
    with pytest.raises(BundleError):
        write_tiny(tmp_path / "t", weights=meanwhile(lambda: make(tmp_path / "t")), force=force)
    (tmp_path / "expected").mkdir()
    make(tmp_path / "expected" / "t")
    assert snapshot(tmp_path / "t") == snapshot(tmp_path / "expected" / "t") and (tmp_path / "t").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["expected", "t"]


@pytest.mark.parametrize("one_step", [True, False])
def test_a_picture_saved_into_the_old_bundle_at_the_last_moment_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_step: bool
) -> None:
    """After the look at what is there, before the names change places."""
    path = write_tiny(tmp_path / "t", model=MODEL | {"source": "old"})

    def late(one: Path, other: Path) -> bool:
        (path / "plans" / "astronaut.png").write_bytes(b"\x89PNG")
        return one_step and rename.exchange(one, other)

    monkeypatch.setattr(publish, "exchange", late)
    with pytest.raises(BundleError, match=r"cannot be replaced: plans/astronaut\.png in it is not part of the bundle"):
        write_tiny(path, force=True)
    assert (path / "plans" / "astronaut.png").exists() and json.loads((path / "bundle.json").read_bytes())["model"][
        "source"
    ] == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    real = write_tiny(tmp_path / "disk" / "real", model=MODEL | {"source": "old"})
    (tmp_path / "link").symlink_to("disk/real", target_is_directory=True)
    assert write_tiny(tmp_path / "link", force=True) == real and (tmp_path / "link").is_symlink()
    assert open_bundle(real, verify=True).model["source"] == "tests" and len(list(tmp_path.iterdir())) == 2
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BundleError, match=r"loop: cannot be written .Too many levels of symbolic links"):
        write_tiny(tmp_path / "loop", force=True)


@pytest.mark.parametrize(
    "number, fix",
    [(errno.ENOSPC, "free 2 MB on this disk, or choose"), (errno.EDQUOT, "free 2 MB"), (errno.EIO, "choose")],
)
def test_a_disk_that_fills_up_says_how_much_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fix: str
) -> None:
    """Though there seemed to be room: a quota, or somebody else's file."""

    def full(_: int) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BundleError, match=rf"cannot be written \(refused\)\. Fix: {fix}"):
        write_tiny(tmp_path / "t")
    assert not list(tmp_path.iterdir())
