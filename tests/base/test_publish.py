"""A file that is written appears whole or not at all; folders are in tests/bundle/test_atomic.py."""

import os
import stat
import subprocess
import sys

import pytest

from ondevice.base.publish import PARTIAL, hidden, published, published_file, rename
from ondevice.errors import BundleError


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


def test_a_name_that_must_be_free_goes_to_one_of_several_runs(tmp_path, monkeypatch):
    for link in (False, True):  # a link that leads nowhere is a name, too
        (tmp_path / "taken").symlink_to("nowhere") if link else (tmp_path / "taken").write_bytes(b"old")
        with pytest.raises(FileExistsError), published_file(tmp_path / "taken", replace=False):
            pytest.fail("never open")
        (tmp_path / "taken").unlink()
    ways = {"rename": lambda: None, "link": lambda: monkeypatch.setattr(rename, "_renames", lambda: None)}
    ways["neither"] = lambda: monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
    for way, prepare in ways.items():
        prepare()
        with published_file(tmp_path / way, replace=False) as file:
            file.write(b"first")
        with pytest.raises(FileExistsError), published_file(tmp_path / f"{way} 2", replace=False) as file:
            file.write(b"second")
            (tmp_path / f"{way} 2").write_bytes(b"meanwhile")
    assert there(tmp_path) == dict.fromkeys(ways, b"first") | {f"{way} 2": b"meanwhile" for way in ways}


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("big/real.png")
    (tmp_path / "fresh.png").symlink_to("big/fresh.png")
    for name in ("link.png", "fresh.png"):
        with published_file(tmp_path / name) as file:
            file.write(b"new")
        assert (tmp_path / name).is_symlink()
    assert there(tmp_path / "big") == {"real.png": b"new", "fresh.png": b"new"}
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"), published_file(tmp_path / "loop"):
        pytest.fail("never open")


def test_a_device_does_not_become_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"), published_file(tmp_path / "pipe"):
        pytest.fail("never open")


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "ab" + "日" * 84 + ".png"[:1], "a" * 230])
def test_the_longest_names_a_file_system_takes(tmp_path, name):
    with published_file(tmp_path / name) as file:
        file.write(b"new")
    with published(tmp_path / name[::-1]) as folder:
        (folder / "a").write_bytes(b"")
    assert sorted(os.listdir(tmp_path)) == sorted({name, name[::-1]})
    for call in (published_file(tmp_path / f"{name}{'a' * 26}"), published(tmp_path / f"{name}{'a' * 26}")):
        with pytest.raises((OSError, BundleError), match="File name too long"), call:
            pytest.fail("refused before the work")


def ended(claim):
    """What a claim is once its process was killed: its lock has gone."""
    os.close(claim._lock)
    return hidden.Claim.living.pop(claim.path).path


@pytest.mark.skipif(os.name == "nt", reason="locks")
@pytest.mark.parametrize("name", ["a.bin", "é" * 127])
@pytest.mark.parametrize("how", [published_file, published])
def test_what_a_killed_run_left_goes_with_the_next_and_nothing_else_does(tmp_path, how, name, caplog):
    target = tmp_path / name
    claim, file = hidden.claim_file(target)
    file.close()
    dead = [ended(claim), ended(hidden.claim_folder(target))]
    bare = target.with_name(hidden.hidden_name(name, "0" * 8))  # killed before it had made its lock
    bare.mkdir()
    (dead[1] / "new").mkdir()
    (dead[1] / "new" / "half").write_bytes(b"half")
    users = [dead[0].with_name(dead[0].name[:-1] + "!"), dead[0].with_name(dead[0].name[:-16] + "0123456789abcdef")]
    users += [tmp_path / f".{name[:9]}{PARTIAL}1", tmp_path / f".b{dead[0].name[2:]}"]
    for path in users:
        path.write_bytes(b"mine")
    if how is published:
        users += [ended(hidden.claim_folder(tmp_path / f"{name[:-1]}b"))]  # of another target, however alike
    with how(target) as living, how(target):
        assert not any(path.exists() for path in (*dead, bare))
        assert how is published_file or living.exists()
    assert set(tmp_path.iterdir()) == {target, *users}
    assert sorted(caplog.messages) == sorted(f"removed {path}, which a killed run left" for path in (*dead, bare))


def test_a_file_is_not_taken_for_a_leftover_between_its_last_byte_and_its_name(tmp_path, monkeypatch):
    replace = os.replace

    def late(source, target):
        hidden.sweep(tmp_path / "a")  # another run for the same name
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    with published_file(tmp_path / "a") as file:
        file.write(b"new")
    assert there(tmp_path) == {"a": b"new"}


KILLED = """
import os, signal, sys
from pathlib import Path
from ondevice.base.publish import published
with published(Path(sys.argv[1])) as new:
    (new / "half").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_run_that_is_killed_leaves_what_the_next_one_knows(tmp_path):
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")]).returncode == -9
    assert len(os.listdir(tmp_path)) == 1
    with published(tmp_path / "a"):
        pass
    assert os.listdir(tmp_path) == ["a"]


def test_a_hidden_name_that_another_run_took_for_a_leftover_is_given_up(tmp_path, monkeypatch):
    """Between its making and its lock, it looks like one."""
    real, times = hidden._lock, []

    def late(handle):
        times.append(handle)
        if len(times) in (1, 3):
            hidden.remove(next(path for path in tmp_path.iterdir() if PARTIAL in path.name))
        return real(handle)

    monkeypatch.setattr(hidden, "_lock", late)
    with published_file(tmp_path / "a") as file:
        file.write(b"new")
    with published(tmp_path / "b"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["a", "b"] and len(times) == 4
