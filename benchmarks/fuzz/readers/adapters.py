"""Files of adapters, in the names of every layout, for a model of few weights."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
from checkpoint_files import safetensors_bytes, safetensors_header

from benchmarks.fuzz.mutate.chunks import headed
from benchmarks.fuzz.reader import Reader, holds
from benchmarks.fuzz.readers import small
from ondevice.converters.read.adapter_names import modules_of
from ondevice.converters.read.adapters import read_adapter, with_adapters

_WEIGHT = ("text_encoder", "text_model.encoder.layers.0.mlp.fc1")
_CONV = ("unet", "down_blocks.0.resnets.0.conv1")


def _seeds() -> list[bytes]:
    part, module = _WEIGHT
    down, up, kernel = np.ones((2, 4), np.float32), np.ones((8, 2), np.float32), np.ones((4, 4, 3, 3), np.float16)
    dotted, kohya = f"{part}.{module}", "lora_te_" + module.replace(".", "_")
    conv = "lora_unet_" + _CONV[1].replace(".", "_")
    halves = {f"{kohya}.hada_w{n}_{x}": one for n in (1, 2) for x, one in (("a", up), ("b", down))}
    config = {"lora_adapter_metadata": json.dumps({f"{part}.r": 2, f"{part}.lora_alpha": 4})}
    return [
        _file({f"{kohya}.lora_down.weight": down, f"{kohya}.lora_up.weight": up, f"{kohya}.alpha": np.float32(1)}),
        _file({f"{dotted}.lora_A.weight": down, f"{dotted}.lora_B.weight": up}, config),
        _file(halves | {f"{conv}.diff": kernel}),
    ]


def _file(arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    header = ({"__metadata__": metadata} if metadata else {}) | safetensors_header(arrays)
    return safetensors_bytes(header, b"".join(np.asarray(array).tobytes() for array in arrays.values()))


def _read(data: bytes, folder: Path) -> None:
    """What is taken changes weights of the model, each into its own shape."""
    path, base = folder / "f.safetensors", small.checkpoint()
    path.write_bytes(data)
    found = read_adapter(path, modules_of(base))
    holds(0 < found.applied <= found.modules, "more modules were applied than there are")
    changed = with_adapters(base, [str(path)])
    for part, name in itertools.chain(*([(part, name) for name in names] for part, names in found.terms.items())):
        before, after = (one.components[part].weights[name] for one in (base, changed))
        holds(after.numpy().shape == tuple(before.shape.numpy()), f"{name} has another shape")
        (change,) = found.changes[f"{part}/{name}"]
        holds([one.shape for one in change.read()] == list(change.shapes), f"{name} has other factors than it says")


READERS = (Reader("adapter", _seeds, headed, _read),)
