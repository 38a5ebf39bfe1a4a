"""PyTorch, op by op: diffusers' and transformers' modules as a user of those runs them on a CPU, float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ondevice.converters.component import Component
from ondevice.measure.peers.peer import Loaded, Task

WEIGHTS = "weights.safetensors"


def convert(task: Task, folder: Path, option: str) -> None:
    """The component's weights, and the task, whose config the module is made of."""
    from safetensors.torch import save_file

    from ondevice.measure.peers.modules import weights_of

    save_file(dict(weights_of(task.checkpoint().components[task.part()])), folder / WEIGHTS)
    task.write(folder / "task.json")


def load(folder: Path, inputs: Mapping[str, np.ndarray], threads: int, option: str) -> Loaded:
    """The module on mapped weights."""
    import torch

    from ondevice.measure.peers.modules import arguments, module_of, read_weights

    torch.set_num_threads(threads)
    task = Task.read(folder / "task.json")
    part: Component = task.checkpoint().components[task.part()]
    module, given = module_of(task.component, part, read_weights(folder / WEIGHTS)), arguments(task.component, inputs)

    def run() -> np.ndarray:
        with torch.inference_mode():
            output: np.ndarray = module(*given).numpy()
        return output

    return Loaded(run)
