"""What exports in other formats say of themselves: read, and its ports are fed and read from."""

from __future__ import annotations

import functools
import json
import tempfile
from math import prod
from pathlib import Path

import numpy as np

from benchmarks.fuzz.mutate.values import json_value
from benchmarks.fuzz.reader import Reader, holds
from benchmarks.fuzz.readers import small
from ondevice.bundle.format import load_json
from ondevice.diffusion.memory_budget import default_size, latent_sizes
from ondevice.errors import PeerError
from ondevice.export.layout import from_file
from ondevice.export.manifest import MANIFEST, Entry, parse_manifest
from ondevice.export.opened import Export
from ondevice.export.options import FORMATS, Options
from ondevice.export.runner import feeds
from ondevice.export.writing import export

_SMALL = 1 << 16  # numbers of arrays that are made


@functools.cache
def _seeds() -> list[bytes]:
    """Fixed and free sizes, axes in another order, a shape that joins two, a first dimension that is repeated."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, options in (("fixed", Options()), ("free", Options(flags={"dynamic": True}))):
            path = export(small.checkpoint(), Path(folder) / name, FORMATS["onnx"], options, sizes=[(8, 8)])
            found.append((path / MANIFEST).read_bytes())
    changed = json.loads(found[0])
    net = next(entry for entry in changed["entries"] if entry["component"] == "unet")
    net["inputs"]["timestep"]["shape"] = [2]
    batch, channels, height, width = net["shapes"]["sample"]
    net["inputs"]["sample"] |= {"axes": [0, 2, 3, 1], "shape": [batch, height * width, channels], "dtype": "float16"}
    return [*found, json.dumps(changed).encode()]


def _read(data: bytes, folder: Path) -> None:
    for name in json.loads(_seeds()[0])["holds"]:
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"{}")
    manifest = parse_manifest(load_json(data, MANIFEST), folder, tuple(FORMATS))
    for entry in manifest.entries:
        for name in entry.files:
            holds((folder / name).resolve().is_relative_to(folder.resolve()), "a file lies outside")
    found = Export(folder, manifest)
    holds(min(default_size(found)) >= manifest.pipeline.latents.scale, "a picture has no pixels")
    holds(all(min(place) > 0 for place in latent_sizes(found)), "a size is none")
    for place in found.plans:
        sizes = found.usual(place.entry)
        holds(found.entry(place.component, sizes).sizes == place.entry.sizes, "a place is another's")
        shapes = {name: found.port_zeros(place.component, sizes, name).shape for name in place.entry.shapes}
        holds(all(0 not in shape for shape in shapes.values()), "a shape is still free")
        if max((prod(shape) for shape in shapes.values()), default=0) <= _SMALL:
            _feed(place.entry, shapes)
    for name in found.tokenizers:
        found.tokenizer_files(name)


def _feed(entry: Entry, shapes: dict[str, tuple[int, ...]]) -> None:
    """Each port as its file has it, and back."""
    ports = (*entry.inputs.values(), *entry.outputs.values())
    if any(prod(max(size, 1) for size in port.shape) > _SMALL for port in ports):
        return
    fed = feeds(entry, {name: np.zeros(shapes[name], np.float32) for name in entry.inputs})
    for port in entry.inputs.values():
        holds(fed[port.name].ndim == len(port.shape), "an input has another rank than its port")
    for name, port in entry.outputs.items():
        try:
            theirs = np.zeros([max(size, 1) for size in port.shape], port.dtype)
            array = from_file(port, entry.shapes[name], theirs, name)
        except PeerError:
            continue  # of free sizes that are not all 1
        holds(array.ndim == len(entry.shapes[name]), "an output has another rank than ours")


READERS = (Reader("export", _seeds, json_value, _read),)
