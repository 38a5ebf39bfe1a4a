"""What the C++ player's fuzz targets begin with is what readers take: from what is refused at once, little comes."""

import io
import json

from PIL import Image

from benchmarks import player_fuzz
from ondevice.bundle import open_bundle
from ondevice.bundle.manifest import parse_manifest
from ondevice.bundle.plan_file import parse_plan
from ondevice.diffusion.samplers.table import SamplerTable
from ondevice.diffusion.tokenizer import Tokenizer


def seeds(name):
    most, make = player_fuzz.TARGETS[name]
    found = list(make())
    assert found and max(map(len, found)) < most
    return found


def test_seeds_of_json_are_read():
    for seed in seeds("manifest"):
        parse_manifest(json.loads(seed))
    for seed in seeds("plan"):
        manifest, plan = map(json.loads, seed.split(b"\0"))
        read = parse_manifest(manifest)
        parse_plan(plan, "plan", read.weights, read.kernels)
    for seed in seeds("sampler"):
        SamplerTable.from_json(json.loads(seed))


def test_seeds_of_other_files_are_read(tmp_path):
    names = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")
    for seed in seeds("tokenizer"):
        *files, text = seed.split(b"\0")
        Tokenizer.from_files({name: data for name, data in zip(names, files, strict=True) if data}).encode(
            text.decode()
        )
    for seed in seeds("packed"):
        (tmp_path / "b.odpack").write_bytes(seed)
        open_bundle(tmp_path / "b.odpack", verify=True)
    (tmp_path / "draw.odpack").write_bytes(player_fuzz.drawn_bundle())
    assert open_bundle(tmp_path / "draw.odpack", verify=True).manifest.pipeline is None
    assert all(len(seed.split(b"\0")) == 2 for seed in seeds("draw"))
    for seed in seeds("png"):
        Image.open(io.BytesIO(seed)).load()
