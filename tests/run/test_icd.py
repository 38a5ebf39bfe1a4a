from __future__ import annotations

import os
from pathlib import Path

import pytest

from ondevice.run import icd


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an embedded driver (which needs no other library) and one system driver."""
    system = tmp_path / "system"
    system.mkdir()
    (system / "pocl.icd").write_text("libpocl.so.2\n")
    monkeypatch.setattr(icd, "SYSTEM", system)
    monkeypatch.setattr(icd, "embedded_libraries", lambda: {icd.DRIVER: tmp_path / icd.DRIVER})
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(icd.VARIABLE, raising=False)
    return tmp_path


def vendors() -> dict[str, str]:
    value = os.environ[icd.VARIABLE]
    assert value.endswith("/")
    return {path.name: path.read_text() for path in Path(value).iterdir()}


def test_embedded_and_system_drivers_stand_side_by_side(machine: Path) -> None:
    assert icd.prepare() is None
    assert vendors() == {"ondevice-embedded.icd": f"{machine / icd.DRIVER}\n", "pocl.icd": "libpocl.so.2\n"}


def test_a_path_need_not_be_text(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder whose name is Latin-1."""
    driver = os.fsencode(machine) + b"/caf\xe9.so"
    monkeypatch.setattr(icd, "embedded_libraries", lambda: {icd.DRIVER: Path(os.fsdecode(driver))})
    (machine / "system" / "pocl.icd").write_bytes(driver)
    assert icd.prepare() is None
    folder = Path(os.environ[icd.VARIABLE])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "ondevice-embedded.icd": driver + b"\n",
        "pocl.icd": driver,
    }
    assert len(icd.broken()) == 2 and all("which cannot be loaded" in remark for remark in icd.broken())


def test_a_folder_is_made_once_and_another_when_drivers_change(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    icd.prepare()
    first = os.environ[icd.VARIABLE]
    icd.prepare()
    assert os.environ[icd.VARIABLE] == first
    (machine / "system" / "pocl.icd").unlink()
    icd.prepare()
    assert os.environ[icd.VARIABLE] != first
    assert vendors() == {"ondevice-embedded.icd": f"{machine / icd.DRIVER}\n"}


def test_a_folder_that_a_parent_process_set_is_not_the_users(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(icd.VARIABLE, f"/gone/{icd.PREFIX}0123/")
    assert icd.prepare() is None
    assert "ondevice-embedded.icd" in vendors()


def test_the_users_own_folder_is_left_alone_and_said(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(icd.VARIABLE, "/my/vendors/")
    assert icd.prepare() == "OCL_ICD_VENDORS=/my/vendors/ is set, and only that is used"
    assert os.environ[icd.VARIABLE] == "/my/vendors/"


@pytest.mark.parametrize("blank", [" ", "\t"])
def test_a_folder_with_a_space_in_its_path(machine: Path, monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    """Intel's runtime reads its path from /proc/self/maps, up to the space."""
    folder = machine / f"a{blank}b"
    monkeypatch.setattr(icd, "embedded_libraries", lambda: {icd.DRIVER: folder / icd.DRIVER})
    monkeypatch.setenv(icd.VARIABLE, f"/gone/{icd.PREFIX}0123/")
    assert icd.prepare() == f"{folder} has a space in it, where it does not find its own files"
    assert icd.VARIABLE not in os.environ, "a parent's"
    assert icd.remedy() == "make the virtual environment in a folder whose path has no space"


def test_without_the_extra_the_loader_is_left_to_itself(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icd, "embedded_libraries", dict)
    for inherited in (None, f"/gone/{icd.PREFIX}0123/"):
        if inherited:
            monkeypatch.setenv(icd.VARIABLE, inherited)
        assert icd.prepare() == 'not installed (pip install "ondevice[cpu]")'
        assert icd.VARIABLE not in os.environ


def test_a_library_that_does_not_load_is_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "libimf.so").write_text("not a library")
    monkeypatch.setattr(
        icd, "embedded_libraries", lambda: {icd.DRIVER: machine / icd.DRIVER, "libimf.so": machine / "libimf.so"}
    )
    assert str(icd.prepare()).startswith("libimf.so cannot be loaded: ")
    assert icd.VARIABLE not in os.environ


def test_a_cache_that_cannot_be_written_is_no_obstacle(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "file").write_text("")
    monkeypatch.setenv("ONDEVICE_CACHE", str(machine / "file" / "cache"))
    assert icd.prepare() is None
    assert set(vendors()) == {"ondevice-embedded.icd", "pocl.icd"}
    assert Path(os.environ[icd.VARIABLE]).name.startswith(icd.PREFIX)


def test_where_nothing_can_be_written_the_driver_itself_is_named(
    machine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(**_: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(icd, "cache_dir", lambda: None)
    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    for _ in range(2):  # as a child process that inherits it
        assert icd.prepare() is None and os.environ[icd.VARIABLE] == str(machine / icd.DRIVER)
    assert caplog.messages[0].startswith("pocl.icd: not used, as no folder can be written (")
    assert caplog.messages[0].endswith("; set ONDEVICE_CACHE to one that can be")


def test_libraries_are_found_where_their_package_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "intel_opencl_rt-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: intel-opencl-rt\nVersion: 1\n")
    (info / "RECORD").write_text("lib/libintelocl.so,,\nlib/gone.so,,\n")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / icd.DRIVER).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert icd.embedded_libraries()[icd.DRIVER] == tmp_path / "lib" / icd.DRIVER
