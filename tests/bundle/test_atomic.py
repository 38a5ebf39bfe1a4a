"""All of a bundle or nothing; an old bundle, and anything that is no bundle, is never harmed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle.tiny_bundle import MODEL, tiny_plan, tiny_weights, write_tiny

from ondevice.bundle import TokenizerFiles, WeightSource, open_bundle
from ondevice.errors import BundleError, CheckpointError


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Every path below a folder with its content."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else "folder" for p in sorted(folder.rglob("*"))
    }


@pytest.fixture(params=["new", "replace"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A place for a bundle: free, or taken by an older one."""
    path = tmp_path / "tiny.ondevice"
    if request.param == "replace":
        write_tiny(path, model=MODEL | {"source": "old"})
    return path


def raising(error: BaseException) -> dict[str, WeightSource]:
    def values() -> np.ndarray:
        raise error

    return tiny_weights() | {"picked": WeightSource(values, "i32", (4,))}


@pytest.mark.parametrize(
    "error",
    [CheckpointError("is cut"), MemoryError(), OSError(errno.EIO, "bad disk"), KeyboardInterrupt()],
    ids=lambda e: type(e).__name__,
)
def test_an_error_of_a_weight_leaves_everything_as_it_was(target: Path, error: BaseException) -> None:
    before = snapshot(target.parent)
    with pytest.raises(type(error)) as caught:
        write_tiny(target, weights=raising(error), force=True)
    assert caught.value is error  # its own, not wrapped: the source knows best what is wrong
    assert snapshot(target.parent) == before


def test_ctrl_c_in_the_progress_bar_leaves_everything_as_it_was(target: Path) -> None:
    before = snapshot(target.parent)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tiny(target, progress=stop, force=True)
    assert snapshot(target.parent) == before


REFUSALS: dict[str, Callable[..., Any]] = {"fsync": os.fsync, "rename": os.rename, "mkdir": os.mkdir}


@pytest.mark.parametrize("call", REFUSALS)
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied"),
        KeyboardInterrupt(),
    ],
    ids=["full", "denied", "interrupt"],
)
def test_a_refusal_at_any_system_call_leaves_everything_as_it_was(
    target: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    """The n-th call fails, for every n until the bundle is written."""
    before = snapshot(target.parent)
    real = REFUSALS[call]
    for n in range(60):
        left = n

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == -1:
                raise error
            return real(*args, **kwargs)

        monkeypatch.setattr(os, call, counted)
        try:
            write_tiny(target, force=True)
        except (BundleError, KeyboardInterrupt) as caught:
            monkeypatch.undo()
            assert type(caught) is (BundleError if isinstance(error, OSError) else KeyboardInterrupt)
            after = snapshot(target.parent)
            if after != before:  # only where the new bundle is in place already, whole
                assert [p.name for p in target.parent.iterdir()] == [target.name]
                open_bundle(target, verify=True)
                return
        else:
            monkeypatch.undo()
            assert n > 0
            open_bundle(target, verify=True)
            assert [p.name for p in target.parent.iterdir()] == [target.name]
            return
    pytest.fail("never got through")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_sigint_in_another_process(target: Path) -> None:
    before = snapshot(target.parent)
    code = """
        import signal, sys, time
        from pathlib import Path
        from bundle.tiny_bundle import tiny_weights, write_tiny
        from ondevice.bundle import WeightSource

        def slow():
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
            print("writing", flush=True)
            time.sleep(60)

        write_tiny(Path(sys.argv[1]), weights=tiny_weights() | {"picked": WeightSource(slow, "i32", (4,))}, force=True)
    """
    tests = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tests)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert any(".partial-" in p.name for p in target.parent.iterdir())
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "KeyboardInterrupt" in stderr
    assert snapshot(target.parent) == before


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE")
@pytest.mark.parametrize("limit", [100, 4000])
def test_a_write_that_the_system_refuses(target: Path, limit: int) -> None:
    """A real refusal in the middle of a file, small (still in the buffer when it is flushed) or large,
    as on a full disk."""
    before = snapshot(target.parent)
    code = """
        import resource, sys
        from pathlib import Path
        from bundle.tiny_bundle import write_tiny
        from ondevice.bundle import TokenizerFiles
        from ondevice.errors import BundleError

        big = {"tiny": TokenizerFiles({"big.txt": bytes(1 << 20)}, 77)}
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
        try:
            write_tiny(Path(sys.argv[1]), tokenizers=big if int(sys.argv[2]) > 1000 else {}, force=True)
        except BundleError as exc:
            print(exc)
    """
    tests = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", textwrap.dedent(code), str(target), str(limit)]
    result = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tests)}, timeout=60, check=False
    )
    assert "cannot be written (File too large). Fix: " in result.stdout, result.stderr
    assert snapshot(target.parent) == before


