"""Pack what `ondevice train` wrote as the package holds it: weights in half, and in 8 bits those that lose nothing.

    python -m benchmarks.shapes.pack demo-video/model ondevice/models/demo-video

Of each network that FOLDER has a file of, the model's weights take the place of what is there; configs, tokenizers and
schedulers stay. The 8 bits are F8_E4M3, rounded to nearest (docs/demo_models.md says what that costs).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from ondevice.base.publish import published_file
from ondevice.converters.read.weights_file import read_weights

NARROW = {"UNetSpatioTemporalConditionModel": r"(add|time)_embedding\.linear_.|.*\.(time_emb_proj|attn2\.to_[qk])"}
"""By a network's class, the layers whose weights are stored in 8 bits: embeddings of numbers, which a few values go
into, and the queries and keys of attention to one token, which change nothing."""
ALIGN = 8  # bytes of a file's header


def packed(weights: Mapping[str, np.ndarray], kind: str) -> bytes:
    """The .safetensors file of a network of this class, in the order of names."""
    narrow = re.compile(NARROW.get(kind, "(?!)"))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data, size = list[bytes](), 0
    for name, values in sorted(weights.items()):
        small = narrow.fullmatch(name.removesuffix(".weight")) is not None
        stored = values.astype(np.float32).astype(ml_dtypes.float8_e4m3fn if small else np.float16)
        data.append(stored.tobytes())
        offsets = [size, size := size + stored.nbytes]
        header[name] = {"dtype": "F8_E4M3" if small else "F16", "shape": [*stored.shape], "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGN)
    return len(text).to_bytes(8, "little") + text + b"".join(data)


def pack(model: Path, folder: Path) -> list[Path]:
    """Write the networks of a model's folder over those of the package's; their paths. Raises OnDeviceError."""
    written = []
    for path in sorted(folder.glob("*/*.safetensors")):
        found = read_weights(model / path.relative_to(folder)).tensors
        kind = json.loads((path.parent / "config.json").read_text()).get("_class_name", "")
        with published_file(path) as file:
            file.write(packed({name: tensor.numpy() for name, tensor in found.items()}, kind))
        written.append(path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a folder that `ondevice train` wrote")
    parser.add_argument("folder", type=Path, help="the package's, such as ondevice/models/demo-video")
    args = parser.parse_args()
    for path in pack(args.model, args.folder):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
