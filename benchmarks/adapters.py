"""Adapters on a compiled bundle: what a switch takes, and what a step takes before, with and after it; and what the
other way would cost, side operands of low rank in every step.

taskset -c 0 python -m benchmarks.adapters sd14 [--weights int8] [--manifest kohya_sd15_r8] [--work DIR] [--rows FILE]
taskset -c 0 python -m benchmarks.adapters sdxl --count

Weights and adapters are made up, of full size; the adapter has the modules of the published file that the manifest
lists (tests/data/lora), in half. A switch is timed as what the first run after it takes more than later ones, in
wall-clock and in processor seconds of all threads. With --count nothing is run: FLOPs and dispatches that side
operands would add to a step of two passes, counted on the graph, and a product with and without one is timed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.bundle.reader import Bundle, open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.compiler.jobs import largest_jobs
from ondevice.converters import build
from ondevice.converters.families import FAMILIES
from ondevice.converters.random_weights import random_checkpoint
from ondevice.converters.read.adapter_names import modules_of, spellings, split
from ondevice.diffusion.adapters import Adapters, Loaded, changed_keys, open_adapter
from ondevice.graph.adapted import Modules
from ondevice.graph.origin import origin_of
from ondevice.graph.verify import static_shape
from ondevice.lower.provenance import expression_of
from ondevice.lower.stored import leaves_of
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.run.timing import made_up

ROOT = Path(__file__).resolve().parents[1]
MANIFESTS = ROOT / "tests" / "data" / "lora"
DEFAULTS = {"sd14": "kohya_sd15_locon_r8_c4", "sdxl": "kohya_sdxl_r8", "demo": ""}
NETWORK = ("keys_values", "unet")  # components of the UNet's weights: once per text, and in each step
RANK = 8  # where there is no manifest: of every layer
REPEATS = 3


def shapes_of(model: str, manifest: str) -> dict[str, tuple[int, ...]]:
    """The tensors of a published file by name; without one, two factors of each layer of the model."""
    found: dict[str, tuple[int, ...]] = {}
    if manifest:
        lines = gzip.decompress((MANIFESTS / f"{manifest}.txt.gz").read_bytes()).decode().splitlines()
        for name, sizes in (line.split(" ")[:2] for line in lines):
            found[name] = tuple(int(size) for size in sizes.split("x") if size)
        return found
    for part, layers in _modules(model).items():
        for name, module in layers.items():
            if len(module.shape) > 1 and "embedding." not in name:
                found[f"{part}.{name}.lora_A.weight"] = (RANK, *module.shape[1:])
                found[f"{part}.{name}.lora_B.weight"] = (module.shape[0], RANK, *(1 for _ in module.shape[2:]))
    return found


def _modules(model: str) -> Modules:
    return modules_of(random_checkpoint(FAMILIES[model], 0))


def write_adapter(path: Path, shapes: Mapping[str, tuple[int, ...]], seed: int) -> None:
    """A file of these tensors in half; its changes are about a thousandth of a weight."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            values = rng.standard_normal(math.prod(shape), np.float32) * np.float32(0.02)
            file.write((values if shape else np.ones(1, np.float32)).astype(np.float16).tobytes())