def test_replacing_needs_force(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "t", model=MODEL | {"source": "old"})
    with pytest.raises(BundleError, match="is there already"):
        write_tiny(path)
    assert open_bundle(path).model["source"] == "old"
    write_tiny(path, force=True)
    assert open_bundle(path, verify=True).model["source"] == "tests"
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_a_damaged_bundle_may_be_replaced(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "t")
    (path / "weights" / "tiny-000.bin").unlink()
    write_tiny(path, force=True)
    open_bundle(path, verify=True)


def make_file(path: Path) -> None:
    path.write_text("mine")


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("mine")


def make_foreign_manifest(path: Path) -> None:
    path.mkdir()
    (path / "bundle.json").write_text('{"format": "iOS bundle", "files": {}}')


def make_broken_manifest(path: Path) -> None:
    path.mkdir()
    (path / "bundle.json").write_text("{")


def make_bundle_with_a_picture(path: Path) -> None:
    write_tiny(path)
    (path / "plans" / "astronaut.png").write_bytes(b"\x89PNG")


def make_bundle_with_a_link(path: Path) -> None:
    write_tiny(path)
    (path / "pictures").symlink_to(path.parent, target_is_directory=True)


MAKERS = [
    make_file,
    make_folder,
    make_foreign_manifest,
    make_broken_manifest,
    make_bundle_with_a_picture,
    make_bundle_with_a_link,
]


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_not_ours_is_never_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "t")
    before = snapshot(tmp_path)
    with pytest.raises(BundleError):
        write_tiny(tmp_path / "t", force=True)
    assert snapshot(tmp_path) == before


def test_an_empty_folder_is_a_free_place(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    open_bundle(write_tiny(tmp_path / "t"), verify=True)


def test_a_full_disk_is_noticed_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(BundleError, match=r"got 1 MB free, expected 2 MB"):
        write_tiny(tmp_path / "t", weights=raising(AssertionError("was read")))
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(BundleError, match="Permission denied"):
            write_tiny(tmp_path / "t")
    finally:
        tmp_path.chmod(0o700)


def test_invalid_input_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    unread = raising(AssertionError("was read"))
    for changes in (
        {"model": {"family": "x"}},
        {"scheduler": {"beta": float("nan")}},
        {"samplers": {"../evil": {}}},
        {"tokenizers": {"tiny": TokenizerFiles({"/etc/passwd": b""}, 77)}},
        {"pipeline": {"gives": "picture"}},
        {"kernels": {}},
        {"plans": []},
        {"plans": [tiny_plan(8), tiny_plan(8)]},
    ):
        with pytest.raises(BundleError):
            write_tiny(tmp_path / "t", **({"weights": unread} | changes))
    with pytest.raises(BundleError, match="no values were given"):
        write_tiny(tmp_path / "t", weights={})
    assert not any(tmp_path.iterdir())


def test_a_hidden_folder_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    """Whatever its process id: a killed writer's number may be ours today."""
    theirs = tmp_path / f".t.partial-{os.getpid()}"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("mine")
    write_tiny(tmp_path / "t")
    with pytest.raises(KeyboardInterrupt):
        write_tiny(tmp_path / "u", weights=raising(KeyboardInterrupt()))
    assert (theirs / "thesis.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == [theirs.name, "t"]


@pytest.mark.skipif(os.name == "nt", reason="permissions")
def test_a_bundle_may_be_read_by_those_that_the_umask_lets(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert write_tiny(tmp_path / "t").stat().st_mode == (tmp_path / "plain").stat().st_mode
