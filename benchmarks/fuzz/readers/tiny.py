"""Files of tiny autoencoders, in the names of every layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from checkpoint_files import safetensors_bytes, safetensors_header

from benchmarks.fuzz.mutate.chunks import headed
from benchmarks.fuzz.reader import Reader, holds
from ondevice.converters.architectures.autoencoder_tiny import AUTOENCODER_TINY
from ondevice.converters.families import FAMILIES
from ondevice.converters.read.tiny_files import read_tiny_vae

_CONFIG = {"latent_channels": 4} | {
    key: value
    for half in ("encoder", "decoder")
    for key, value in ((f"{half}_block_out_channels", [2, 2]), (f"num_{half}_blocks", [1, 1]))
}


def _seeds() -> list[bytes]:
    shapes = AUTOENCODER_TINY.weights(AUTOENCODER_TINY.normalize(_CONFIG, "seed"))
    plain = {name: np.ones(shape, np.float16) for name, shape in shapes.items()}
    both: dict[str, np.ndarray] = {"vae_scale": np.ones(1, np.float32)}
    for name, array in plain.items():
        half, _, index, rest = name.split(".", 3)
        both[f"taesd_{half}.{int(index) + (half == 'decoder')}.{rest}"] = array
    return [_file(plain), _file(both)]


def _file(arrays: dict[str, np.ndarray]) -> bytes:
    return safetensors_bytes(safetensors_header(arrays), b"".join(array.tobytes() for array in arrays.values()))


def _read(data: bytes, folder: Path) -> None:
    """What is taken has the weights that its config asks for, each in its shape."""
    path = folder / "f.safetensors"
    path.write_bytes(data)
    found = read_tiny_vae(path, FAMILIES["sd14"])
    wanted = AUTOENCODER_TINY.weights(found.config)
    holds(list(found.weights) == list(wanted), "the weights are not those of the config")
    for name, shape in wanted.items():
        holds(found.weights[name].numpy().shape == shape, f"{name} has another shape")


READERS = (Reader("tiny_autoencoder", _seeds, headed, _read),)
