"""The script that ends runs at random moments must notice what it is there for."""

import signal

import pytest
from PIL import Image
from test_benchmarks import benchmark

from ondevice.base.process.signals import SAID
from ondevice.base.publish import hidden
from ondevice.run.cache import KernelCache

kills = benchmark("kills")


def test_damage_under_a_final_name_is_a_fault(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    cache = KernelCache(tmp_path / "cache" / "kernels")
    cache.save("k", b"binary")
    assert kills.damaged(tmp_path, {"a.png", "rows.jsonl"}) == []
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"b"')
    (cache.folder / "k.bin").write_bytes(b"half")
    found = [fault.partition(":")[0] for fault in kills.damaged(tmp_path, {"a.png", "rows.jsonl", "a.npy"})]
    assert found == ["a.npy", "a.png", "rows.jsonl", "kernel k.bin"]


def test_what_is_hidden_is_found_once(tmp_path):
    claim = hidden.claim_folder(tmp_path / "a")
    (claim.path / "new").mkdir()
    inner, file = hidden.claim_file(claim.path / "new" / "b")
    file.close()
    assert kills.hidden(tmp_path) == [claim.path]
    inner.release()
    claim.release()
    assert kills.hidden(tmp_path) == []


@pytest.mark.parametrize(
    "code, said, right",
    [
        (0, "", True),
        (143, f"{SAID}\n", True),
        (143, f"Traceback (most recent call last):\n{SAID}\n", False),
        (143, "", False),
        (-15, "", True),  # before Python ran a line of ours
        (130, f"{SAID}\n", False),
        (1, "Traceback ... ondevice/generate.py", False),
    ],
)
def test_how_a_run_may_end(code, said, right):
    assert (kills.ended_wrong(signal.SIGTERM, code, said) is None) is right
