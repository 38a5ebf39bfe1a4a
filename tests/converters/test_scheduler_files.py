"""The scheduler's class is model_index.json's, its numbers are scheduler_config.json's;
the index may be absent, damaged or foreign."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import SCHEDULER, tiny_checkpoint, write_folder, write_json
from onnx_files import write_onnx_folder

from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.scheduler_files import read_scheduler

NUMBERS = {"beta_end": 0.012, "steps_offset": 1}
DIFFER = "scheduler_config.json is of {!r} and model_index.json names {}, which is taken, as diffusers does"
NO_PAIR = "model_index.json names no scheduler as [library, class]; the class in scheduler_config.json is taken"


@pytest.mark.parametrize(
    ("index", "own", "name", "note"),
    [
        (None, "DDIMScheduler", "DDIMScheduler", None),
        (None, "FlaxDDIMScheduler", "FlaxDDIMScheduler", None),
        (["diffusers", "DDIMScheduler"], "DDIMScheduler", "DDIMScheduler", None),
        (["diffusers", "FlaxDDIMScheduler"], "DDIMScheduler", "DDIMScheduler", None),
        (["diffusers", "DDIMScheduler"], "FlaxDDIMScheduler", "DDIMScheduler", None),
        (["diffusers.schedulers", "DDIMScheduler"], "DDIMScheduler", "DDIMScheduler", None),
        (["diffusers", "DDIMScheduler"], None, "DDIMScheduler", None),
        (
            ["diffusers", "DDIMScheduler"],
            "PNDMScheduler",
            "DDIMScheduler",
            DIFFER.format("PNDMScheduler", "DDIMScheduler"),
        ),
        (
            ["my_code", "DDIMScheduler"],
            "DDIMScheduler",
            "my_code.DDIMScheduler",
            DIFFER.format("DDIMScheduler", "my_code.DDIMScheduler"),
        ),
        ([None, None], "DDIMScheduler", "DDIMScheduler", NO_PAIR),
        ("DDIMScheduler", "DDIMScheduler", "DDIMScheduler", NO_PAIR),
        (["diffusers", "a\x1b[31m" + "b" * 9000], "DDIMScheduler", "DDIMScheduler", NO_PAIR),
        (["diffusers", "DDIMScheduler", "more"], "DDIMScheduler", "DDIMScheduler", NO_PAIR),
    ],
)
def test_which_class_is_taken(index: Any, own: str | None, name: str, note: str | None, tmp_path: Path) -> None:
    if index is not None:
        write_json(tmp_path / "model_index.json", {"_class_name": "StableDiffusionPipeline", "scheduler": index})
    notes: list[str] = []
    config = NUMBERS if own is None else NUMBERS | {"_class_name": own}
    assert read_scheduler(tmp_path, config, notes) == NUMBERS | {"_class_name": name}
    assert notes == ([note] if note else [])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{", "model_index.json names no scheduler: the JSON is damaged ("),
        (b"[]", "model_index.json names no scheduler: the JSON is no object (got list);"),
        (
            b'{"scheduler": 1, "scheduler": 2}',
            "model_index.json names no scheduler: the JSON has the key 'scheduler' twice;",
        ),
        (b"[" * 100_000, "model_index.json names no scheduler: the JSON is nested too deeply;"),
        (b"{}", NO_PAIR),
    ],
)
def test_an_index_that_cannot_be_read_is_said(data: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_bytes(data)
    notes: list[str] = []
    assert read_scheduler(tmp_path, SCHEDULER, notes) == SCHEDULER
    assert (
        len(notes) == 1
        and notes[0].startswith(why)
        and notes[0].endswith("the class in scheduler_config.json is taken")
    )


def test_folders_of_weights_and_of_graphs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny = tiny_checkpoint()
    write_folder(tmp_path / "weights", tiny)
    write_onnx_folder(tmp_path / "graphs", tiny)
    for kind in ("weights", "graphs"):
        write_json(tmp_path / kind / "model_index.json", {"scheduler": ["diffusers", "LMSDiscreteScheduler"]})
        with caplog.at_level(logging.WARNING, "ondevice"):
            found = open_checkpoint(tmp_path / kind, family="sd14")
        assert found.scheduler == SCHEDULER | {"_class_name": "LMSDiscreteScheduler"}
        assert (
            f"{kind}: scheduler_config.json is of 'PNDMScheduler' and model_index.json names LMSDiscreteScheduler"
            in caplog.text
        )