def measure(model: str, recipe: Recipe, manifest: str, work: Path) -> dict[str, Any]:
    """Seconds of steps and switches of one bundle."""

    path = work / f"{model}-{recipe.dtype}{recipe.weights}.ondevice"
    if not path.exists():
        compile_bundle(random_checkpoint(FAMILIES[model], 0), path, recipe)
    bundle, files = open_bundle(path), [work / "one.safetensors", work / "two.safetensors"]
    for seed, file in enumerate(files):
        write_adapter(file, shapes_of(model, manifest), seed)
    session = Session(bundle, choose_device("cpu"))
    largest = {name: [entry.sizes for entry in bundle.plans if entry.component == name] for name in NETWORK}
    sizes = {name: max(found, key=lambda one: one["batch"]) for name, found in largest.items()}
    inputs = {name: made_up(bundle.plan(name, **sizes[name])) for name in NETWORK}

    def run(*components: str) -> tuple[float, float]:
        begun = time.perf_counter(), time.process_time()
        for name in components:
            session.run(name, inputs[name], **sizes[name])
        return time.perf_counter() - begun[0], time.process_time() - begun[1]

    def settled() -> dict[str, Any]:
        first, rest = run(*NETWORK), sorted(run("unet") for _ in range(REPEATS))
        step = rest[REPEATS // 2]
        return {"step": step, "switch": tuple(one - other for one, other in zip(first, step, strict=True))}

    run(*NETWORK)  # kernels are built, and weights are read
    rows = {"none": settled()}
    adapters = Adapters(bundle, session)
    for name, file in zip(("first", "second"), files, strict=True):
        begun = time.perf_counter()
        found = open_adapter(bundle, file)
        opened = time.perf_counter() - begun
        adapters.load(found)
        rows[name] = settled() | {"open": opened}
    adapters.unload()
    rows["put back"] = settled()
    changed = sum(bundle.manifest.weights[key].bytes for key in _keys(bundle, found))
    return {"name": f"adapters {path.stem}", "adapter": str(found), "changed_mb": changed / 1e6, "seconds": rows}


def _keys(bundle: Bundle, found: Loaded) -> frozenset[str]:

    return frozenset(
        key for key in changed_keys(bundle, [found]) if key.startswith(tuple(f"{name}/" for name in NETWORK))
    )


def products(model: str) -> Iterator[tuple[str, int, int, int, int]]:
    """(weight, rows, inputs, outputs, taps of the kernel) of every product and convolution of a UNet's step of two
    passes at the training size."""

    made = build(random_checkpoint(FAMILIES[model], 0))
    job = next(job for job in largest_jobs(made, None) if job.component == "unet")
    for node in made.graph("unet", **job.sizes).graph:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if node.op_type not in ("MatMul", "Gemm", "Conv") or weight is None or weight.const_value is None:
            continue
        said = expression_of(origin_of(weight.const_value))
        if said is None:
            continue
        (leaf,) = leaves_of(said)
        out, shape = static_shape(node.outputs[0]), leaf.shape
        rows = math.prod(out) // shape[0]
        yield leaf.weight.removeprefix("unet/").removesuffix(".weight"), rows, shape[1], shape[0], math.prod(shape[2:])


def count(model: str, manifest: str) -> dict[str, Any]:
    """What side operands would add to a step: FLOPs and dispatches, two for each product that has one."""

    names, ranks = spellings(_modules(model)), dict[str, int]()
    for name, shape in shapes_of(model, manifest).items():
        found = split(name)
        for target in names.get(found[0], ()) if found and found[1] == "down" else ():
            if target.part == "unet":
                ranks[target.layer] = shape[0]
    flops = own = touched = 0
    for layer, rows, inputs, outputs, sides in products(model):
        own += 2 * rows * inputs * outputs * sides
        if layer in ranks:
            touched += 1
            flops += 2 * rows * ranks[layer] * (inputs * sides + outputs)
    return {"manifest": manifest, "products": touched, "dispatches": 2 * touched, "flops": flops, "own_flops": own}


def side_product(rows: int, width: int, rank: int, repeats: int = 30) -> dict[str, float]:
    """Milliseconds of x @ w, and of that and (x @ down) @ up added, float32, by this machine's BLAS."""
    rng = np.random.default_rng(0)
    x, w, down, up = (
        rng.standard_normal(shape, np.float32)
        for shape in ((rows, width), (width, width), (width, rank), (rank, width))
    )
    best = {"plain": math.inf, "side": math.inf}
    for _ in range(repeats):
        for name in best:
            begun = time.process_time()
            y = x @ w
            if name == "side":
                y += (x @ down) @ up
            best[name] = min(best[name], time.process_time() - begun)
    return {name: 1e3 * seconds for name, seconds in best.items()}


def main() -> int:
    """Measure or count, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(DEFAULTS))
    parser.add_argument("--dtype", default="f16", choices=("f16", "f32"))
    parser.add_argument("--weights", default="", choices=("", "int8", "int4"))
    parser.add_argument("--manifest", help="of tests/data/lora (default: kohya's of the model)")
    parser.add_argument("--work", type=Path, help="keeps the bundle for the next run")
    parser.add_argument("--rows", type=Path, help="append the row to this file")
    parser.add_argument("--count", action="store_true", help="count what side operands would cost; run nothing else")
    args = parser.parse_args()
    manifest = args.manifest or DEFAULTS[args.model]
    if args.count:
        row = {"name": f"side operands {args.model}", **count(args.model, manifest)}
        row["product_ms"] = {str(shape): side_product(*shape) for shape in ((8192, 320, 8), (2048, 640, 64))}
    else:
        recipe = Recipe(args.dtype, weights={"int8": "i8", "int4": "i4"}.get(args.weights, ""))
        with tempfile.TemporaryDirectory() as folder:
            row = measure(args.model, recipe, manifest, args.work or Path(folder))
    print(json.dumps(row, indent=1))
    if args.rows:
        with args.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
