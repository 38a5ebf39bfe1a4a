"""A file that is written appears whole or not at all; folders are in tests/bundle/test_atomic.py."""

import os
import stat

import pytest

from ondevice.publish import published_file


def there(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_takes_the_place_of_the_old_one_when_it_is_whole(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with published_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old" and sorted(there(tmp_path).values()) == [b"new", b"old"]
    assert there(tmp_path) == {"a.bin": b"new"}


@pytest.mark.skipif(os.name == "nt", reason="modes")
def test_who_may_read_it_is_the_umasks_business(tmp_path):
    umask = os.umask(0o027)
    try:
        with published_file(tmp_path / "a.bin"):
            pass
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
@pytest.mark.parametrize("where", ["in the block", "at the rename"])
def test_whatever_is_raised_leaves_the_old_file_and_nothing_else(error, where, tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"old")

    def fails(*_):
        raise error

    with pytest.raises(error), published_file(tmp_path / "a.bin") as file:
        file.write(b"half")
        if where == "in the block":
            fails()
        monkeypatch.setattr(os, "replace", fails)
    assert there(tmp_path) == {"a.bin": b"old"}


def test_a_place_that_cannot_be_written_is_the_systems_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "none" / "a.bin", tmp_path / "file" / "a.bin"):
        with pytest.raises(OSError), published_file(path):
            pytest.fail("never open")
    assert there(tmp_path) == {"file": b""}
