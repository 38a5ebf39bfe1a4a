"""Mapped files whose pages come and go, and which others cut meanwhile."""

import errno
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from ondevice.bundle import mapped as module
from ondevice.bundle.mapped import AROUND, Mapped
from ondevice.errors import BundleError

BYTES = 6 * AROUND


def resident(path: Path) -> int:
    """Bytes of a file that are in this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    found = 0
    for line in lines:
        if line.endswith(str(path)):
            found += next(int(one.split()[1]) for one in lines if one.startswith("Rss:")) << 10
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "weights.bin"
    np.arange(BYTES // 4, dtype=np.int32).tofile(made)
    return made


def test_pages_come_and_go(path: Path) -> None:
    mapped, page = Mapped(path), mmap.PAGESIZE
    array, start, nbytes = mapped.array().view(np.int32), AROUND + 5, 2 * AROUND
    assert resident(path) == 0
    mapped.fetch(start, nbytes, "w")
    assert nbytes + page <= resident(path) <= nbytes + 2 * AROUND, "every page that a byte of these lies in"
    mapped.expect(5 * AROUND, page)
    mapped.drop(start, nbytes)
    assert resident(path) < AROUND, "others may have come with the last one"
    assert array[-1] == array.size - 1 and not array.flags.writeable
    part = mapped.array(page, 8)
    assert part.nbytes == 8 and part.view(np.int32)[0] == page // 4
    mapped.drop(0, array.nbytes)
    assert resident(path) == 0


def test_long_pieces_come_in_steps_and_take_what_came_with_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = mmap.PAGESIZE
    monkeypatch.setattr(module, "STEP", AROUND // 2)
    mapped = Mapped(path)
    mapped.fetch(0, 2 * AROUND, "w")
    assert resident(path) >= 2 * AROUND
    mapped.drop(0, BYTES)
    mapped.fetch(AROUND + 100 * page, page, "w")  # as the system maps pages before one that is touched
    mapped.fetch(AROUND + 120 * page, page, "w")
    mapped.drop(AROUND + 120 * page, page)
    mapped._advise("MADV_DONTNEED", AROUND + 120 * page, BYTES - AROUND - 120 * page)  # those that came behind it
    assert resident(path) == 0


def test_a_file_is_closed_with_its_mapping(path: Path) -> None:
    def opened() -> int:
        return sum(os.path.realpath(one) == str(path) for one in Path("/proc/self/fd").iterdir())

    mapped = Mapped(path)
    assert opened() > 0
    del mapped
    assert opened() == 0


def test_a_file_that_is_cut_or_written_to_is_refused(path: Path) -> None:
    mapped = Mapped(path)
    os.truncate(path, 4096)
    with pytest.raises(BundleError) as caught:
        mapped.fetch(0, 4096, "weights/unet-000.bin")
    assert str(caught.value) == (
        "weights/unet-000.bin: was cut to 4096 bytes while it was drawn with. Fix: draw again, and leave the bundle "
        "alone meanwhile; convert the checkpoint again if that does not help."
    )
    other = Mapped(path)
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(1, 1))
    with pytest.raises(BundleError, match="w: was changed while it was drawn with"):
        other.fetch(0, 1, "w")


def test_a_file_in_its_place_is_another(path: Path, tmp_path: Path) -> None:
    """What was mapped is still there."""
    mapped = Mapped(path)
    (tmp_path / "new").write_bytes(b"x")
    os.replace(tmp_path / "new", path)
    mapped.fetch(0, 4096, "w")
    assert mapped.array(4, 4).view(np.int32)[0] == 1


def test_pages_that_cannot_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is cut after its size was looked at; or the system knows no such way to fetch."""
    mapped = Mapped(path)
    monkeypatch.setattr(Mapped, "_now", lambda self: self._state)
    mapped.fetch(0, 8192, "w")
    os.truncate(path, 4096)
    mapped.drop(0, 8192)
    mapped.fetch(0, 4096, "w")
    with pytest.raises(BundleError, match=r"w: cannot be read \(it was cut, or the disk failed\)"):
        mapped.fetch(0, 8192, "w")

    class Old:
        def madvise(self, *_: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(mapped, "data", Old())
    mapped.fetch(0, 8192, "w")
