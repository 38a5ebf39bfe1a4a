"""Checkpoints of a run: folders checkpoint-N that are whole or not there.

state.json: recipe, step, seed, settings. trained.safetensors: the trained parameters. optimiser.safetensors: what AdamW
keeps of each. average.safetensors: the weights' average, where there is one. Nothing in them is pickled.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ondevice.base.publish import published, system
from ondevice.errors import CheckpointError, OutputError, UsageError
from ondevice.train.average import Average
from ondevice.train.records import FIX, FORMAT, read_state

NAME = re.compile(r"checkpoint-(\d{1,12})")
STATE, TRAINED, OPTIMISER, AVERAGE = "state.json", "trained.safetensors", "optimiser.safetensors", "average.safetensors"
LATEST = "latest"


class Checkpoints:
    """Those of an output folder.

    Args:
        folder: the output folder.
        limit: how many are kept; None: all.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self._folder, self._limit = folder, limit

    def all(self) -> list[Path]:
        """Those that are there, by their steps."""
        found = {int(match[1]): path for path in self._folder.iterdir() if (match := NAME.fullmatch(path.name))}
        return [found[step] for step in sorted(found) if (found[step] / STATE).is_file()]

    def has(self, step: int) -> bool:
        """Whether there is one of a step."""
        return self._folder / f"checkpoint-{step}" in self.all()

    def asked(self, name: str | None) -> Path | None:
        """The checkpoint that a name or a path means; None where none is meant, or the latest of none.
        Raises UsageError for one that is not there."""
        if name is None:
            return None
        there = self.all()
        if name == LATEST:
            return there[-1] if there else None
        path = self._folder / Path(name).name
        if path not in there:
            known = ", ".join(one.name for one in there) or "none"
            what = f"there is no such checkpoint in {self._folder} (there are: {known})."
            raise UsageError(what, where=f"--resume_from_checkpoint {name}", fix="name one of these, or latest")
        return path

    def state(self, path: Path, recipe: str) -> dict[str, Any]:
        """What a checkpoint says of itself (records.py). Raises CheckpointError where it is damaged, or of another
        recipe."""
        return read_state(path / STATE, recipe)

    def keep(
        self,
        state: Mapping[str, Any],
        trained: Mapping[str, torch.nn.Parameter],
        average: Average | None,
        optimiser: Any,
        scaler: Any,
        beside: Callable[[Path], object] | None = None,
    ) -> Path:
        """Write a checkpoint, and remove those beyond the limit. Raises OutputError where the system refuses."""
        path = self._folder / f"checkpoint-{state['step']}"
        about = {"format": FORMAT, **state, "averaged": average.steps if average else None}
        about["scaler"] = scaler.state_dict() if scaler is not None else None
        kept = {
            f"{index}.{key}": value.detach().cpu()
            for index, values in optimiser.state_dict()["state"].items()
            for key, value in values.items()
        }
        with published(path, OutputError) as folder:
            save_file({name: one.detach().cpu().contiguous() for name, one in trained.items()}, folder / TRAINED)
            save_file(kept, folder / OPTIMISER)
            if average is not None:
                save_file({name: one.cpu() for name, one in average.values.items()}, folder / AVERAGE)
            if beside is not None:
                beside(folder)
            (folder / STATE).write_text(json.dumps(about, indent=1) + "\n", "utf-8")
        there = self.all()
        later = there.index(path) + 1  # from there on they are an older run's, and go first
        for old in (there[later:] + there[:later])[: -self._limit] if self._limit else ():
            with system(str(old), OutputError):
                (old / STATE).unlink()  # what is half removed is none
                shutil.rmtree(old)
        return path

    def restore(
        self,
        path: Path,
        about: Mapping[str, Any],
        trained: Mapping[str, torch.nn.Parameter],
        average: Average | None,
        optimiser: Any,
        scaler: Any,
    ) -> None:
        """Give a checkpoint's values to a run that begins; `about`: its `state`.

        Raises:
            CheckpointError: it is damaged, or of a run that trained other parameters.
        """
        _fill(trained, _loaded(path / TRAINED), path / TRAINED)
        if average is not None:
            if about["averaged"] is None:
                raise CheckpointError("it holds no average of weights.", where=str(path), fix="leave out --use_ema")
            _fill(average.values, _loaded(path / AVERAGE), path / AVERAGE)
            average.steps = about["averaged"]
        whole = optimiser.state_dict()
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in _loaded(path / OPTIMISER).items():
            index, _, key = name.partition(".")
            if not index.isdecimal() or int(index) >= sum(len(group["params"]) for group in whole["param_groups"]):
                raise CheckpointError(f"{name} is of no parameter.", where=str(path / OPTIMISER), fix=FIX)
            state.setdefault(int(index), {})[key] = value
        optimiser.load_state_dict(whole | {"state": state})
        if scaler is not None and about["scaler"]:
            scaler.load_state_dict(about["scaler"])


def _loaded(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"it cannot be read ({error}).", where=str(path), fix=FIX) from error


@torch.no_grad()
def _fill(values: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy what was found into `values`, which must be the same ones."""
    if lost := sorted(values.keys() ^ found.keys()):
        what = f"it is of a run that trained other parameters ({lost[0]} is in one of them alone)."
        raise CheckpointError(what, where=str(path), fix="give the settings that it was trained with")
    for name, value in values.items():
        if found[name].shape != value.shape:
            shapes = f"got {list(found[name].shape)}, expected {list(value.shape)}"
            what = f"{name} is of another shape ({shapes})."
            raise CheckpointError(what, where=str(path), fix="give the settings that it was trained with")
        value.copy_(found[name])
